"""The index proposes what brute force finds, says truly how much of it, and is whole or not there."""

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig, StoreError
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.search import index, index_build, index_choice, index_files
from ctxbatch.search.exact import normalised
from ctxbatch.search.index import IndexOptions
from ctxbatch.search.searcher import Searcher
from ctxbatch.store.reader import Store
from tests.helpers.brute import QUERIES, cosines, known, query_vectors
from tests.helpers.many_shards import is_killed
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "many.txt"
    lines = [line for line in TEXT.splitlines() if line.strip()]
    path.write_text("".join(f"{lines[n % len(lines)]} {n}\n" for n in range(240)), encoding="utf-8")
    out = tmp_path_factory.mktemp("store") / "out"
    return make_store(out, [path], RunConfig(model=str(tiny()), shard_size=2000, layers=(3, 1)))


def have_small_indexed(patch):
    """Have stores of a few hundred rows indexed, and filters go through the index."""
    patch.setattr(index_build, "SCAN_ROWS", 100)
    patch.setattr(index, "_SCANNED_ROWS", 0)
    patch.setattr(index, "_SCANNED_SHARE", 0)


@pytest.fixture
def small(monkeypatch):
    have_small_indexed(monkeypatch)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """A copy of the store with an index, made although its rows are few; not to be changed."""
    out = tmp_path_factory.mktemp("indexed") / "out"
    shutil.copytree(store.path, out)
    with pytest.MonkeyPatch.context() as patch:
        have_small_indexed(patch)
        report = index_build.build(Store(out), "shift_3")
    assert report.path == out / "index" / "shift_3.faiss"
    return out


@pytest.fixture
def indexed(whole, tmp_path, small):  # noqa: ARG001 (what it sets is wanted)
    """A copy of the store with an index for a test alone."""
    return Store(shutil.copytree(whole, tmp_path / "out"))


def test_the_index_proposes_and_the_exact_cosine_decides(indexed):
    searcher = Searcher([indexed])
    assert not searcher.unindexed()
    found = []
    for query in QUERIES:
        every = cosines(indexed, "shift_3", query_vectors(searcher, query)[0])
        tenth = np.sort(every[known(indexed)])[-10]
        hits = searcher.search(query, 10)
        by_row = dict(zip(indexed.row_ids().tolist(), every, strict=True))
        assert all(abs(by_row[hit.row_id] - hit.score) < 1e-3 for hit in hits)
        found += [by_row[hit.row_id] >= tenth - 1e-6 for hit in hits]
    # Sentences from elsewhere, in a store of few different rows: lists that are not probed hold some of them.
    assert np.mean(found) >= 0.5


def test_as_many_hits_as_there_are_rows_come_back_from_an_index_too(indexed):
    every = Searcher([indexed]).search(QUERIES[0], indexed.n_rows, Filters(unknown=True))
    assert len(every) == indexed.n_rows
    assert len(Searcher([indexed]).search(QUERIES[0], indexed.n_rows)) == known(indexed).sum()


def test_an_index_names_what_it_was_built_from(indexed):
    facts = json.loads((indexed.path / "index" / "shift_3.json").read_text())
    assert facts["rows"] == indexed.n_rows
    assert len(facts["built_from"]) == len(indexed.commits)
    assert 0 < facts["recall_at_10"] <= 1
    assert faiss.read_index(str(indexed.path / "index" / "shift_3.faiss")).ntotal == indexed.n_rows


def test_a_damaged_or_stale_index_is_refused_with_the_command_that_rebuilds_it(indexed):
    from ctxbatch.execution.repair import find_damage

    path = indexed.path / "index" / "shift_3.faiss"
    whole = path.read_bytes()
    command = f"rebuild it with `ctxbatch index {indexed.path} --on shift_3`"
    for content in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
        path.write_bytes(content)
        with pytest.raises(StoreError) as error:
            Searcher([indexed])
        assert command in str(error.value)
        assert command in "".join(damage.text for damage in find_damage(indexed.path))
    path.write_bytes(whole)
    assert list(find_damage(indexed.path)) == []
    facts = read_json(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), {**facts, "built_from": {**facts["built_from"], "0": "another"}})
    with pytest.raises(StoreError, match="was built from other shards than the store has now"):
        Searcher([indexed])


