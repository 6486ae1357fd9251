"""Parts of a run work side by side, on any number of machines, and make what a whole run makes, once."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest

import ctxbatch
from ctxbatch import InputError, ResourceError, RunConfig, StoreError
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.execution.partition import part_of, shard_list
from ctxbatch.execution.repair import find_damage
from ctxbatch.sealed import read_json
from ctxbatch.search import index_build
from ctxbatch.store.folder_location import FolderLocation
from ctxbatch.store.locks import Claims, claimed, is_locked, locked, shared
from ctxbatch.store.manifest import Manifest
from tests.helpers.racing import FILES, create_all
from tests.helpers.running import committed, start, wait_for
from tests.helpers.stores import arrow_digests

N_LINES = 1_000
SHARD_SIZE = 8_500


@pytest.fixture(scope="module")
def corpus(long_text):
    return long_text(N_LINES)


@pytest.fixture(scope="module")
def arguments(corpus, tiny):
    def build(out, *more):
        settings = ["--model", tiny(), "--shard-size", SHARD_SIZE, "--workers", 1]
        return ["run", corpus, "-o", out, *settings, *more]

    return build


@pytest.fixture(scope="module")
def run(corpus, tiny):
    """A run or a part of one in this process; its workers are processes of their own all the same."""

    def run(out, part=None, **options):
        settings = {"model": str(tiny()), "shard_size": SHARD_SIZE, "workers": 1, "shard_range": part}
        return ctxbatch.run(corpus, out, RunConfig(**{**settings, **options}))

    return run


@pytest.fixture(scope="module")
def reference(run, tmp_path_factory):
    """What a local run makes."""
    out = tmp_path_factory.mktemp("reference") / "out"
    run(out)
    assert len(arrow_digests(out)) == 3 * 10
    return out


@pytest.fixture
def begun(reference, tmp_path):
    """The store as it is when the first part has planned it."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(reference / "manifest.json", out)
    return out


def at_once(arguments, out, *parts):
    """Start parts at the same moment; returns what each said when it was done."""
    processes = [start(*arguments(out, "--shard-range", part)) for part in parts]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(parts), said
    return said


def times_made(out):
    """How often each shard was committed, by the logs of all parts."""
    logs = "".join(path.read_text() for path in out.glob("run*.log"))
    return Counter(map(int, re.findall(r"shard (\d+) committed: ", logs)))


# --- side by side ---------------------------------------------------------------------------------


def test_four_parts_started_at_once_give_the_checksums_of_a_local_run(arguments, reference, tmp_path, cli):
    """And one more that overlaps with two of them, and the index is built afterwards."""
    out = tmp_path / "out"
    sizes = {"1/4": 2, "2/4": 3, "3/4": 2, "4/4": 3, "2/3": 3}
    said = at_once(arguments, out, *sizes)
    assert arrow_digests(out) == arrow_digests(reference)
    assert read_json(out / "manifest.json")["shards"] == read_json(reference / "manifest.json")["shards"]
    assert times_made(out) == dict.fromkeys(range(10), 1)
    for (part, n_shards), text in zip(sizes.items(), said, strict=True):
        assert re.search(rf"out: part {part.replace('/', ' of ')}: \d of {n_shards} shards; ", text)
    assert any("; 10 of 10 in the store\n" in text for text in said)
    logs = {f"run.{part.replace('/', '-of-')}.log" for part in sizes}
    assert {path.name for path in out.iterdir()} == {"manifest.json", "shards", ".lock", *logs}
    assert not list(out.glob("shards/.*"))
    assert not list(find_damage(out))
    assert cli("index", out, "--factory", "IVF16,Flat").returncode == 0
    searcher = ctxbatch.searcher(out)
    assert not searcher.unindexed()
    found = searcher.search("I want an [apple].", k=3, filters=ctxbatch.Filters(same_word=True))
    assert [hit.word for hit in found] == ["apple"] * 3


def test_a_part_that_is_started_twice_makes_every_shard_once(arguments, reference, tmp_path):
    out = tmp_path / "out"
    at_once(arguments, out, "1/2", "1/2")
    assert times_made(out) == dict.fromkeys(range(5), 1)
    assert arrow_digests(out).items() <= arrow_digests(reference).items()


def test_of_many_missing_shards_some_are_named_and_all_counted(begun, cli):
    shown = cli("status", begun).stdout.splitlines()[1]
    assert re.fullmatch(r"missing: 000000, (0{5}[1-6], ){6}000007, … \(10 in all\)", shown)
    assert json.loads(cli("status", begun, "--json").stdout)["missing"] == [*range(10)]
    assert shard_list(range(8)) == ", ".join(f"{shard:06d}" for shard in range(8))


