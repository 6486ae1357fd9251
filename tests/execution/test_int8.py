"""int8 layers are made once for a store, kept in it, and measured against fp32 before the run starts."""

import os
import shutil
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.config import INT8_LAYERS
from ctxbatch.execution import int8_model
from ctxbatch.model import quantisation
from ctxbatch.model.fidelity import compare
from ctxbatch.model.word_vectors import WordVectors
from ctxbatch.store.int8_layers import find_layers
from ctxbatch.store.manifest import Manifest
from tests.helpers.running import committed, start, wait_for
from tests.helpers.stores import arrow_digests, rows_of

OPTIONS = ("--precision", "int8", "--shard-size", "2kb", "--no-index", "--force")


@pytest.fixture(scope="module")
def lines(long_text):
    return long_text(400)


@pytest.fixture(scope="module")
def config(tiny):
    return RunConfig(model=str(tiny()), precision="int8", shard_size=2048, index=False, force=True, workers=1)


@pytest.fixture(scope="module")
def reference(lines, config, tmp_path_factory):
    """A finished store; tests copy it before they do it harm."""
    out = tmp_path_factory.mktemp("int8") / "out"
    ctxbatch.run(lines, out, config)
    return out


def layers_of(out):
    return sorted(path.name for path in (out / "model").iterdir())


