"""What makes runs fast, without measuring time: devices, memory that runs short, and where time went."""

from dataclasses import replace

import pytest
import torch

import ctxbatch
from ctxbatch.errors import InputError, ResourceError
from ctxbatch.execution.engines import LocalEngine
from ctxbatch.model import devices, gpus, openvino_model, resolve
from ctxbatch.model.devices import choose_devices, choose_workers
from ctxbatch.model.encoder import WordModel
from ctxbatch.model.gpus import Found, Gpu
from ctxbatch.model.graphs import ConversionError
from ctxbatch.run_config import RunConfig
from ctxbatch.store.stats import bottleneck, totals
from tests.helpers.models import PLAIN_TEXT
from tests.helpers.stores import make_store


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(PLAIN_TEXT * 3)
    return path


def options(model, **given) -> RunConfig:
    return RunConfig(model=str(model), precision="fp32", dtype="float32", index=False, **given)


def forget_above(monkeypatch, n_tokens: int) -> None:
    """Make the model run out of memory on batches of more than so many tokens."""
    infer = openvino_model._run

    def limited(request, inputs):
        if inputs[0].shape[0] * inputs[0].shape[1] > n_tokens:
            raise RuntimeError("Check failed: could not allocate 2 GB of memory\nMore lines.")
        return infer(request, inputs)

    monkeypatch.setattr(openvino_model, "_run", limited)


def forget_in_torch_above(monkeypatch, n_tokens: int) -> None:
    """Make torch, in place of OpenVINO, run out of memory on batches of more than so many tokens."""
    forward = WordModel.forward

    def refuse(folder):
        raise ConversionError(f"{folder.name} cannot be converted")

    def limited(self, *, ids_BT, **rest):
        if ids_BT.numel() > n_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")
        return forward(self, ids_BT=ids_BT, **rest)

    monkeypatch.setattr(resolve, "find_graphs", refuse)
    monkeypatch.setattr(WordModel, "forward", limited)


@pytest.mark.parametrize("forget", [forget_above, forget_in_torch_above])
def test_short_memory_halves_the_batches_of_a_shard_and_is_recorded(
    forget, tiny, text, tmp_path, monkeypatch
):
    config = options(tiny(), tokens_per_batch=800, shard_size=1000)
    whole = make_store(tmp_path / "whole", [text], config)
    forget(monkeypatch, 300)
    short = make_store(tmp_path / "short", [text], config)
    assert {commit.tokens_per_batch for commit in short.commits.values()} == {200}
    assert totals(short).shards_short_of_memory == len(short.commits) > 1
    assert totals(whole).shards_short_of_memory == 0
    assert short.words.to_table().num_rows == whole.words.to_table().num_rows
    for one, other in zip(whole.vectors("contextual"), short.vectors("contextual"), strict=True):
        assert abs(one - other).max() < 1e-4


def test_no_memory_for_a_single_window_stops_the_run_in_one_line(tiny, text, tmp_path, monkeypatch):
    forget_above(monkeypatch, 10)
    with pytest.raises(ResourceError, match=r"cpu has no memory for a single window of \d+ tokens") as failed:
        make_store(tmp_path / "out", [text], options(tiny()))
    assert "\n" not in str(failed.value)