def test_a_shard_that_another_process_has_claimed_is_left_to_it(run, begun, reference, caplog, cli):
    with shared(begun):
        other = Claims(begun)
        assert other.take(1)
        assert claimed(begun, range(10)) == [1]
        status = cli("status", begun)
        assert "out: running; 0 of 10 shards" in status.stdout
        assert "of these in progress: 000001\n" in status.stdout
        report = run(begun, (1, 5))
    assert "another process is building shard 000001: leaving it to that process" in caplog.text
    assert report.clean
    assert (report.n_run, report.part.shards, report.part.left) == (1, (0, 1), (1,))
    assert "another process is building: 000001" in str(report.part)
    other.release(1)
    again = run(begun, (1, 5))
    assert (again.n_run, again.part.left) == (1, ())
    assert str(again.part).startswith("part 1 of 5: 2 of 2 shards; 2 of 10 in the store; missing: 000002, 0")
    expected = {name: digest for name, digest in arrow_digests(reference).items() if name < "shards/000002"}
    assert arrow_digests(begun) == expected


def test_what_another_part_has_committed_meanwhile_is_not_made_again(run, begun, reference, monkeypatch):
    scan = FolderLocation.commits

    def scan_too_early(place, manifest):
        found = scan(place, manifest)
        shutil.copytree(reference / "shards" / "000000", begun / "shards" / "000000", dirs_exist_ok=True)
        return found

    monkeypatch.setattr(FolderLocation, "commits", scan_too_early)
    before = (reference / "shards" / "000000" / "words.arrow").stat().st_mtime_ns
    assert run(begun, (1, 5)).part.missing == tuple(range(2, 10))
    assert times_made(begun) == {1: 1}
    assert (reference / "shards" / "000000" / "words.arrow").stat().st_mtime_ns == before


# --- killed and finished --------------------------------------------------------------------------


def test_a_killed_part_run_again_finishes_its_shards_and_clears_no_others(
    arguments, reference, begun, run, cli
):
    process = start(*arguments(begun, "--shard-range", "2/2"))
    wait_for(lambda: committed(begun) >= 1, process)
    os.kill(process.pid, signal.SIGKILL)  # its worker ends by itself, and holds its claims until then
    process.communicate()
    mine, others = (begun / "shards" / f".{shard}.elsewhere.7.tmp" for shard in ("000009", "000000"))
    mine.mkdir()
    others.mkdir()
    shutil.rmtree(begun / "shards" / "000009", ignore_errors=True)
    result = cli(*arguments(begun, "--shard-range", "2/2"))
    assert result.returncode == 0, result.stderr
    assert "part 2 of 2: 5 of 5 shards; 5 of 10 in the store; missing: 000000, " in result.stderr
    assert not mine.exists()
    assert others.exists()  # perhaps of somebody who is at work
    assert cli("status", begun).stdout.startswith(
        f"{begun}: interrupted: run its `ctxbatch run` command again; 5 of 10"
    )
    assert run(begun).n_run == 5  # a whole run takes what is missing
    assert arrow_digests(begun) == arrow_digests(reference)
    assert not list(begun.glob("shards/.*"))


def test_two_processes_with_the_same_host_and_number_write_under_different_names():
    """As in two containers on a shared folder, of which each clears away what its own workers left."""
    code = "import os; os.getpid = lambda: 7; from ctxbatch.files import *; print(temporary_name('000009'))"
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first != second
    assert first.startswith(".000009.")
    assert first.endswith(".7.tmp\n")