def test_an_interrupted_build_leaves_no_index(indexed, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(index_build, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        index_build.build(indexed, "shift_3")
    searcher = Searcher([indexed])
    assert searcher.unindexed()
    assert len(searcher.search(QUERIES[0])) == 10


def test_few_rows_are_scanned_without_an_index(store):
    report = index_build.build(store, "shift_3")
    assert report.path is None
    assert "searched exactly, no index needed" in str(report)
    assert not (store.path / "index").exists()


def test_what_recall_is_said_is_what_is_found(indexed):
    """Every row as a query, without itself, against brute force."""
    facts = json.loads((indexed.path / "index" / "shift_3.json").read_text())
    found = index_files.open_index(indexed, "shift_3")
    column = indexed.column("shift_3")
    vectors = normalised(column.take(np.arange(indexed.n_rows)))
    every = (vectors @ vectors.T).round(6)
    np.fill_diagonal(every, -np.inf)
    tenth = np.sort(every, axis=1)[:, -10]
    positions, scores = found.nearest(vectors, 11)
    scores[positions == np.arange(indexed.n_rows)[:, None]] = -np.inf
    recall = np.mean(np.sort(scores, axis=1)[:, -10:] >= tenth[:, None] - 2e-6)
    assert recall >= 0.94
    assert abs(recall - facts["recall_at_10"]) <= 0.02


def test_more_memory_gives_a_more_exact_index_and_too_little_is_refused():
    sizes = (4096, 90, 75, 64)
    choices = [index_choice.choose(10**6, 384, IndexOptions(memory=size << 20)) for size in sizes]
    assert [choice.factory for choice in choices] == [
        "OPQ96_384,IVF1024,PQ96x4fsr",
        "OPQ64_384,IVF1024,PQ64x4fsr",
        "OPQ48_384,IVF1024,PQ48x4fsr",
        "OPQ24_384,IVF1024,PQ24x4fsr",
    ]
    assert all(choice.bytes <= size << 20 for choice, size in zip(choices, sizes, strict=True))
    with pytest.raises(InputError, match=r"--memory 10MB is too little .* give --memory \d+MB") as refused:
        index_choice.choose(10**6, 384, IndexOptions(memory=10 << 20))
    needed = int(re.findall(r"give --memory (\d+)MB", str(refused.value))[0]) << 20
    assert index_choice.choose(10**6, 384, IndexOptions(memory=needed)).bytes <= needed


@pytest.mark.parametrize("dimension", [30, 7, 1, 768, 1000])
def test_any_dimension_has_an_index(dimension):
    factory = index_choice.choose(10**6, dimension, IndexOptions()).factory
    assert faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT).d == dimension


def test_a_full_disk_says_so_and_leaves_the_index_that_is_there(indexed, monkeypatch):
    @contextlib.contextmanager
    def full(_):
        yield Path("/dev/full")

    monkeypatch.setattr(index_files, "replacing", full)
    with pytest.raises(OSError, match="No space left on device"):
        index_build.build(indexed, "shift_3")
    monkeypatch.undo()
    assert not Searcher([indexed]).unindexed()


def test_a_run_whose_index_is_too_large_for_the_default_memory_has_finished(
    tiny, text, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    monkeypatch.setattr(index_build, "IndexOptions", lambda: IndexOptions(memory=1000))
    report = ctxbatch.run(text, tmp_path / "out", RunConfig(model=str(tiny())))
    assert report.index is None
    assert ctxbatch.open(tmp_path / "out").complete
    assert re.search(rf"\d+MB or more .* build one with `ctxbatch index {tmp_path}/out`", caplog.text)


def test_an_index_that_cannot_be_built_leaves_the_one_that_is_there(indexed):
    with pytest.raises(
        InputError, match=r"--factory 'IVF4\(PQ2x4\),Flat' cannot be trained: Number of training"
    ):
        index_build.build(indexed, "shift_3", IndexOptions(factory="IVF4(PQ2x4),Flat"))
    assert not Searcher([indexed]).unindexed()


@pytest.mark.usefixtures("small")
def test_a_factory_string_is_taken_or_refused(store, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(store.path, out)
    report = index_build.build(Store(out), "contextual_1", IndexOptions(factory="IVF16,Flat"))
    assert report.recalls.stored >= 0.95
    assert index_files.open_index(Store(out), "contextual_1") is not None
    for wrong in ("HNSW32", "IVF0,Flat", "IVF16,PQ7x4fs", "nonsense", "IVF99999,Flat"):
        with pytest.raises(InputError, match=f"--factory '{wrong}'"):
            index_build.build(Store(out), "contextual_1", IndexOptions(factory=wrong))
    with pytest.raises(InputError, match=r"--factory IVF16,Flat takes \d+KB, more than --memory 1KB"):
        index_build.build(Store(out), "contextual_1", IndexOptions(factory="IVF16,Flat", memory=1000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recall", 1.5), "--recall 1.5 must be above 0 and at most 1"),
        (("--memory", "much"), "--memory 'much' must be a size such as 4MB"),
        (("--memory", "0"), "--memory 0 must be more than 0"),
        (("--factory", "HNSW32"), "--factory 'HNSW32' is no IVF index"),
        (("--layer", 2), "the store holds no shift_2: it has"),
    ],
)
def test_a_wrong_index_command_is_refused_in_one_line(store, cli, options, message):
    result = cli("index", store.path, *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (store.path / "index").exists()


def test_the_words_of_rows_are_as_in_the_store_with_and_without_the_table(indexed, store):
    words = np.array([word.casefold() for word in store.words.to_table(columns=["word"])["word"].to_pylist()])
    for postings in (index_files.open_postings(indexed), index_files.open_postings(store)):
        for word in ("Bank", "THE", "1", "no such word", ""):
            assert postings.positions(word).tolist() == np.flatnonzero(words == word.casefold()).tolist()


def test_a_table_of_words_of_before_is_not_used_and_replaced(indexed, cli):
    """It held casefolded words, so that a word in another spelling was another word."""
    path = indexed.path / "index" / "words.arrow"
    expected = Searcher([indexed]).search("[Don't] you", 5, Filters(same_word=True))
    assert {hit.word for hit in expected} == {"Don't"}
    schema = pa.schema([("word", pa.string()), ("rows", pa.list_(pa.int32()))])
    empty = pa.record_batch([pa.array([], field.type) for field in schema], schema)
    with pa.ipc.new_file(str(path), schema) as writer:
        for _ in indexed.commits:
            writer.write_batch(empty)
    facts = read_json(path.with_suffix(".json"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(path.with_suffix(".json"), {**facts, "bytes": path.stat().st_size, "sha256": digest})
    search = ("search", indexed.path, "[Don't] you", "-k", 5, "--same-word", "--json")
    found = cli(*search)
    assert [json.loads(line)["row_id"] for line in found.stdout.splitlines()] == [h.row_id for h in expected]
    assert found.stderr.count("\n") == 1
    assert f"rebuild it with `ctxbatch index {indexed.path}`" in found.stderr
    assert cli("verify", indexed.path).returncode == 0
    assert cli("index", indexed.path).returncode == 0
    again = cli(*search)
    assert (again.stdout, again.stderr) == (found.stdout, "")


def test_a_damaged_table_of_words_is_refused_and_mended(indexed):
    from ctxbatch.execution.repair import repair_store

    path = indexed.path / "index" / "words.arrow"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"words.arrow is damaged: .*; rebuild it with `ctxbatch index"):
        Searcher([indexed])
    assert repair_store(indexed.path).indexes == ("words",)
    assert Searcher([Store(indexed.path)]).search(QUERIES[0], 3, Filters(same_word=True))


def test_a_killed_build_leaves_an_index_that_the_same_command_makes_whole(store, tmp_path):
    """Killed at every file that it writes, by a signal that nothing can catch; one without parts."""
    out = tmp_path / "out"
    shutil.copytree(store.path, out)
    at = 1
    while is_killed(out, at, "shift_3", "IVF16,Flat"):
        searcher = Searcher([Store(out)])
        assert len(searcher.search(QUERIES[0])) == 10
        at += 1
    assert at > 4
    assert not Searcher([Store(out)]).unindexed()


@pytest.mark.parametrize("name", ["shift_3", "words"])
def test_an_index_whose_facts_are_gone_is_not_passed_over_in_silence(name, indexed, caplog):
    (indexed.path / "index" / f"{name}.json").unlink()
    assert Searcher([Store(indexed.path)]).search(QUERIES[0], filters=Filters(words=("apple",)))
    assert (
        f"{name}.json is missing, so the search reads all rows; rebuild it with `ctxbatch index"
        in caplog.text
    )
