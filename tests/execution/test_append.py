"""What is appended to a store is there once, as if it had been there from the beginning, whatever happens."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

import ctxbatch
from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.execution.repair import find_damage
from ctxbatch.sealed import canonical_json, seal
from ctxbatch.search import index_build
from ctxbatch.search.exact import exact, normalised
from ctxbatch.search.index import IndexOptions
from ctxbatch.search.index_files import open_index
from tests.helpers.running import committed, start
from tests.helpers.stores import arrow_digests

# Lines of one length, so that a shard of SHARD_SIZE ends where a file ends.
LINE = "I want the {:>4} cards of bank {:>3}.\n"
LINES, SHARD_SIZE = 120, 40 * len(LINE.format(0, 0))
NAMES = ("b", "a", "c")  # as nobody would sort them


def write(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for name in names:
        begin = 1000 * NAMES.index(name)
        paths.append(folder / f"{name}.txt")
        paths[-1].write_text("".join(LINE.format(begin + n, n % 100) for n in range(LINES)))
    return paths


@pytest.fixture(scope="module")
def config(tiny):
    fields = {"shard_size": SHARD_SIZE, "workers": 1, "append": True, "precision": "fp32", "index": False}
    return RunConfig(model=str(tiny()), **fields)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, so that the names of sources are the same in all."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def appended(out, config, *names):
    """A store to which files were appended one by one."""
    for name in names:
        ctxbatch.run(write(Path("in"), name), out, config)
    return ctxbatch.open(out)


@pytest.fixture(scope="module")
def made(config, quick_indexes, tmp_path_factory):  # noqa: ARG001 (in this folder) (a fixture takes others only so)
    """All files, their store by one run, and a store of the first file with indexes; tests copy them."""
    with contextlib.chdir(tmp_path_factory.mktemp("made")):
        paths = write(Path("in"), *NAMES)
        ctxbatch.run(paths, "whole", config)
        ctxbatch.run(paths[:1], "first", config)
        for column in ("shift_2", "contextual_2-standardised"):
            index_build.build(ctxbatch.open("first"), column, IndexOptions(factory="IVF4,Flat"))
        return Path.cwd()


@pytest.fixture
def whole(folder, made):
    """The same files in one run."""
    shutil.copytree(made, folder.parent, dirs_exist_ok=True)
    return ctxbatch.open("whole")


def test_three_appends_make_the_bytes_of_one_run(whole, config):
    store = appended("out", config, *NAMES)
    assert len(store.manifest.shards) == 9
    plans = ["manifest.json", "plan-0001.json", "plan-0002.json"]
    assert sorted(path.name for path in Path("out").glob("*.json")) == plans
    assert arrow_digests(Path("out")) == arrow_digests(Path("whole"))
    assert store.words.to_table() == whole.words.to_table()
    assert not list(find_damage("out"))


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_and_appends_lose_nothing_and_repeat_nothing(kills, config, cli):
    chance, left = random.Random(kills), kills
    settings = ["--model", config.model, "--shard-size", SHARD_SIZE, "--precision", "fp32", "--append"]
    arguments = ["run", "in", "-o", "out", *settings]
    shutil.rmtree("in")
    for number, name in enumerate(NAMES):
        write(Path("in"), name)
        for _ in range(left // (len(NAMES) - number)):
            process = start(*arguments, "--workers", chance.choice((1, 2)))
            time.sleep(chance.uniform(0.2, 4))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            left -= 1
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
        assert committed(Path("out")) == 3 * (number + 1)
    assert left == 0
    assert arrow_digests(Path("out")) == arrow_digests(Path("whole"))
    assert not list(Path("out").glob(".*.tmp"))
    assert cli("verify", "out").returncode == 0


@pytest.mark.usefixtures("whole")
def test_a_folder_can_be_given_every_night(config, cli):
    settings = ["--model", config.model, "--shard-size", SHARD_SIZE, "--workers", 1, "--append"]
    shutil.rmtree("in")
    for name in NAMES:
        write(Path("in"), name)
        night = cli("run", "in", "-o", "out", *settings)
        assert night.returncode == 0, night.stderr
    assert "appending 1 sources to out, in 3 shards" in night.stderr
    again = cli("run", "in", "-o", "out", *settings)
    assert again.returncode == 0
    assert "no text is left to read" in again.stdout + again.stderr
    without = cli("run", "in", "-o", "out", *settings[:-1])  # the order of names is another one
    assert without.returncode == 0, without.stderr
    assert arrow_digests(Path("out")).keys() == arrow_digests(Path("whole")).keys()
    assert json.loads(cli("status", "out", "--json").stdout)["shards"] == 9


def test_more_inputs_are_refused_without_the_option_which_is_named(folder, config):
    appended("out", config, "b")
    write(folder, "a")
    with pytest.raises(
        StoreError, match=r"in/a.txt is not a source of out, which has 1: add it with --append"
    ):
        ctxbatch.run("in", "out", RunConfig(model=config.model, shard_size=SHARD_SIZE))
    with pytest.raises(InputError, match="--skip-changed says what --append does"):
        RunConfig(skip_changed=True)


def test_a_changed_source_is_refused_or_its_rows_stay(folder, config, caplog):
    before = appended("out", config, "b", "a").words.to_table()
    path = folder / "b.txt"
    path.touch()  # another time alone is no change
    ctxbatch.run("in", "out", config)
    path.write_text(path.read_text().replace("cards", "lards"))
    write(folder, "c")
    with pytest.raises(
        StoreError, match=r"in/b.txt has changed in .* since out was planned: .*--skip-changed"
    ):
        ctxbatch.run("in", "out", config)
    path.write_text("other")
    with pytest.raises(StoreError, match=r"in/b.txt has 5 bytes now, but had \d+ when .*--skip-changed"):
        ctxbatch.run("in", "out", config)
    assert not Path("out/plan-0002.json").exists()
    skipping = RunConfig(**{name: getattr(config, name) for name in ("model", "shard_size", "workers")})
    ctxbatch.run("in", "out", replaced(skipping, append=True, skip_changed=True))
    assert "kept the rows of 1 sources that have changed: in/b.txt has 5 bytes" in caplog.text
    after = ctxbatch.open("out").words.to_table()
    assert after.slice(0, len(before)) == before
    assert len(after) == len(before) * 3 // 2


def replaced(config, **changes):
    return RunConfig(**{"model": config.model, "shard_size": config.shard_size, "workers": 1, **changes})


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_source_that_changes_or_goes_before_its_rows_are_stored_is_named(harm, folder, config):
    appended("out", config, "b", "a")
    shutil.rmtree("out/shards/000004")
    path = folder / "a.txt"
    if harm == "change":
        path.write_text("other")
    else:
        path.unlink()
    write(folder, "c")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"in/a.txt .*, before its rows were stored in out: restore it"):
            ctxbatch.run("in", "out", replaced(config, append=True, skip_changed=True))
    assert not Path("out/plan-0002.json").exists()


def test_another_size_of_shards_is_refused(folder, config):
    ctxbatch.run(write(Path("in"), "b"), "out", RunConfig(model=config.model, workers=1))
    write(folder, "a")
    with pytest.raises(StoreError, match=r"out was made .*--shard-size"):
        ctxbatch.run("in", "out", RunConfig(model=config.model, shard_size=100, append=True))


def test_a_vanished_source_is_reported_and_its_rows_stay(folder, config, caplog):
    appended("out", config, "b", "a")
    (folder / "b.txt").unlink()
    write(folder, "c")
    ctxbatch.run("in", "out", config)
    assert "kept the rows of 1 sources that are gone: in/b.txt" in caplog.text
    assert len(ctxbatch.open("out").manifest.shards) == 9


def test_a_source_under_another_name_is_not_appended_again(folder, config):
    appended("out", config, "b")
    with pytest.raises(StoreError, match=r"out knows .*/in/b.txt as in/b.txt: use that name"):
        ctxbatch.run(folder.absolute() / "b.txt", "out", config)


def test_a_store_with_a_limit_or_other_options_is_not_appended_to(folder, config):
    ctxbatch.run(write(Path("in"), "b"), "few", replaced(config, limit=5))
    write(folder, "a")
    with pytest.raises(StoreError, match="few was made with --limit 5: nothing can be appended"):
        ctxbatch.run("in", "few", replaced(config, limit=5, append=True))
    appended("out", config, "b")
    with pytest.raises(StoreError, match="out was made with --layers"):
        ctxbatch.run("in", "out", replaced(config, append=True, layers=(1,)))
    (folder / "x.conllu").write_text("1\tThe\tthe\tDET\t_\t_\t0\t_\t_\t_\n\n")
    with pytest.raises(StoreError, match=r"x.conllu says lemmas and parts of speech, and out has no columns"):
        ctxbatch.run("in", "out", config)
    assert [path.name for path in Path("out").glob("plan-*")] == []


@pytest.mark.usefixtures("whole")
def test_parts_of_an_append_run_side_by_side(config):
    appended("out", config, "b")
    write(Path("in"), *NAMES)
    for part in ((2, 2), (1, 2)):
        settings = replaced(config, append=True, precision="fp32", shard_range=part)
        ctxbatch.run([Path("in/b.txt"), Path("in/a.txt"), Path("in/c.txt")], "out", settings)
    assert [path.name for path in Path("out").glob("plan-*")] == ["plan-0001.json"]
    assert arrow_digests(Path("out")) == arrow_digests(Path("whole"))


@pytest.mark.usefixtures("folder")
def test_an_open_store_keeps_its_view(config):
    store = appended("out", config, "b")
    n_rows, searcher = store.n_rows, ctxbatch.searcher(store)
    before = searcher.search("I want the [bank].", 5)
    appended("out", config, "a")
    assert (store.n_rows, store.words.count_rows()) == (n_rows, n_rows)
    assert searcher.search("I want the [bank].", 5) == before
    assert ctxbatch.open("out").n_rows == 2 * n_rows


@pytest.mark.usefixtures("whole")
def test_appended_shards_are_verified_and_repaired(config, cli):
    appended("out", config, *NAMES)
    path = Path("out/shards/000007/words.arrow")
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    found = cli("verify", "out")
    assert found.returncode == 3
    assert "shards/000007" in found.stdout
    assert cli("verify", "out", "--repair").returncode == 0
    assert arrow_digests(Path("out")) == arrow_digests(Path("whole"))


@pytest.mark.usefixtures("folder")
def test_a_plan_that_is_damaged_or_of_another_store_is_told(config):
    appended("out", config, "b", "a", "c")
    appended("other", config, "a", "c")
    manifest = ctxbatch.open("out").manifest
    sources = [source.path for source in manifest.sources]
    before = [manifest.config.fingerprint, sources[:2], manifest.appended[0].n_shards * 2]
    last = json.loads(Path("out/plan-0002.json").read_bytes())
    assert last["follows"] == hashlib.sha256(canonical_json(before).encode()).hexdigest()
    path = Path("out/plan-0001.json")
    intact = path.read_bytes()
    path.write_bytes(intact.replace(b"a.txt", b"d.txt"))
    with pytest.raises(StoreError, match=r"out/plan-0001.json is damaged: its content does not match"):
        ctxbatch.open("out")
    path.write_bytes(Path("other/plan-0001.json").read_bytes())
    with pytest.raises(StoreError, match=r"plan-0001.json is damaged: it does not follow the plan before it"):
        ctxbatch.open("out")
    content = json.loads(intact)
    del content["checksum"]
    content["shards"][0]["segments"][0]["source"] = 7
    path.write_bytes(seal(content))
    with pytest.raises(
        StoreError, match=r"plan-0001.json is damaged: a shard covers text that no source has"
    ):
        ctxbatch.open("out")
    content = json.loads(intact)
    del content["checksum"]
    content["sources"][0]["path"] = sources[0]
    path.write_bytes(seal(content))
    with pytest.raises(StoreError, match=r"plan-0001.json is damaged: it names a source that the store has"):
        ctxbatch.open("out")


# --- the index ------------------------------------------------------------------------------------


@pytest.fixture
def indexed(folder, made, monkeypatch):
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    monkeypatch.setattr("ctxbatch.search.index._SCANNED_ROWS", 10)
    monkeypatch.setattr("ctxbatch.search.index._SCANNED_SHARE", 0)
    shutil.copytree(made, folder.parent, dirs_exist_ok=True)
    return ctxbatch.open(Path("first").rename("out"))


@pytest.mark.parametrize(("on", "standardise"), [("shift", False), ("contextual", True)])
def test_a_search_finds_appended_rows_beside_an_index(on, standardise, indexed, config, caplog, cli):
    store = appended("out", config, "a", "c")
    with caplog.at_level("INFO", "ctxbatch"):
        searcher = ctxbatch.searcher(store, on, standardise=standardise)
        ranking = searcher._vectors(searcher.column).ranking
    n_indexed, n_rows = indexed.n_rows, store.n_rows
    assert f"lacks the {n_rows - n_indexed:,} rows that were appended to out since" in caplog.text
    column = ranking._columns[0]
    queries = normalised(column.take(np.arange(0, n_rows, 97)))
    for selection in (None, ranking._selectors[0].select(ctxbatch.Filters(words=("cards",)), "x")):
        for k in (1, 10, n_indexed + 5):
            ours = ranking.nearest(0, queries, k, selection, "many")
            right = exact(column, queries, k, selection)
            assert ours[0].shape == right[0].shape
            # By scores: equal texts tie, so other rows may stand for the last.
            assert np.mean(np.isclose(ours[1], right[1], atol=1e-5)) > 0.95
            assert np.allclose(ours[1][:, 0], right[1][:, 0], atol=1e-5)
    assert (ranking.nearest(0, queries, 10, None, "many")[0] >= n_indexed).any()
    assert cli("verify", "out").returncode == 0


def test_filters_that_leave_only_appended_rows_find_them(indexed, config):
    store = appended("out", config, "a")
    searcher = ctxbatch.searcher(store, "shift")
    found = searcher.search("I want the [bank].", 7, ctxbatch.Filters(sources=("*a.txt",)))
    assert len(found) == 7
    assert all(hit.source == "in/a.txt" and hit.row_id >> 32 >= 3 for hit in found)
    assert indexed.n_rows < store.n_rows


def test_an_open_store_is_searched_after_its_index_was_built_anew(indexed, config):
    def found(*filters):
        hits = ctxbatch.searcher(indexed, "shift").search("I want the [bank].", 5, *filters)
        return [hit.row_id for hit in hits]

    right = found()
    index_build.build(appended("out", config, "a"), "shift_2", IndexOptions(factory="IVF4,Flat"))
    assert all(row in indexed.row_ids() for row in found(ctxbatch.Filters(words=("bank",))))
    assert found() == right


def centroids():
    index = faiss.read_index("out/index/shift_2.faiss")  # which owns its quantizer
    return faiss.downcast_index(index.quantizer).reconstruct_n(0, 4)


def test_an_index_grows_with_its_store_without_training(indexed, config, caplog, cli):
    before = centroids()
    store = appended("out", config, "a")
    with caplog.at_level("INFO", "ctxbatch"):
        report = index_build.ensure(store, "shift_2")
    assert report.rows == store.n_rows > indexed.n_rows
    assert f"was made for {indexed.n_rows:,} rows and has {store.n_rows:,} now" in caplog.text
    np.testing.assert_array_equal(centroids(), before)
    queries = normalised(store.column("shift_2").take(np.arange(0, store.n_rows, 97)))
    found = open_index(store, "shift_2").nearest(queries, 10, None, "few")
    np.testing.assert_allclose(found[1], exact(store.column("shift_2"), queries, 10, None)[1], atol=1e-5)
    assert cli("verify", "out").returncode == 0
    whole = index_build.ensure(appended("out", config, "c"), "shift_2")
    content = Path("out/index/shift_2.faiss").read_bytes()
    assert index_build.ensure(ctxbatch.open("out"), "shift_2") == whole
    assert Path("out/index/shift_2.faiss").read_bytes() == content


def test_an_index_that_outgrows_its_memory_is_built_anew(indexed, config):
    index_build.build(indexed, "shift_2", IndexOptions(factory="IVF4,Flat", memory=150_000))
    store = appended("out", config, "a")
    with pytest.raises(InputError, match="more than --memory"):
        index_build.ensure(store, "shift_2")


def test_a_run_that_appends_ends_with_an_index_of_all_rows(config, folder, quick_indexes, monkeypatch):  # noqa: ARG001 (in this folder)
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    for name in NAMES:
        report = ctxbatch.run(write(Path("in"), name), "out", replace(config, index=True))
        assert report.index.rows == ctxbatch.open("out").n_rows
    assert not ctxbatch.searcher(ctxbatch.open("out")).unindexed()


# --- object storage -------------------------------------------------------------------------------


@pytest.mark.usefixtures("whole")
def test_a_store_on_object_storage_is_appended_to_and_pulled_again(config, bucket, cli):
    url = f"{bucket({})}/out"
    shutil.rmtree("in")
    for name in NAMES:
        ctxbatch.run(write(Path("in"), name), url, config)
        ctxbatch.pull(url, "copy")
        assert not list(find_damage("copy"))
    assert arrow_digests(Path("copy")) == arrow_digests(Path("whole"))
    assert cli("verify", url).returncode == 0
    appended("other", config, "a")
    with pytest.raises(StoreError, match="other already holds another store"):
        ctxbatch.pull(url, "other")
