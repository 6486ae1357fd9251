"""Runs in processes of their own, which tests disturb."""

import signal
import subprocess
import time

from conftest import command


def start(*arguments):
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, process):
    """Poll until something holds; a run that ends before is a failure of the test's premise."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def committed(out):
    return len(list(out.glob("shards/[0-9]*/shard.json")))
