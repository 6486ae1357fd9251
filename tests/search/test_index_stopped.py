"""A build of an index that a signal stops says so, whatever it is doing."""

import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers.many_shards import SCRIPT
from tests.helpers.running import heed_signals

# The command line, which says when it comes to what sys.argv[1] names.
COMMAND_LINE = SCRIPT.format("""
from pkgutil import resolve_name
from ctxbatch.cli.main import main
owner, _, name = sys.argv.pop(1).rpartition(".")
owner = resolve_name(f"ctxbatch.search.{owner}")
real = getattr(owner, name)
def function(*arguments, **options):
    print("here", flush=True)
    return real(*arguments, **options)
setattr(owner, name, function)
main()
""")


@pytest.mark.parametrize(
    "moment",
    ["index_parts.train", "index_parts.Codebook.ensure", "index_build.tune_all", "index_build.best_scores"],
)
def test_a_build_that_is_stopped_says_so(moment, unindexed, tmp_path):
    out = shutil.copytree(unindexed, tmp_path / "out")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND_LINE, moment, "index", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 128 + signal.SIGINT, said
    assert said[-1].startswith("ctxbatch: stopped by SIGINT")
