"""A run may end at any instruction: the same command finishes it, and the bytes are the same."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ctxbatch
from ctxbatch import RunConfig, StoreError
from ctxbatch.execution.session import writing_to
from ctxbatch.files import write_json
from ctxbatch.sealed import read_json
from ctxbatch.store.location import location_of
from ctxbatch.store.locks import is_locked
from ctxbatch.store.stats import totals
from tests.helpers.running import committed, heed_signals, ignore_signals, start, wait_for
from tests.helpers.stores import arrow_digests, make_store

N_LINES = 3000


@pytest.fixture(scope="module")
def corpus(long_text):
    return long_text(N_LINES)


@pytest.fixture(scope="module")
def arguments(corpus, tiny):
    def build(out, *more):
        return ["run", corpus, "-o", out, "--model", tiny(), "--shard-size", "20000", *more]

    return build


@pytest.fixture(scope="module")
def reference(arguments, cli, tmp_path_factory):
    """An undisturbed run with two workers."""
    out = tmp_path_factory.mktemp("reference") / "out"
    result = cli(*arguments(out, "--workers", "2"))
    assert result.returncode == 0, result.stderr
    return out


def test_killed_runs_finish_with_the_bytes_of_an_undisturbed_one(arguments, reference, tmp_path, cli):
    """The small version of scripts/checks/resume.py."""
    out = tmp_path / "out"
    chance = random.Random(1)
    for kill, n_workers in ((os.killpg, 1), (os.kill, 2)):
        goal = committed(out) + chance.randint(1, 3)
        process = start(*arguments(out, "--workers", n_workers))
        wait_for(lambda goal=goal: committed(out) >= goal, process)
        time.sleep(chance.uniform(0, 0.1))  # somewhere in the shards that come next
        kill(process.pid, signal.SIGKILL)
        process.communicate()
    result = cli(*arguments(out, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    assert arrow_digests(out) == arrow_digests(reference)
    assert not list(out.glob("shards/.*"))
    assert cli("verify", out).returncode == 0


def test_a_signal_leaves_a_resumable_store_and_says_so(arguments, reference, tmp_path, cli):
    """One run, stopped by each signal that stops runs, and then left to finish."""
    out, times = tmp_path / "out", {}
    for signum, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)):
        for _ in range(5):  # on a busy machine the run can end before it is noticed to have begun
            before = committed(out)
            process = start(*arguments(out, "--workers", "1"))
            wait_for(lambda before=before: committed(out) > before, process)
            os.killpg(process.pid, signum)  # as a terminal does: to coordinator and workers alike
            _, errors = process.communicate()
            if process.returncode:
                break
            for shard in sorted(out.glob("shards/[0-9]*"))[before:]:
                shutil.rmtree(shard)
        assert process.returncode == status, errors
        assert errors.splitlines()[-1].startswith(
            f"ctxbatch: stopped by {signum.name}; what is committed is kept"
        )
        assert "Traceback" not in errors
        assert not is_locked(out)
        times |= {path: path.stat().st_mtime_ns for path in out.glob("shards/[0-9]*/shard.json")}
    assert cli(*arguments(out)).returncode == 0
    assert arrow_digests(out) == arrow_digests(reference)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())  # nothing done twice


def test_messages_name_the_log_by_its_path(tmp_path):
    (tmp_path / "out").mkdir()
    with writing_to(location_of(tmp_path / "out"), quiet=True) as session:
        assert str(session.log_file.name) == str(tmp_path / "out" / "run.log")


def test_ctrl_c_while_modules_are_imported_ends_a_command_without_a_word():
    code = (
        "import os, runpy, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ctxbatch.cli.main': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv = ['ctxbatch', '--version']\n"
        "runpy.run_module('ctxbatch', run_name='__main__')\n"
    )
    for heeds, status in ((True, -signal.SIGINT), (False, 0)):
        started = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            preexec_fn=heed_signals if heeds else ignore_signals,
            check=False,
        )
        assert (started.returncode, started.stderr) == (status, "")


def command_line(command):
    """Run the command line with a function named ``command`` in place of its commands."""
    code = (
        "import os, signal, time, weakref\n"
        f"from ctxbatch.cli import main\n{command}\nmain._run_command = command\nmain.main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=heed_signals, check=False
    )


def test_a_signal_is_not_taken_for_the_error_that_a_library_makes_of_it():
    ended = command_line(
        "def command():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(10)\n"
        "    except BaseException:\n"
        "        raise ImportError('initialization failed')\n"
    )
    assert (ended.returncode, ended.stderr) == (130, "ctxbatch: stopped by SIGINT\n")


def test_a_signal_that_is_lost_in_a_library_stops_the_command_all_the_same():
    """But it disturbs nothing that takes its time on the way out, nor do further signals."""
    ended = command_line(
        "class Thing: pass\n"
        "def callback(_):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.1)\n"
        "def command():\n"
        "    thing = Thing()\n"
        "    reference = weakref.ref(thing, callback)\n"
        "    del thing\n"
        "    print('lost', flush=True)\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(1.5)\n"
        "        print('tidied up', flush=True)\n"
    )
    assert (ended.returncode, ended.stdout) == (130, "lost\ntidied up\n")
    assert ended.stderr == "ctxbatch: stopped by SIGINT\n"


def test_a_second_run_on_the_same_store_is_refused_and_the_first_goes_on(arguments, tmp_path, cli, reference):
    out = tmp_path / "out"
    process = start(*arguments(out))
    wait_for(lambda: is_locked(out) and (out / ".lock").read_text(), process)
    os.killpg(process.pid, signal.SIGSTOP)  # so that it does not end before the second begins
    second = cli(*arguments(out))
    os.killpg(process.pid, signal.SIGCONT)
    assert second.returncode == 4
    assert re.fullmatch(
        rf"ctxbatch: another run is writing to .* \(process {process.pid} on .*\): .*\n", second.stderr
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert arrow_digests(out) == arrow_digests(reference)


def test_a_worker_that_dies_is_replaced_and_its_shard_given_up_after_three_tries(
    arguments, tmp_path, cli, reference
):
    out = tmp_path / "out"
    process = start(*arguments(out, "--workers", "1"))
    killed = set()
    while process.poll() is None:
        for folder in out.glob("shards/.000002.*.tmp"):
            pid = int(folder.name.split(".")[-2])
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    _, errors = process.communicate()
    assert process.returncode == 3, errors
    assert len(killed) == 3
    assert "ctxbatch gave up shards 000002: read" in errors
    assert "a worker died in shard 000002: running it again" in errors
    missing = set(arrow_digests(reference)) - set(arrow_digests(out))
    assert {Path(name).parent.name for name in missing} == {"000002"}
    assert cli(*arguments(out)).returncode == 0
    assert arrow_digests(out) == arrow_digests(reference)


def test_workers_end_when_their_coordinator_is_gone(arguments, tmp_path):
    out = tmp_path / "out"
    process = start(*arguments(out, "--workers", "2"))
    wait_for(lambda: committed(out) >= 1, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while is_locked(out):  # workers hold the lock as long as they live
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- what may be resumed --------------------------------------------------------------------------


@pytest.fixture
def copy(reference, corpus, tmp_path):
    """A finished store, and its corpus at its own path, both free to be spoilt and restored."""
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    content, status = corpus.read_bytes(), corpus.stat()
    yield out
    corpus.write_bytes(content)
    os.utime(corpus, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_another_option_is_refused_with_both_values(copy, arguments, corpus, tiny, cli):
    result = cli(*arguments(copy, "--shift", "asinh"))
    assert result.returncode == 2
    assert "was made with --shift difference, but this command has --shift asinh" in result.stderr
    same = {"model": str(tiny()), "shard_size": 20000}
    for change, message in (
        ({"shard_size": 9000}, "--shard-size 20000, but this command has --shard-size 9000"),
        ({"layers": (2, 3)}, "--layers 2, but this command has --layers 2,3"),
        ({"limit": 5}, "without --limit, but this command has --limit 5"),
    ):
        with pytest.raises(StoreError, match=message):
            ctxbatch.run(corpus, copy, RunConfig(**{**same, **change}))


def test_other_sources_are_refused_by_name(tiny, tmp_path):
    one, two, more = (tmp_path / f"{name}.txt" for name in ("one", "two", "more"))
    for path in (one, two, more):
        path.write_text(f"{path.name}\n")
    out, config = tmp_path / "out", RunConfig(model=str(tiny()))
    make_store(out, [one, two], config)
    for inputs, message in (
        ([one, two, more], r"more.txt is not a source of .*out, which has 2"),
        ([more], r"more.txt is not a source of"),
        ([one], r"two.txt is a source of .*out, but this command does not name it"),
        ([two, one], r"the inputs are in another order than when .*out was made"),
    ):
        with pytest.raises(StoreError, match=message):
            ctxbatch.run(inputs, out, config)
    one.write_text("longer than before\n")
    with pytest.raises(StoreError, match=r"one.txt has 19 bytes now, but had 8 when .*out was planned"):
        ctxbatch.run([one, two], out, config)


def test_a_touch_is_accepted_and_a_changed_byte_is_not(copy, arguments, corpus, cli):
    before = corpus.stat()
    os.utime(corpus)
    assert cli(*arguments(copy)).returncode == 0
    content = corpus.read_bytes()
    corpus.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    result = cli(*arguments(copy))
    assert result.returncode == 2
    assert re.search(r"has changed in bytes \d+ to \d+", result.stderr)
    os.utime(corpus, ns=(before.st_atime_ns, before.st_mtime_ns))  # a change that hides behind its time
    assert cli("verify", copy).returncode == 0
    found = cli("verify", copy, "--sources")
    assert found.returncode == 3
    assert re.search(r"long.txt has changed in bytes \d+ to \d+", found.stdout)


@pytest.mark.parametrize("name", ["words.arrow", "sentences.arrow", "shard.json"])
def test_a_flipped_byte_in_a_shard_is_found(name, copy, cli):
    path = copy / "shards" / "000001" / name
    content = bytearray(path.read_bytes())
    content[random.Random(name).randrange(len(content))] ^= 4
    path.write_bytes(content)
    result = cli("verify", copy)
    assert result.returncode == 3
    assert f"000001/{name} is damaged" in result.stdout


def test_a_shard_without_an_intact_commit_record_is_made_again(copy, arguments, reference, cli):
    record = copy / "shards" / "000001" / "shard.json"
    record.write_text(record.read_text().replace('"rows": ', '"rows": 1'))
    (copy / "shards" / "000003" / "shard.json").unlink()
    (copy / "shards" / "000000" / "words.arrow").unlink()
    shutil.rmtree(copy / "shards" / "000000")
    assert cli(*arguments(copy)).returncode == 0
    assert arrow_digests(copy) == arrow_digests(reference)


def test_a_shard_of_another_run_does_not_count(copy, arguments, reference, cli):
    """Neither one of another configuration, nor one of other text, nor one whose files are cut off."""

    for number, change in enumerate(({"fingerprint": "another"}, {"inputs": []})):
        path = copy / "shards" / f"{number:06d}" / "shard.json"
        write_json(path, {**read_json(path), **change})
    cut = copy / "shards" / "000002" / "words.arrow"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert sorted(set(ctxbatch.open(reference).commits) - set(ctxbatch.open(copy).commits)) == [0, 1, 2]
    assert cli(*arguments(copy)).returncode == 0
    assert arrow_digests(copy) == arrow_digests(reference)


def test_shards_without_a_manifest_are_no_store_and_stay_as_they_are(copy, corpus, tiny):
    (copy / "manifest.json").unlink()
    before = arrow_digests(copy)
    with pytest.raises(StoreError, match=r"contains other files .* and no store"):
        ctxbatch.run(corpus, copy, RunConfig(model=str(tiny())))
    assert arrow_digests(copy) == before


def test_a_run_killed_before_its_first_shard_is_begun_again(arguments, reference, tmp_path, cli):
    out = tmp_path / "out"
    for begun in (out / ".lock", out / "manifest.json", out / "shards"):
        process = start(*arguments(out))
        wait_for(begun.exists, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert cli(*arguments(out)).returncode == 0
    assert arrow_digests(out) == arrow_digests(reference)


def test_shards_of_mixed_origin_are_reported(copy, corpus, tiny, caplog):

    path = copy / "shards" / "000001" / "shard.json"
    record = read_json(path)
    write_json(path, {**record, "versions": {**record["versions"], "torch": "1.0"}})
    report = ctxbatch.run(corpus, copy, RunConfig(model=str(tiny()), shard_size=20000))
    assert report.clean
    assert "the shards were made with different torch: 1.0 and " in caplog.text


def test_a_damaged_manifest_is_found_and_a_new_run_asked_for(copy, cli):
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"pool": "mean"', '"pool": "none"'))
    result = cli("verify", copy)
    assert result.returncode == 2
    assert (
        "does not match its checksum; the store cannot be trusted: run again with another -o" in result.stderr
    )


def test_a_newer_format_is_refused(copy, cli):

    path = copy / "manifest.json"
    write_json(path, {**read_json(path), "format_version": 99})
    assert (
        "has format version 99, but this program reads only up to 4: install a newer ctxbatch"
        in cli("stats", copy).stderr
    )


def test_the_time_between_two_runs_does_not_count(copy):

    for number, (begin, end) in enumerate([(0, 10), (5, 12), (10_000, 10_003)]):
        path = copy / "shards" / f"{number:06d}" / "shard.json"
        record = read_json(path)
        record["timing"] |= {"started": begin, "finished": end}
        write_json(path, record)
    for path in sorted(copy.glob("shards/*"))[3:]:
        shutil.rmtree(path)
    assert totals(ctxbatch.open(copy)).seconds == 15


def test_the_log_keeps_what_happened(reference):
    log = (reference / "run.log").read_text()
    assert "planned" in log
    assert "shard 000001 committed" in log
    assert "finished: " in log
    assert json.dumps(ctxbatch.open(reference).config.fingerprint)[1:-1] in log
