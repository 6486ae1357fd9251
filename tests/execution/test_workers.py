"""How workers end: a defect is not tried again and again, and what the machine lacks is said so."""

import errno
import os
import re
import stat
import sys
from dataclasses import asdict

import pytest

from ctxbatch.execution.local_pool import Pool, WorkersFailedError
from ctxbatch.execution.messages import Committed, Failed, GivenUp, Stopped
from ctxbatch.execution.worker import telling
from ctxbatch.store.commits import Counts
from ctxbatch.store.folder_location import FolderLocation

# Stands in for Python, which would import torch: fails in shards that it is told to, and notes every start.
WORKER = """#!{python}
import json, os, sys, time
say = lambda type, **content: print(json.dumps(dict(content, type=type)), flush=True)
with open({starts!r}, "a") as starts:
    starts.write(f"{{os.getpid()}}\\n")
pids = lambda: [int(line) for line in open({starts!r})]
if pids().index(os.getpid()) >= {room}:
    say("Failed", reason="OutOfMemoryError: CUDA out of memory", trace="")
    sys.exit(1)
fails = {fails}
if fails is None:
    say("Failed", reason="KeyError: 'x'", trace="")
    sys.exit(1)
def others_are_buried():
    left_out = pids()[{room}:]
    if len(left_out) < {n_workers} - {room}:
        return False
    return not any(os.path.exists(f"/proc/{{pid}}") for pid in left_out)
say("Loaded")
say("Ready")
for line in sys.stdin:
    shard = json.loads(line)["shard"]
    while not others_are_buried():
        time.sleep(0.01)
    if shard in fails:
        say("Failed", reason="IndexError: shard " + str(shard), trace="")
        sys.exit(1)
    say("Committed", shard=shard, counts={counts})
    say("Ready")
"""


def n_lines(path):
    return len(path.read_text().splitlines())


@pytest.fixture
def run(tmp_path, workers_elsewhere, monkeypatch):  # noqa: ARG001 (a fixture takes others only so)
    """Run shards with workers that fail in some; returns what is said, and how many workers are started."""

    def run(shards, fails, devices=("cpu",), room=1000):
        starts, program = tmp_path / "starts", tmp_path / "python"
        program.write_text(
            WORKER.format(
                python=sys.executable,
                starts=str(starts),
                fails=fails,
                room=room,
                n_workers=len(devices),
                counts=asdict(Counts()),
            )
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(program))
        said = []
        try:
            with (
                (tmp_path / "run.log").open("a") as log,
                Pool(FolderLocation(tmp_path), devices, 2, log) as pool,
            ):
                pool.run(shards, said.append)
        finally:
            monkeypatch.undo()
            said.append(n_lines(starts))
        return said

    return run


def test_a_shard_that_raises_an_error_is_given_up_at_once_and_the_others_are_made(run):
    *said, n_starts = run(range(5), {2})
    assert {each.shard for each in said if isinstance(each, Committed)} == {0, 1, 3, 4}
    assert [each for each in said if isinstance(each, GivenUp)] == [GivenUp(2, "IndexError: shard 2")]
    assert n_starts == 2


def test_an_error_of_every_shard_ends_the_run_in_one_line_that_names_the_log(run, tmp_path):
    with pytest.raises(WorkersFailedError, match=r"3 shards failed, the last with IndexError: .*run.log$"):
        run(range(100), set(range(100)))
    assert n_lines(tmp_path / "starts") == 3


def test_an_error_of_a_worker_that_starts_ends_the_run(run, tmp_path):
    with pytest.raises(
        WorkersFailedError,
        match=r"stopped before they were ready \(KeyError: 'x'\): read the end of .*run.log$",
    ):
        run(range(100), None)
    assert n_lines(tmp_path / "starts") == 1


@pytest.mark.parametrize("room", [1, 3])
def test_workers_that_find_no_room_on_a_gpu_are_left_out_and_told(room, run, caplog):
    *said, n_starts = run(range(20), set(), ["cuda:0"] * 4, room)
    assert {each.shard for each in said if isinstance(each, Committed)} == set(range(20))
    assert n_starts == 4
    warnings = [each.getMessage() for each in caplog.records if "cannot start" in each.getMessage()]
    assert len(warnings) == 4 - room
    assert re.fullmatch(
        r"a worker on cuda:0 cannot start \(OutOfMemoryError: CUDA out of memory\): \d others go on there; "
        "--workers sets their number",
        warnings[-1],
    )


def test_a_gpu_on_which_no_worker_can_start_ends_the_run(run, tmp_path):
    with pytest.raises(
        WorkersFailedError, match=r"on cuda:1 stopped .*\(OutOfMemoryError: CUDA out of memory"
    ):
        run(range(20), set(), ["cuda:1"] * 3, room=0)
    assert n_lines(tmp_path / "starts") == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), (Stopped, "ResourceError", "a worker ran out of memory")),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"),
            (Stopped, "ResourceError", "x: No space left"),
        ),
        (IndexError("index\nout of range"), (Failed, None, "IndexError: index out of range")),
    ],
)
def test_what_ends_a_worker_is_told_in_one_line(error, said):
    told = []
    with telling(told.append):
        raise error
    (message,) = told
    line = message.message if isinstance(message, Stopped) else message.reason
    assert (type(message), getattr(message, "kind", None)) == said[:2]
    assert line.startswith(said[2])
    assert "\n" not in line
