"""What can be shown of a GPU without one: a GPU that computes nothing, and copies that are late or fail."""

import contextlib
import json
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode

from ctxbatch.errors import ResourceError
from ctxbatch.execution import pipeline
from ctxbatch.model import resolve
from ctxbatch.model.encoder import Encoder
from ctxbatch.model.families import FAMILIES
from ctxbatch.model.transfers import CpuTransfers, GpuTransfers
from ctxbatch.model.word_vectors import OutOfMemoryError
from ctxbatch.run_config import RunConfig
from ctxbatch.store.stats import totals
from tests.helpers.fake_gpu import FAKE_BUDGET, OPTIONS, PACKED_FAMILIES, batches_of, configured, is_possible
from tests.helpers.stores import arrow_digests, make_store


@pytest.fixture(scope="module")
def seen(tiny):
    """What a process with a fake GPU has seen of all families."""
    if Version(torch.__version__) < Version("2.13"):
        pytest.skip("torch can be given a device of Python's own from 2.13 on")
    models = [str(each) for family in FAMILIES for each in (family, tiny(family))]
    command = [sys.executable, "-m", "tests.helpers.fake_gpu", *models]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_a_batch_is_computed_on_the_gpu_and_only_what_is_stored_leaves_it(family, seen, tiny):
    possible = [options for options in OPTIONS if is_possible(family, options)]
    for options, fetched in zip(possible, seen["fetched"][family], strict=True):
        config = configured(tiny(family), options)
        expected = []
        for batch in batches_of(config, FAKE_BUDGET):
            n_rows = len(batch.rows_N)
            n_kept = n_rows if batch.places_R is None else len(batch.places_R)
            vectors = [f"torch.{config.value_type}", [len(config.columns), n_kept, config.hidden_size]]
            expected.append([vectors, ["torch.bool", [n_kept]]])
            if config.salience_layer is not None:
                expected[-1].append(["torch.float32", [n_rows]])
            if batch.places_R is not None:
                expected[-1].append(["torch.int64", [n_kept]])
        assert fetched == expected


def test_what_is_left_behind_on_the_host_would_be_noticed(seen):
    assert "same device" in seen["left behind"]


# --- what copies meet -----------------------------------------------------------------------------


class Copies(CpuTransfers):
    """Copies of a GPU that are there only when they are waited for, and can fail."""

    ahead = 1

    def __init__(self, fails=lambda _: None):
        self.fails = fails
        self.waiting = self.most_waiting = self.freed = self.number = 0
        self.is_at_work = False

    @contextlib.contextmanager
    def at_work(self):
        self.is_at_work = True
        yield
        self.is_at_work = False

    def fetch(self, found):
        assert self.is_at_work
        self.number += 1
        number, arrays = self.number, [tensor.numpy().copy() for tensor in found]
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)

        def wait():
            assert self.is_at_work
            self.waiting -= 1
            self.fails(number)
            return arrays

        return wait

    def free(self):
        self.freed += 1


@pytest.fixture
def gpu(monkeypatch):
    """Have stores made with torch and with copies as a GPU has them."""

    def use(copies):
        def open_encoder(config, device, *_):
            encoder = Encoder(config, device)
            encoder._transfers = copies
            return encoder

        monkeypatch.setattr(pipeline, "open_encoder", open_encoder)
        return copies

    return use


def options(model):
    return RunConfig(model=str(model), precision="fp32", tokens_per_batch=200, shard_size=400)


def test_the_next_batch_is_handed_over_before_the_last_one_is_waited_for(gpu, tiny, text, tmp_path):
    gpu(CpuTransfers())
    plain = make_store(tmp_path / "plain", [text], options(tiny()))
    copies = gpu(Copies())
    late = make_store(tmp_path / "late", [text], options(tiny()))
    assert copies.most_waiting == 2
    assert copies.waiting == 0
    assert arrow_digests(late.path) == arrow_digests(plain.path)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be reported later.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_memory_that_a_library_of_the_gpu_lacks_is_a_lack_of_memory(said, gpu, tiny, text, tmp_path):
    def fail(number):
        if number == 2:
            raise RuntimeError(said)

    copies = gpu(Copies(fail))
    store = make_store(tmp_path / "out", [text], options(tiny()))
    assert copies.freed == 1
    assert totals(store).shards_short_of_memory == 1


def test_what_a_batch_had_computed_is_dropped_before_memory_is_freed(gpu, tiny, text, tmp_path):
    computed = []

    def fail(number):
        if number == 1:
            held = torch.zeros(8)
            computed.append(weakref.ref(held))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    copies = gpu(Copies(fail))
    copies.free = lambda: computed.append(computed[0]())
    make_store(tmp_path / "out", [text], options(tiny()))
    assert computed[1:] == [None]


def test_a_gpu_is_the_current_one_while_it_is_at_work(monkeypatch):
    current = []

    @contextlib.contextmanager
    def device(wanted):
        current.append(wanted)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", lambda wanted: wanted)
    copies = GpuTransfers("cuda:1")
    assert current == []
    with copies.at_work():
        assert current == [torch.device("cuda:1")]
    assert current == []


@pytest.mark.parametrize("which", range(1, 6))
def test_memory_that_is_short_at_any_batch_halves_the_batches_of_its_shard(which, gpu, tiny, text, tmp_path):
    def fail(number):
        if number == which:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")

    copies = gpu(Copies(fail))
    store = make_store(tmp_path / "out", [text], options(tiny()))
    assert copies.freed == 1
    assert sorted({commit.tokens_per_batch for commit in store.commits.values()}) == [100, 200]
    assert totals(store).shards_short_of_memory == 1
    gpu(CpuTransfers())
    plain = make_store(tmp_path / "plain", [text], options(tiny()))
    assert store.words.to_table().num_rows == plain.words.to_table().num_rows


class Values(TorchDispatchMode):
    """Counts the values that Python asks tensors for, for which it would wait on a GPU."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        self.asked += function in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.is_nonzero.default,
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("salience", [False, True])
@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_no_value_of_a_padded_batch_is_waited_for(family, salience, tiny):
    """A fake GPU cannot show it: transformers asks tensors without values for none."""
    config = resolve.resolve(RunConfig(model=str(tiny(family)), precision="fp32", salience=salience), "cpu")
    batches = batches_of(replace(config, shared_sequences=False))
    assert any((batch.lengths_V < batch.input_ids_BT.shape[1]).any() for batch in batches)
    encoder = Encoder(config, "cpu")
    with Values() as values:
        list(encoder.encode(batches))
    assert values.asked == 0


def test_a_gpu_that_is_lost_is_no_lack_of_memory(gpu, tiny, text, tmp_path):
    def fail(_):
        kind = getattr(torch, "AcceleratorError", RuntimeError)  # torch 2.8 and newer have a type for it
        raise kind("CUDA error: unspecified launch failure")

    copies = gpu(Copies(fail))
    with pytest.raises(RuntimeError, match="launch failure"):
        make_store(tmp_path / "out", [text], options(tiny()))
    assert copies.freed == 0


def test_memory_for_not_even_one_window_is_told_in_one_line(gpu, tiny, text, tmp_path):
    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")

    gpu(Copies(fail))
    with pytest.raises(ResourceError, match="has no memory for a single window") as failed:
        make_store(tmp_path / "out", [text], options(tiny()))
    assert "\n" not in str(failed.value)
    assert not isinstance(failed.value, OutOfMemoryError)
