"""How workers end: a defect is not tried again and again, and what the machine lacks is said so."""

import errno
import os
import stat
import sys

import pytest

from ctxbatch.execution.local_pool import Pool, WorkersFailedError
from ctxbatch.execution.worker import telling
from ctxbatch.store.location import FolderLocation

# Stands in for Python, which would import torch: fails in shards that it is told to, and notes every start.
WORKER = """#!{python}
import json, sys
say = lambda what, **content: print(json.dumps(dict(content, say=what)), flush=True)
with open({starts!r}, "a") as starts:
    starts.write("x")
fails = {fails}
if fails is None:
    say("failed", reason="KeyError: 'x'", trace="")
    sys.exit(1)
say("loaded")
say("ready")
for line in sys.stdin:
    shard = json.loads(line)["shard"]
    if shard in fails:
        say("failed", reason="IndexError: shard " + str(shard), trace="")
        sys.exit(1)
    say("committed", shard=shard, counts={{}})
    say("ready")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run shards with workers that fail in some; returns what is said, and how many workers are started."""

    def run(shards, fails):
        starts, program = tmp_path / "starts", tmp_path / "python"
        program.write_text(WORKER.format(python=sys.executable, starts=str(starts), fails=fails))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(program))
        said = []
        try:
            with (
                (tmp_path / "run.log").open("a") as log,
                Pool(FolderLocation(tmp_path), ["cpu"], 2, log) as pool,
            ):
                pool.run(shards, said.append)
        finally:
            monkeypatch.undo()
            said.append(len(starts.read_text()))
        return said

    return run


def test_a_shard_that_raises_an_error_is_given_up_at_once_and_the_others_are_made(run):
    *said, n_starts = run(range(5), {2})
    assert {each["shard"] for each in said if each["say"] == "committed"} == {0, 1, 3, 4}
    (given_up,) = (each for each in said if each["say"] == "given up")
    assert given_up == {"say": "given up", "shard": 2, "why": "IndexError: shard 2"}
    assert n_starts == 2


def test_an_error_of_every_shard_ends_the_run_in_one_line_that_names_the_log(run, tmp_path):
    with pytest.raises(
        WorkersFailedError, match=r"3 shards end in an error, the last in IndexError: .*run.log$"
    ):
        run(range(100), set(range(100)))
    assert len((tmp_path / "starts").read_text()) == 3


def test_an_error_of_a_worker_that_starts_ends_the_run(run, tmp_path):
    with pytest.raises(
        WorkersFailedError, match=r"end before they are ready, with KeyError: 'x': see .*run.log$"
    ):
        run(range(100), None)
    assert (tmp_path / "starts").read_text() == "x"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), ("error", "ResourceError", "a worker has no memory left")),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"),
            ("error", "ResourceError", "x: No space left"),
        ),
        (IndexError("index\nout of range"), ("failed", None, "IndexError: index out of range")),
    ],
)
def test_what_ends_a_worker_is_told_in_one_line(error, said):
    told = []
    with telling(lambda what, **content: told.append((what, content))):
        raise error
    ((what, content),) = told
    line = content.get("message") or content["reason"]
    assert (what, content.get("kind")) == said[:2]
    assert line.startswith(said[2])
    assert "\n" not in line