def copy_of(reference, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(reference, out)
    return out


def test_vectors_are_near_those_of_fp32_and_the_embedding_layer_is_the_same(
    reference, lines, config, tmp_path
):
    ctxbatch.run(lines, tmp_path / "fp32", replace(config, precision="fp32"))
    stores = (ctxbatch.open(out) for out in (reference, tmp_path / "fp32"))
    for one, other in zip(*map(rows_of, stores), strict=True):
        assert np.array_equal(one["static"], other["static"])
        assert not np.array_equal(one["contextual_2"], other["contextual_2"])
        assert np.abs(one["contextual_2"] - other["contextual_2"]).max() < 0.4


def test_a_killed_run_goes_on_with_the_very_same_layers(reference, lines, tiny, tmp_path):
    out = tmp_path / "out"
    arguments = ("run", lines, "-o", out, "--model", tiny(), *OPTIONS)
    process = start(*arguments, "--workers", 2)
    wait_for(lambda: committed(out) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert committed(out) < len(ctxbatch.open(out).manifest.shards)
    process = start(*[each for each in arguments if each not in ("--precision", "int8")], "--workers", 1)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert "quantising" not in errors
    assert f"taken from {out}: --precision int8 (the default is fp32)\n" in errors
    assert layers_of(out) == layers_of(reference)  # also made alike by another process
    assert arrow_digests(out) == arrow_digests(reference)


def test_layers_that_are_missing_or_damaged_are_made_again(reference, lines, config, tmp_path, caplog):
    out = copy_of(reference, tmp_path)
    (path,) = (out / "model").glob("*.bin")
    data = bytearray(path.read_bytes())
    path.unlink()
    with pytest.raises(StoreError, match="int8 layers of the model are missing or damaged: run its"):
        find_layers(out, ctxbatch.open(out).config)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    shutil.rmtree(out / "shards" / "000001")
    caplog.set_level("INFO", "ctxbatch")
    ctxbatch.run(lines, out, config)
    assert "quantising" in caplog.text
    assert arrow_digests(out) == arrow_digests(reference)


def test_layers_that_this_machine_would_make_otherwise_are_not_mixed_in(
    reference, lines, config, tmp_path, monkeypatch
):
    out = copy_of(reference, tmp_path)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "shards" / "000001")
    monkeypatch.setattr(int8_model, "_make_layers", lambda *_: "0" * 64)
    with pytest.raises(StoreError, match="this machine makes others: run again with another -o"):
        ctxbatch.run(lines, out, config)


def test_what_only_reads_never_opens_the_layers(reference, tmp_path, cli):
    out = copy_of(reference, tmp_path)
    shutil.rmtree(out / "model")
    searcher = ctxbatch.searcher(out)
    assert searcher.search("I want an [apple].", 3)
    assert cli("verify", out).returncode == 0
    assert cli("search", out, "I want an [apple].").returncode == 0


def test_a_folder_with_a_model_of_somebody_else_is_no_place_for_a_store(reference, lines, tmp_path, config):
    (tmp_path / "out" / "model").mkdir(parents=True)
    for path in (reference / "model").iterdir():  # as a run leaves them that is killed before its manifest
        shutil.copy(path, tmp_path / "out" / "model")
    ctxbatch.run(lines, tmp_path / "out", replace(config, precision="fp32"))
    (tmp_path / "other" / "model").mkdir(parents=True)
    (tmp_path / "other" / "model" / "config.json").write_text("{}")
    with pytest.raises(StoreError, match=r"contains other files \(model/config.json\) and no store"):
        ctxbatch.run(lines, tmp_path / "other", replace(config, precision="fp32"))


def test_the_fidelity_is_said_and_kept(reference, cli):
    kept = Manifest.read(reference).fidelity
    assert 0 < kept.worst <= 1
    assert 0.9 < kept.cosine <= 1
    assert str(kept) in cli("stats", reference).stdout


def test_a_model_that_keeps_too_few_neighbours_is_refused_unless_forced(
    reference, lines, config, tmp_path, monkeypatch
):
    def copied(plan, *_):
        shutil.copytree(reference / "model", plan.location.folder / "model")
        return ctxbatch.open(reference).config.digests[INT8_LAYERS]

    monkeypatch.setattr(int8_model, "_make_layers", copied)
    monkeypatch.setattr(int8_model, "_WORTH", 1.01)
    with pytest.raises(InputError, match=r"--precision int8 keeps only \d+% of the nearest neighbours"):
        ctxbatch.run(lines, tmp_path / "out", replace(config, force=False))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert ctxbatch.run(lines, tmp_path / "out", replace(config, precision="fp32")).clean


def test_a_store_on_object_storage_holds_its_layers(server, reference, lines, config, tmp_path, monkeypatch):
    def quantised(_graphs, _outputs, _windows, folder):  # as by a process of its own, which takes seconds
        for path in (reference / "model").iterdir():
            shutil.copy(path, folder / f"layers{path.suffix}")
        return folder / "layers.xml"

    monkeypatch.setattr(quantisation, "quantise", quantised)
    server.client().create_bucket(Bucket="int8")
    ctxbatch.run(lines, "s3://int8/out", config)
    server.client().delete_object(Bucket="int8", Key="out/shards/000001/shard.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # as on another machine
    made = []
    monkeypatch.setattr(int8_model, "_make_layers", lambda *_: made.append(1))
    assert ctxbatch.run(lines, "s3://int8/out", config).n_run == 1
    assert not made
    ctxbatch.pull("s3://int8/out", tmp_path / "copy")
    assert arrow_digests(tmp_path / "copy") == arrow_digests(reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": ("cuda:0",)}, "has no such device|--precision int8 needs a CPU"),
        ({"vectors": ("static",)}, "--precision cannot be used with --vectors static"),
    ],
)
def test_what_int8_cannot_do_is_refused(changes, message, lines, config, tmp_path):
    with pytest.raises(InputError, match=message):
        ctxbatch.run(lines, tmp_path / "out", replace(config, **changes))


def test_without_nncf_one_line_names_the_extra(lines, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match=r"needs nncf: pip install 'ctxbatch\[int8\]'"):
        ctxbatch.run(lines, tmp_path / "out", config)


@pytest.mark.parametrize("digest", ["", "../../../etc/passwd", "x" * 64, None])
def test_a_manifest_that_names_no_checksum_of_layers_is_damaged(digest, reference, tmp_path):
    manifest = Manifest.read(reference)
    digests = {**manifest.config.digests, INT8_LAYERS: digest}
    if digest is None:
        del digests[INT8_LAYERS]
    replace(manifest, config=replace(manifest.config, digests=digests)).write(tmp_path)
    with pytest.raises(StoreError, match="its int8 layers have no checksum"):
        ctxbatch.open(tmp_path)


def test_kept_neighbours_are_counted_against_brute_force():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(2, 60, 16)).astype(np.float32)
    other = exact + 0.3 * rng.normal(size=exact.shape).astype(np.float32)
    found = compare(2, [WordVectors(exact, None)], [WordVectors(other, None)])

    def nearest(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        return [set(np.argsort(-row)[:10].tolist()) for row in cosines]

    for kind, share in enumerate((found.contextual, found.difference)):
        pairs = zip(nearest(exact[kind]), nearest(other[kind]), strict=True)
        assert share == pytest.approx(np.mean([len(a & b) for a, b in pairs]) / 10, abs=1e-4)
    assert compare(2, [WordVectors(exact[:, :19], None)], [WordVectors(other[:, :19], None)]) is None