def test_parts_finish_what_a_whole_run_has_left(arguments, reference, run, tmp_path):
    out = tmp_path / "out"
    process = start(*arguments(out))
    wait_for((out / "manifest.json").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for part in ((2, 2), (1, 2)):
        report = run(out, part)
        assert report.part.left == ()
    assert report.part.missing == ()
    assert arrow_digests(out) == arrow_digests(reference)


# --- the lock -------------------------------------------------------------------------------------


def test_a_whole_run_and_all_that_needs_the_store_for_itself_wait_for_parts(run, begun, cli):
    with shared(begun), shared(begun):
        assert is_locked(begun)
        refused = rf"parts of a run are writing to {begun}: wait for them \(`ctxbatch status {begun}`"
        with pytest.raises(ResourceError, match=refused):
            run(begun)
        for command in (["index", begun], ["verify", begun, "--repair"]):
            result = cli(*command)
            assert result.returncode == 4
            assert re.match(f"ctxbatch: {refused}", result.stderr)
    assert not is_locked(begun)


def test_a_part_waits_for_a_whole_run(run, begun):
    with locked(begun):
        assert is_locked(begun)
        with pytest.raises(ResourceError, match=rf"another run is writing to .* \(process {os.getpid()} on "):
            run(begun, (1, 2))


def test_of_manifests_created_at_once_one_is_the_stores(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, won = spawn.Barrier(4), spawn.Queue()
    racers = [spawn.Process(target=create_all, args=(tmp_path, barrier, won, number)) for number in range(4)]
    for racer in racers:
        racer.start()
    winners = dict(won.get(timeout=60) for _ in range(FILES))
    for racer in racers:
        racer.join()
    assert won.empty()
    assert sorted(winners) == [*range(FILES)]
    for attempt, number in winners.items():
        assert read_json(tmp_path / f"{attempt}.json") == {"number": number}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("first", ["before it looks", "while it plans"])
def test_a_part_with_other_options_than_the_manifests_is_refused(first, run, begun, monkeypatch):
    if first == "while it plans":
        create, theirs = Manifest.create, Manifest.read(begun)
        (begun / "manifest.json").unlink()

        def create_too_late(manifest, out):
            theirs.write(out)
            return create(manifest, out)

        monkeypatch.setattr(Manifest, "create", create_too_late)
    with pytest.raises(
        StoreError, match="was made with --shift difference, but this command has --shift asinh"
    ):
        run(begun, (1, 2), shift="asinh")
    assert not (begun / "shards").exists()


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_shards", "n_parts"), [(0, 3), (1, 1), (10, 4), (7, 7), (3, 50), (1000, 7)])
def test_parts_are_contiguous_equal_and_all_there_is(n_shards, n_parts):
    shards = [ShardSpec(number, ()) for number in range(n_shards)]
    parts = [part_of(shards, (number, n_parts)) for number in range(1, n_parts + 1)]
    assert [spec for part in parts for spec in part] == shards
    assert {len(part) for part in parts} <= {n_shards // n_parts, -(-n_shards // n_parts)}


def test_an_empty_part_says_so_and_is_done(run, begun):
    report = run(begun, (1, 50))
    assert report.clean
    assert str(report.part).startswith(
        "part 1 of 50: empty, as there are fewer shards than parts; 0 of 10 in the store; missing: 000000, "
    )


def test_the_part_that_finds_the_store_complete_says_what_builds_the_index(
    run, reference, tmp_path, monkeypatch
):
    out = shutil.copytree(reference, tmp_path / "out")
    assert run(out, (1, 2)).part.to_index is None  # these few rows are searched without one
    monkeypatch.setattr(index_build, "SCAN_ROWS", 100)
    report = run(out, (1, 2))
    assert (report.index, report.part.to_index) == (None, "shift_2")
    assert run(out, (1, 2), index=False).part.to_index is None
    shutil.rmtree(out / "shards" / "000009")
    assert run(out, (1, 2)).part.to_index is None


def test_rejects_count_for_each_part_by_itself(tiny, tmp_path):
    corpus, out = tmp_path / "a.jsonl", tmp_path / "out"
    corpus.write_text("{\n" * 3 + '{"text": "I want an apple."}\n' * 60)
    settings = {"model": str(tiny()), "shard_size": 1_000, "workers": 1}
    first = ctxbatch.run(corpus, out, RunConfig(**settings, shard_range=(1, 2)))
    assert (first.totals.rejected, first.clean) == (3, False)
    second = ctxbatch.run(corpus, out, RunConfig(**settings, shard_range=(2, 2), max_rejects=0))
    assert (second.totals.rejected, second.clean) == (0, True)


@pytest.mark.parametrize("part", [(0, 4), (5, 4), (-1, 2), (1, 0)])
def test_a_part_that_cannot_be_is_refused(part):
    with pytest.raises(InputError, match=rf"--shard-range {part[0]}/{part[1]} must be I/N with I from 1"):
        RunConfig(shard_range=part)


@pytest.mark.parametrize("text", ["2", "a/4", "1/2/3", "/", "1-4"])
def test_a_part_that_cannot_be_read_is_refused(text, arguments, tmp_path, cli):
    result = cli(*arguments(tmp_path / "out", "--shard-range", text))
    assert result.returncode == 2
    assert result.stderr == (
        f"ctxbatch: --shard-range {text!r} must be I/N, such as 2/4 for the second of four parts\n"
    )
    assert not (tmp_path / "out").exists()
