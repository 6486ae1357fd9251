"""On CPUs OpenVINO runs the model: with torch's vectors, converted once, in the faster arithmetic."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import ctxbatch
from ctxbatch.corpus.records import Record
from ctxbatch.errors import StoreError
from ctxbatch.files import cache_folder
from ctxbatch.model import graphs, precision
from ctxbatch.model.cpu_encoder import CpuEncoder
from ctxbatch.model.encoder import Encoder
from ctxbatch.model.graphs import ConversionError, find_graphs, graphs_folder, import_openvino
from ctxbatch.model.hub import find_model
from ctxbatch.model.openvino_model import OpenVinoModel, half_floats
from ctxbatch.model.resolve import read_tokenizer, resolve
from ctxbatch.run_config import RunConfig
from ctxbatch.store.manifest import Manifest
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.sentences import Sentence
from tests.helpers.conversion import convert_here
from tests.helpers.models import FAMILIES, TEXT, set_tokenizer_option
from tests.helpers.running import command
from tests.helpers.stores import arrow_digests, make_store

# Written without spaces: to a tokenizer that does not know the script, several words are one unknown piece.
THAI = ["สวัสดีครับวันนี้อากาศดีมากเราไปเดินเล่นกันเถอะ"] * 3
OPTIONS = [
    {"salience": True},
    {"top_salient": 2, "pool": "none"},
    {"pool": "first", "static": "lookup", "shift": "difference"},
    {"shift": "asinh", "layers": (1,), "salience_layer": 1, "salience_head": 2},
    {"vectors": ("static",)},
]


def possible(family, options):
    if family == "mpnet" and {"salience", "top_salient", "salience_layer"} & options.keys():
        return False
    return not (family == "electra" and options.get("static") == "lookup")


def batches_of(maker, lines):
    sentences = [Sentence(Record(0, n, None, None, line), 0, line) for n, line in enumerate(lines)]
    return [each for buffer in maker.buffers(sentences) for each in maker.batches(buffer, 400)]


def with_padding(batch, pad_id):
    """Put the padding token into the first window of a batch."""
    ids_BT = batch.input_ids_BT.copy()
    ids_BT.ravel()[batch.starts_V[0] + 2] = pad_id
    return replace(batch, input_ids_BT=ids_BT)


@pytest.mark.parametrize("family", FAMILIES)
def test_openvino_gives_the_vectors_of_torch(family, tiny):
    for options in OPTIONS:
        if not possible(family, options):
            continue
        given = {"dtype": "float32", "tokens_per_batch": 100}
        if options.get("vectors") != ("static",):  # the log ratio has steps, where errors show as a whole
            given |= {"layers": "all", "shift": "asinh", "precision": "fp32"}
        given |= options
        config = resolve(RunConfig(model=str(tiny(family)), **given), "cpu")
        assert config.runtime == "openvino"
        maker = BatchMaker(read_tokenizer(config), config)
        lines = [line for line in TEXT.splitlines() if line]
        lines += [line[: 1 + 7 * n % 40] for n, line in enumerate(2 * lines)]  # short ones share sequences
        batches = batches_of(maker, lines)
        assert any(len(batch.lengths_V) > len(batch.input_ids_BT) for batch in batches)
        dense = batches_of(maker, THAI)
        if family in ("bert", "distilbert", "electra", "mpnet"):
            assert any(len(batch.positions_M) > batch.input_ids_BT.size for batch in dense)
        batches += dense
        # A text can hold the padding token, which some families give no position.
        batches = [batch if n else with_padding(batch, config.pad_id) for n, batch in enumerate(batches)]
        encoder = CpuEncoder(config)
        assert (encoder._model.narrowed is None) == (not config.layers)
        pairs = zip(Encoder(config, "cpu").encode(batches), encoder.encode(batches), strict=True)
        for torchs, ours in pairs:
            assert np.abs(torchs.vectors_CRD - ours.vectors_CRD).max() < 1e-3
            assert (torchs.finite_R == ours.finite_R).all()
            if torchs.kept_R is not None:
                assert (torchs.kept_R == ours.kept_R).all()
            if torchs.salience_N is not None:
                assert np.abs(torchs.salience_N - ours.salience_N).max() < 1e-4


def test_int8_layers_of_an_older_store_are_given_the_mask_that_they_read(tiny, tmp_path):
    ov = import_openvino()
    kinds = {"hidden_0": ([-1, -1, 32], np.float32), "mask": ([-1, -1], bool), "ids": ([-1, -1], np.int64)}
    given = [ov.opset13.parameter(*kind) for kind in kinds.values()]
    for node, name in zip(given, kinds, strict=True):
        node.output(0).get_tensor().set_names({name})
    numbers = ov.opset13.convert(ov.opset13.logical_not(given[1]), "f32")
    layers = ov.Model([ov.opset13.unsqueeze(numbers, ov.opset13.constant(2))], given)
    layers.outputs[0].get_tensor().set_names({"hidden_1"})
    ov.save_model(layers, tmp_path / "layers.xml")
    graphs = find_graphs(find_model(str(tiny()), None))
    model = OpenVinoModel(graphs, "int8", ["hidden_1"], tmp_path / "layers.xml")
    with pytest.raises(StoreError, match="run again with another -o"):
        OpenVinoModel(graphs, "int8", ["hidden_2"], tmp_path / "layers.xml")
    found = model.run(np.array([[5, 6, 0]]), np.array([[0, 1, 0]]), np.array([[0, 0, -1]]))
    assert found["hidden_1"].ravel().tolist() == [0, 0, 1]
    config = resolve(RunConfig(model=str(tiny()), layers=(1,)), "cpu")
    with pytest.raises(StoreError, match="cannot tell windows of a sequence apart"):
        CpuEncoder(config, int8_layers=tmp_path / "layers.xml")


@pytest.mark.parametrize(
    "said",
    [{"max_tokens": 10**5}, {"pad_id": 10**5}, {"n_layers": 9}, {"hidden_size": 64}, {"salience_head": 99}],
)
def test_a_configuration_that_does_not_fit_its_model_is_not_run(said, tiny):
    config = replace(resolve(RunConfig(model=str(tiny()), salience=True), "cpu"), **said)
    for encoder in (CpuEncoder, partial(Encoder, device="cpu")):
        with pytest.raises(StoreError, match=f"says {next(iter(said))} .* run again with another -o"):
            encoder(config)


def test_a_model_whose_tokenizer_allows_shorter_texts_now_is_the_stores_all_the_same(tiny, tmp_path):
    config = resolve(RunConfig(model=str(tiny())), "cpu")
    model = shutil.copytree(tiny(), tmp_path / "model")
    set_tokenizer_option(model, "model_max_length", config.max_tokens - 8)
    CpuEncoder(config, find_model(str(model), None))


def test_half_floats_are_rounded_as_numpy_rounds_them():
    bits = np.random.default_rng(0).integers(0, 1 << 32, (500, 384), np.uint32)
    edges = [0.0, -0.0, 65504, 65519.99, 65520, -1e9, np.inf, -np.inf, np.nan, 5.9e-8, 2.9e-8, 1e-40]
    values = np.vstack([bits.view(np.float32), np.resize(np.float32(edges), (1, 384))])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(half_floats()(values), expected)
    signs = np.signbit(expected) | np.isnan(expected)
    assert (np.signbit(half_floats()(values)) | np.isnan(expected) == signs).all()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("conversions_elsewhere")
def test_a_model_is_converted_once_and_again_where_its_graphs_are_damaged(tiny, cache, caplog, monkeypatch):
    model = find_model(str(tiny()), None)
    caplog.set_level("INFO", "ctxbatch")
    for age in range(2):
        old = cache / "ctxbatch" / "graphs" / f"{age}"
        old.mkdir(parents=True)
        (old / "graphs.json").touch()
        with (old / "layers.bin").open("wb") as file:
            file.truncate(3 << 30)  # sparse
        os.utime(old, (1000 + age, 1000 + age))
    folder = find_graphs(model)
    assert find_graphs(model) == folder == graphs_folder(model)
    assert caplog.text.count("converting") == 1
    assert not (folder.parent / "0").exists()  # the one used least recently makes room
    assert (folder.parent / "1").exists()
    before = (folder / "layers.bin").read_bytes()
    (folder / "layers.bin").write_bytes(b"\0" + before[1:])
    again = mock.Mock(side_effect=convert_here)  # where a second process would import for seconds
    monkeypatch.setattr(graphs, "_convert", again)
    find_graphs(model)
    find_graphs(model)
    assert again.call_count == 1
    assert (folder / "layers.bin").read_bytes() == before


def test_where_openvino_cannot_torch_runs_the_model_and_says_so(tiny, text, tmp_path, monkeypatch, caplog):
    def fail(_model):
        raise ConversionError("this model cannot be converted: no rule for aten::something")

    monkeypatch.setattr("ctxbatch.model.resolve.find_graphs", fail)
    monkeypatch.setattr("ctxbatch.model.cpu_encoder.find_graphs", fail)
    store = make_store(tmp_path / "out", [text], RunConfig(model=str(tiny())))
    assert "no rule for aten::something; torch runs it instead" in caplog.text
    assert store.config.runtime == "torch"
    assert "runtime" not in store.config.as_dict()  # as stores of versions that knew no other
    assert ctxbatch.searcher(store).search("I want an [apple].", 3)


@pytest.mark.parametrize(("ratio", "chosen"), [(1.3, "bf16"), (1.1, "fp32"), (0.6, "fp32")])
def test_the_faster_arithmetic_is_measured_once(ratio, chosen, tiny, cache, monkeypatch, caplog):
    measured = []
    monkeypatch.setattr(precision, "_measured", lambda *_: measured.append(1) or ratio)
    monkeypatch.setattr(precision, "_LEAST_WEIGHTS", 0)
    caplog.set_level("INFO", "ctxbatch")
    for _ in range(2):
        assert resolve(RunConfig(model=str(tiny())), "cpu").precision == chosen
    assert len(measured) == 1
    assert caplog.text.count(f"precision: {chosen} for {tiny()}: bf16 is {ratio:.2f} times as fast") == 1
    assert cache_folder().is_relative_to(cache)


def test_both_are_measured_unless_the_model_is_too_small_to_tell(tiny, cache, monkeypatch):
    assert resolve(RunConfig(model=str(tiny())), "cpu").precision == "fp32"
    assert not list(cache.glob("*/graphs/*/precision-*.json"))
    monkeypatch.setattr(precision, "_LEAST_WEIGHTS", 0)
    resolve(RunConfig(model=str(tiny())), "cpu")
    (kept,) = cache.glob("*/graphs/*/precision-*.json")
    assert 0.01 < json.loads(kept.read_text())["bf16_to_fp32"] < 100


def test_a_store_keeps_the_precision_that_it_was_started_with(tiny, text, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "ctxbatch")
    config = RunConfig(model=str(tiny()), shard_size=300, index=False)
    monkeypatch.setattr("ctxbatch.model.resolve.faster_precision", lambda *_: "bf16")
    ctxbatch.run(text, tmp_path / "out", config)
    before = arrow_digests(tmp_path / "out")
    monkeypatch.setattr("ctxbatch.model.resolve.faster_precision", lambda *_: "fp32")
    for file in (tmp_path / "out" / "shards" / "000001").iterdir():
        file.unlink()
    ctxbatch.run(text, tmp_path / "out", config)
    assert f"taken from {tmp_path / 'out'}: --precision bf16 (the default is fp32)\n" in caplog.text
    assert arrow_digests(tmp_path / "out") == before
    with pytest.raises(StoreError, match="was made with --precision bf16"):
        ctxbatch.run(text, tmp_path / "out", replace(config, precision="fp32"))


def test_a_store_of_a_compiled_model_is_searched_and_says_what_to_do_with_the_rest(tiny, text, tmp_path):
    out = tmp_path / "out"
    config = RunConfig(model=str(tiny()), shard_size=300, index=False, precision="fp32")
    make_store(out, [text], config)
    manifest = Manifest.read(out)
    compiled = replace(
        manifest, config=replace(manifest.config, runtime="torch", compiled=True, shared_sequences=False)
    )
    finished = tmp_path / "finished"
    for folder, shards in ((finished, len(manifest.shards)), (tmp_path / "begun", 0)):
        folder.mkdir()
        compiled.write(folder)
        assert len(ctxbatch.open(folder).commits) == 0 <= shards
    with pytest.raises(StoreError, match="was started with a compiled model, which this version cannot run"):
        ctxbatch.run(text, finished, config)


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    """A folder with a store named out."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "text.txt").write_text(TEXT)
    make_store(folder / "out", [folder / "text.txt"], RunConfig(model=str(tiny()), precision="fp32"))
    return folder


MODULES = "import sys; print({'torch', 'transformers'} & {*sys.modules}, file=sys.stderr)"


@pytest.mark.parametrize(
    "arguments",
    [("search", "out", "I want an [apple].", "-k", "2"), ("layers", "out", "want"), ("stats", "out")],
)
def test_no_command_on_a_store_needs_torch_once_the_graphs_are_there(arguments, stored):
    code = (
        f"import sys; sys.argv = ['ctxbatch', *{arguments}]\nfrom ctxbatch.cli.main import main\n"
        f"try: main()\nfinally: {MODULES}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=stored, check=True
    )
    assert done.stderr.splitlines()[-1] == "set()"


def test_neither_a_run_nor_its_workers_need_torch_once_the_graphs_are_there(tiny, text, tmp_path):
    resolve(RunConfig(model=str(tiny())), "cpu")
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import sys\nclass Refuse:\n    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers'): raise ImportError(f'{name} is not wanted')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(ctxbatch.__file__).parents[1])])
    done = subprocess.run(
        command("run", text, "-o", tmp_path / "out", "--model", tiny(), "--workers", "2"),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 3, done.stderr  # one word of the text is rejected
    assert ctxbatch.open(tmp_path / "out").complete
