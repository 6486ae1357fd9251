"""What only a GPU can show; left out where there is none."""

import subprocess
import sys

import pytest
import torch

import ctxbatch
from ctxbatch.model import packing
from ctxbatch.run_config import RunConfig
from ctxbatch.store.reader import Store
from ctxbatch.store.stats import totals
from tests.helpers.fake_gpu import PACKED_FAMILIES
from tests.helpers.models import PLAIN_TEXT, make_model
from tests.helpers.parity import compare, mean_cosine
from tests.helpers.stores import arrow_digests, make_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(PLAIN_TEXT * 20)
    return path


def run(text, out, model, devices, **given) -> Store:
    config = RunConfig(model=str(model), index=False, shard_size=4000, **given)
    return make_store(out, [text], config, *devices)


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_a_gpu_agrees_with_the_oracle(family, tiny, oracle, text, tmp_path):
    store = run(
        text, tmp_path / "out", tiny(family), devices=("cuda:0",), precision="fp32", shift="log_ratio"
    )
    facts = compare(store, oracle(family))
    assert facts["excess"] <= 0
    assert facts["shift_excess"] <= 0


def test_a_gpu_gives_the_same_bytes_again_and_nearly_the_cpus(tiny, text, tmp_path):
    one, two = (run(text, tmp_path / name, tiny(), devices=("cuda:0",)) for name in ("one", "two"))
    assert arrow_digests(one.path) == arrow_digests(two.path)
    cpu = run(text, tmp_path / "cpu", tiny(), devices=("cpu",), precision="fp32")
    assert mean_cosine(cpu, one, "contextual") > 0.999


@pytest.mark.parametrize("top_salient", [None, 1, 3])
@pytest.mark.parametrize("budget", [100, 4000])
def test_a_gpu_keeps_the_rows_that_a_cpu_keeps(top_salient, budget, tiny, text, tmp_path):
    given = {"salience": True, "top_salient": top_salient, "layers": "all", "precision": "fp32"}
    stores = [
        run(text, tmp_path / device[:3], tiny(), devices=(device,), tokens_per_batch=budget, **given)
        for device in ("cuda:0", "cpu")
    ]
    gpu, cpu = (store.words.to_table(columns=["row_id", "sentence_id", "word_index"]) for store in stores)
    assert gpu == cpu
    found, expected = (store.words.to_table()["salience"].to_numpy() for store in stores)
    assert abs(found - expected).max() < 1e-4
    assert mean_cosine(stores[1], stores[0], "contextual_1") > 0.999


@pytest.mark.skipif(
    torch.cuda.is_available() and not packing.runs_on("cuda:0"), reason="a GPU or a torch that cannot pack"
)
@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize(("precision", "short"), [("bf16", 0), ("bf16", 12), ("bf16", 64), ("fp16", 64)])
def test_packed_windows_are_close_to_fp32_on_a_cpu(
    family, precision, short, tiny, text, tmp_path, monkeypatch
):
    monkeypatch.setattr(packing, "SHORT", short)
    given = {"layers": "all", "devices": ("cuda:0",), "precision": precision}
    packed = run(text, tmp_path / "packed", tiny(family), **given)
    assert packed.config.packed
    assert totals(packed).padding == 0
    cpu = run(text, tmp_path / "cpu", tiny(family), devices=("cpu",), precision="fp32", layers="all")
    assert packed.words.to_table(columns=["row_id", "word"]) == cpu.words.to_table(columns=["row_id", "word"])
    for column in ("static", "contextual_1", "contextual_3"):
        assert mean_cosine(cpu, packed, column) > 0.999


def test_batches_that_are_too_large_for_a_gpu_are_halved(tmp_path):
    model = make_model(tmp_path / "wide", "bert", intermediate_size=8192)
    text = tmp_path / "long.txt"
    text.write_text(PLAIN_TEXT * 100)
    share = 300e6 / torch.cuda.mem_get_info(0)[1]
    torch.cuda.set_per_process_memory_fraction(share, 0)
    try:
        config = RunConfig(model=str(model), tokens_per_batch=1 << 20, shard_size=1 << 20)
        store = make_store(tmp_path / "out", [text], config, "cuda:0")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    assert totals(store).shards_short_of_memory > 0
    assert totals(store).rows == totals(store).words


def test_a_run_without_options_takes_the_gpu(tiny, text, tmp_path):
    ctxbatch.run(text, tmp_path / "out", RunConfig(model=str(tiny()), index=False))
    (device,) = totals(ctxbatch.open(tmp_path / "out")).devices
    assert device == f"cuda:0 ({torch.cuda.get_device_name(0)})"


def test_who_chooses_a_gpu_does_not_import_torch():
    code = (
        "import ctxbatch, sys; from ctxbatch.execution.engines import LocalEngine;"
        "LocalEngine(('cuda:0',)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
