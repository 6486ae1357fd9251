"""An index is made of parts, a shard each: they are coded once, whatever stops the work, and grow with it."""

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import faiss
import numpy as np
import pytest

import ctxbatch
from ctxbatch import RunConfig, StoreError
from ctxbatch.execution.repair import find_damage, repair_store
from ctxbatch.files import write_json
from ctxbatch.search import index, index_build
from ctxbatch.search.exact import exact, normalised
from ctxbatch.search.index import IndexOptions
from ctxbatch.search.index_files import facts_path, open_index
from ctxbatch.search.index_parts import find_codebook, sampled_shards
from ctxbatch.store.reader import Store
from tests.helpers.models import TEXT
from tests.helpers.stores import arrow_digests

COLUMN = "shift_2"
# Stores of some thousand rows get an index, which is tuned with few queries.
SETTINGS = {
    "index_build.SCAN_ROWS": 10_000,
    "index_tuning._QUERIES": 20,
    "index_tuning._FILTERED_QUERIES": 8,
    "best_scores._ROWS": 200,
    "new_queries._ALTERED": 10,
}
# The same in a process of its own; {} is what it does.
SCRIPT = """
import sys
from ctxbatch.search import best_scores, index_build, index_tuning, new_queries
{}
"""
SCRIPT = SCRIPT.format("\n".join(f"{name} = {value}" for name, value in SETTINGS.items()) + "\n{}")
COMMAND_LINE = SCRIPT.format("from ctxbatch.cli.main import main; sys.argv[0] = 'ctxbatch'; main()")
# Builds the index of a store, and kills itself when it is about to sync its n-th file.
BUILD = SCRIPT.format("""
import os, signal
from ctxbatch.store.reader import Store
writes, real = 0, os.fsync
def fsync(descriptor):
    global writes
    writes += 1
    if writes == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
index_build.build(Store(sys.argv[1]), "shift_2")
""")


def write(path, lines, seed=0):
    words = sorted({word for word in TEXT.split() if word.isalpha() and len(word) < 12})
    chance = random.Random(seed)
    path.write_text("".join(f"{' '.join(chance.choices(words, k=9))} {n}\n" for n in range(lines)))
    return path


def set_all(patch):
    for name, value in SETTINGS.items():
        patch.setattr(f"ctxbatch.search.{name}", value)


@pytest.fixture
def small(monkeypatch):
    """Have some thousand rows indexed, and searches go through the index."""
    set_all(monkeypatch)
    monkeypatch.setattr(index, "_SCANNED_ROWS", 0)
    monkeypatch.setattr(index, "_SCANNED_SHARE", 0)


