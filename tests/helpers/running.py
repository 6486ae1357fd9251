"""Starts runs in processes of their own, which tests stop and kill."""

import signal
import subprocess
import sys
import time
from pathlib import Path

# The repository, from which tests and scripts are imported.
ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ctxbatch", *map(str, arguments)]


def start(*arguments):
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )


def heed_signals():
    for each in (signal.SIGINT, signal.SIGHUP):  # background jobs and nohup ignore these
        signal.signal(each, signal.SIG_DFL)


def ignore_signals():
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)


def wait_for(condition, process):
    """Poll until a condition holds; fail if the process ends before."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def committed(out):
    return len(list(out.glob("shards/[0-9]*/shard.json")))