def test_a_full_cpu_counts_as_short_memory_and_other_errors_do_not(tiny, text, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("could not create a memory object: failed to allocate 9 bytes")

    monkeypatch.setattr(openvino_model, "_run", fail)
    with pytest.raises(ResourceError, match="failed to allocate 9 bytes"):
        make_store(tmp_path / "full", [text], options(tiny()))

    def defect(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(openvino_model, "_run", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        make_store(tmp_path / "defect", [text], options(tiny()))


def gpu(number, **facts):
    return Gpu(f"cuda:{number}", "A100", bf16=True, packs=True, free_bytes=80 << 30, **facts)


def test_devices_are_those_asked_for_or_all_gpus_or_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "find_gpus", Found)
    assert choose_devices(None) == ["cpu"]
    with pytest.raises(InputError, match="--devices cuda:0: this machine has no such device; there are cpu"):
        choose_devices(["cuda:0"])
    monkeypatch.setattr(devices, "find_gpus", lambda: Found((gpu(0), gpu(1))))
    assert choose_devices(None) == ["cuda:0", "cuda:1"]
    assert choose_devices(["cuda:1"]) == ["cuda:1"]
    assert choose_devices(["cpu"]) == ["cpu"]
    assert choose_workers(3, ["cuda:0", "cuda:1"], 0) == ["cuda:0", "cuda:1", "cuda:0"]
    assert choose_workers(2, ["cpu"], 0) == ["cpu", "cpu"]
    assert set(choose_workers(None, ["cpu"], 0)) == {"cpu"}


def test_a_run_on_different_gpus_computes_as_all_of_them_can(monkeypatch, tiny):
    """Or its bytes would depend on which of them takes a shard."""
    old, newer = (replace(gpu(number), bf16=bf16, packs=False) for number, bf16 in ((1, False), (2, True)))
    monkeypatch.setattr(devices, "find_gpus", lambda: Found((gpu(0), old, newer)))
    for chosen, precision, packed in (
        (["cuda:0"], "bf16", True),
        (["cuda:0", "cuda:2"], "bf16", False),
        (["cuda:0", "cuda:1", "cuda:2"], "fp16", False),
    ):
        config = LocalEngine(chosen).resolve(RunConfig(model=str(tiny())))
        assert (config.precision, config.packed) == (precision, packed)


def test_a_gpu_that_torch_cannot_use_is_left_out_with_the_reason(monkeypatch, caplog):
    monkeypatch.setattr(devices, "find_gpus", lambda: Found((gpu(0, trouble="no kernel image"), gpu(1))))
    assert choose_devices(None) == ["cuda:1"]
    assert "cuda:0: A100 cannot be used: no kernel image" in caplog.text
    with pytest.raises(
        InputError, match="--devices cuda:0: A100 cannot be used: no kernel image; there are cuda:1"
    ):
        choose_devices(["cuda:0"])
    monkeypatch.setattr(devices, "find_gpus", lambda: Found(trouble="the driver is too old"))
    assert choose_devices(None) == ["cpu"]
    assert "this runs on the CPU, though a driver for GPUs is here: the driver is too old" in caplog.text
    with pytest.raises(InputError, match="--devices cuda:0: the driver is too old; there are cpu"):
        choose_devices(["cuda:0"])


def test_with_a_driver_but_a_torch_for_cpus_a_run_says_so(monkeypatch):
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch is built for GPUs")
    monkeypatch.setattr(gpus, "_DRIVERS", ("/",))  # as on a machine with the driver of a GPU
    found = gpus.find_gpus.__wrapped__()
    assert found == Found(
        trouble=f"torch {torch.__version__} is built for CPUs alone; install a build for GPUs"
    )


@pytest.mark.parametrize(
    ("cores", "host", "free", "n_gpus", "batch", "per_gpu"),
    [
        (64, 512, 80, 1, 0, 8),
        (16, 512, 80, 4, 0, 4),
        (16, 32, 80, 2, 0, 5),
        (64, 512, 16, 1, 0, 2),
        (64, 512, 4, 2, 0, 1),
        (2, 4, 80, 4, 0, 1),
        (64, 512, 80, 1, 6, 3),  # as all layers of a large model
        (64, 128, 140, 1, 6, 4),
        (64, 512, 80, 1, 60, 1),
    ],
)
def test_as_many_workers_share_a_gpu_as_cores_and_memory_allow(
    cores, host, free, n_gpus, batch, per_gpu, monkeypatch
):
    found = Found(tuple(replace(gpu(number), free_bytes=free << 30) for number in range(n_gpus)))
    monkeypatch.setattr(devices, "find_gpus", lambda: found)
    monkeypatch.setattr(devices, "count_cores", lambda: cores)
    monkeypatch.setattr(devices, "free_memory", lambda: host << 30)
    names = [each.device for each in found.gpus]
    assert choose_workers(None, names, batch << 30) == names * per_gpu


@pytest.mark.parametrize(
    ("names", "workers", "says"),
    [
        ("gpu", None, "must be cpu or GPUs"),
        ("", None, "must be cpu or GPUs"),
        ("cuda:0,cpu", None, "mixes cpu and GPUs"),
        ("cuda:0,cuda:0", None, "each device once"),
        ("cuda:0,cuda:1", 1, "--workers 1 is below the number"),
    ],
)
def test_devices_that_make_no_sense_are_refused(names, workers, says):
    with pytest.raises(InputError, match=says):
        RunConfig(devices=tuple(names.split(",")), workers=workers)


def test_a_run_says_where_its_time_went(tiny, cli, text, tmp_path):
    ran = cli("run", text, "-o", tmp_path / "out", "--model", tiny(), "--devices", "cpu", "--workers", 1)
    assert ran.returncode == 0, ran.stderr
    found = totals(ctxbatch.open(tmp_path / "out"))
    assert set(found.stages) == {"read", "encode", "write"}
    for stage in found.stages.values():
        assert stage["busy"] > 0
    encode = found.stages["encode"]
    # One worker's encoder, from start to end; all are rounded to milliseconds, and the run is short.
    assert sum(encode.values()) <= found.seconds * 1.01 + 0.005
    stats = cli("stats", tmp_path / "out")
    assert "s at work" in stats.stdout
    assert "would" in stats.stdout.split("bottleneck")[1].splitlines()[0]


def test_the_bottleneck_is_named_with_what_to_change():
    def named(busy: float, starved: float, blocked: float) -> str | None:
        return bottleneck({"encode": {"busy": busy, "starved": starved, "blocked": blocked}}, "another GPU")

    assert "another GPU" in named(95, 3, 2)
    assert named(95, 3, 2).startswith("the model: encoding is at work 95%")
    assert named(50, 40, 10).startswith("reading: encoding waits 40%")
    assert "--workers" in named(50, 40, 10)
    assert named(50, 10, 40).startswith("writing: encoding waits 40%")
    assert "--vectors" in named(50, 10, 40)
    assert bottleneck({}, "another GPU") is None