@pytest.fixture(scope="module")
def corpus(tiny, tmp_path_factory):
    """The options of a run over some 20 shards, of which 16 have rows enough to train on."""
    folder = tmp_path_factory.mktemp("corpus")
    text = write(folder / "text.txt", 1_400)
    options = {"model": str(tiny()), "shard_size": text.stat().st_size // 20, "precision": "fp32"}
    return text, RunConfig(**options, workers=1)


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    """The store without an index; not to be changed."""
    text, config = corpus
    out = tmp_path_factory.mktemp("plain") / "out"
    ctxbatch.run(text, out, replace(config, index=False))
    return out


@pytest.fixture(scope="module")
def whole(plain, tmp_path_factory):
    """The store with an index that was built when it was finished; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    shutil.copytree(plain, out)
    with pytest.MonkeyPatch.context() as patch:
        set_all(patch)
        index_build.build(Store(out), COLUMN)
    return out


def index_digests(out):
    """The checksums of all files of the indexes, without the seconds that a build took."""
    found = {}
    for path in sorted((out / "index").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if path == facts_path(out, COLUMN):
            facts = json.loads(content)
            content = json.dumps({**facts, "seconds": 0, "checksum": ""}).encode()
        found[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return found


def test_merged_parts_are_the_index_to_which_all_rows_are_added(whole):
    store = Store(whole)
    codebook = find_codebook(store, COLUMN)
    added = faiss.clone_index(codebook.empty)
    for vectors in store.vectors("shift"):
        added.add(normalised(vectors))
    merged = codebook.merged(store, store.commits)
    np.testing.assert_array_equal(faiss.serialize_index(merged), faiss.serialize_index(added))
    assert (whole / "index" / f"{COLUMN}.faiss").read_bytes() == faiss.serialize_index(added).tobytes()


def test_a_codebook_is_trained_on_shards_from_all_over_the_store(whole):
    n_shards = len(Store(whole).manifest.shards)
    shards = sampled_shards(n_shards)
    assert [int(shard) for shard in find_codebook(Store(whole), COLUMN).facts.built_from] == shards
    assert len(shards) == 16 < n_shards
    assert max(b - a for a, b in itertools.pairwise([*shards, n_shards])) <= 2


@pytest.mark.usefixtures("small")
def test_workers_code_shards_while_a_run_goes_on_and_change_no_byte(corpus, whole, tmp_path, monkeypatch):
    """Of the four shards that training does not need, two are held up until the codebook is there."""
    text, config = corpus
    from ctxbatch.execution import index_ahead, local_pool

    out, real = tmp_path / "out", local_pool.Pool._hand_out

    def hand_out(self, dispatch):
        if len(dispatch) <= 4:  # the rest waits for the process that trains
            wait_until((out / "index" / f"{COLUMN}.parts" / "codebook.json").exists)
        real(self, dispatch)

    waited = []
    monkeypatch.setattr(local_pool.Pool, "_hand_out", hand_out)
    monkeypatch.setattr(
        index_ahead.IndexAhead,
        "wait",
        lambda _: waited.append(len(list(out.glob("index/*.parts/*.codes")))),
    )
    report = ctxbatch.run(text, out, config)
    assert waited[0] >= 2
    assert report.index.rows == Store(out).n_rows
    assert arrow_digests(out) == arrow_digests(whole)
    assert index_digests(out) == index_digests(whole)


@pytest.mark.usefixtures("small")
def test_parts_of_a_run_end_with_the_same_index(corpus, whole, tmp_path):
    text, config = corpus
    out = tmp_path / "out"
    for part in ((2, 2), (1, 2)):
        ctxbatch.run(text, out, replace(config, shard_range=part))
    assert index_build.ensure(Store(out), COLUMN).rows == Store(out).n_rows
    assert index_digests(out) == index_digests(whole)


def wait_until(condition):
    for _ in range(6_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never became true")


def test_a_build_that_is_killed_goes_on_and_changes_no_byte(plain, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(plain, out)
    # Two a file: at the facts of the codebook, a part, the table of words, the facts of the index.
    for at in (3, 12, 34, 7):
        done = subprocess.run([sys.executable, "-c", BUILD, str(out), str(at)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert ctxbatch.searcher(out).search("the [bank] of the river")
    done = subprocess.run([sys.executable, "-c", BUILD, str(out), "0"], check=False)
    assert done.returncode == 0
    for path in (out / "index").rglob(".*.tmp"):  # what a run removes
        path.unlink()
    assert index_digests(out) == index_digests(whole)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_index_of_an_undisturbed_one(kills, corpus, whole, tmp_path):
    text, config = corpus
    chance, out = random.Random(kills), tmp_path / "out"
    settings = ["--model", config.model, "--shard-size", config.shard_size, "--precision", "fp32"]
    command = [sys.executable, "-c", COMMAND_LINE, "run", str(text), "-o", str(out), *map(str, settings)]
    for _ in range(kills):
        process = subprocess.Popen(
            [*command, "--workers", chance.choice("12")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(1, 9))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert arrow_digests(out) == arrow_digests(whole)
    assert index_digests(out) == index_digests(whole)


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "another shard's", "list"])
def test_a_damaged_part_is_named_and_made_again_alone(harm, whole, tmp_path, cli):
    out = shutil.copytree(whole, tmp_path / "out")
    part = out / "index" / f"{COLUMN}.parts" / "000003.codes"
    content = part.read_bytes()
    if harm == "changed":
        part.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif harm == "cut":
        part.write_bytes(content[:-1])
    elif harm == "gone":
        part.unlink()
    elif harm == "another shard's":
        shutil.copy(part.with_name("000004.codes"), part)
    else:  # a list that the codebook does not have, with a checksum that fits
        body = content[:32] + b"\xff" + content[33:-32]
        part.write_bytes(body + hashlib.sha256(body).digest())
    found = [damage.text for damage in find_damage(out)]
    assert len(found) == 1
    assert found[0].startswith(f"{part} is missing or damaged; make it again with `ctxbatch verify ")
    assert cli("verify", out).returncode == 3
    before = {path: path.stat().st_mtime_ns for path in (out / "index").rglob("*") if path.is_file()}
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(whole)
    assert {path for path, at in before.items() if path.stat().st_mtime_ns != at} <= {part}
    assert not list(find_damage(out))


def test_a_damaged_index_is_made_again_from_its_parts_without_tuning(whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole, tmp_path / "out")
    path = out / "index" / f"{COLUMN}.faiss"
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(index_build, "tune_all", None)
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(whole)


@pytest.mark.parametrize("gone", ["codebook.f32", "codebook.json"])
@pytest.mark.usefixtures("small")
def test_a_codebook_that_is_gone_is_taken_out_of_the_index(gone, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "index" / f"{COLUMN}.parts" / gone).unlink()
    assert "codebook.f32 is missing, damaged or another" in next(find_damage(out)).text
    assert repair_store(out).indexes == (COLUMN,)
    assert index_digests(out) == index_digests(whole)


@pytest.mark.usefixtures("small")
def test_an_index_that_grows_finds_as_much_as_one_built_anew(corpus, whole, tmp_path):
    _, config = corpus
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    more = write(tmp_path / "more.txt", 700, seed=1)
    parts = out / "index" / f"{COLUMN}.parts"
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    report = ctxbatch.run([more], out, replace(config, append=True))
    store = Store(out)
    assert report.index.rows == store.n_rows > Store(whole).n_rows
    assert {name: (parts / name).read_bytes() for name in before} == before
    assert len(list(parts.glob("*.codes"))) == len(store.commits)
    rng = np.random.default_rng(0)
    queries = normalised(store.column(COLUMN).take(rng.choice(store.n_rows, 400, replace=False)))
    right = exact(store.column(COLUMN), queries, 10, None)[1]

    def recall():
        found = open_index(store, COLUMN).nearest(queries, 10, None, "few")[1]
        return np.mean(found >= right[:, -1:] - 2e-6)

    grown = recall()
    index_build.build(store, COLUMN)
    assert grown > recall() - 0.01


@pytest.mark.usefixtures("small")
def test_growth_that_is_killed_goes_on_and_changes_no_byte(corpus, whole, tmp_path):
    _, config = corpus
    more = write(tmp_path / "more.txt", 100, seed=1)
    outs = [tmp_path / "right", tmp_path / "killed"]
    for out in outs:
        shutil.copytree(whole, out)
        ctxbatch.run([more], out, replace(config, append=True, index=False))
    index_build.ensure(Store(outs[0]), COLUMN)

    def stop(path, content):
        if path == facts_path(outs[1], COLUMN):  # the new file is there, and the old facts
            raise KeyboardInterrupt
        write_json(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            index_build.ensure(Store(outs[1]), COLUMN)
    with pytest.raises(StoreError, match="damaged"):
        open_index(Store(outs[1]), COLUMN)
    index_build.ensure(Store(outs[1]), COLUMN)
    assert index_digests(outs[1]) == index_digests(outs[0])


@pytest.mark.usefixtures("small")
def test_an_index_of_another_kind_has_no_parts(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    index_build.build(Store(out), COLUMN, IndexOptions(factory="IVF16,Flat"))
    assert not (out / "index" / f"{COLUMN}.parts").exists()
    assert not list(find_damage(out))
