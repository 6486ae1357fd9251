"""A build of an index that a signal stops says so, whatever it is doing."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers.many_shards import SCRIPT
from tests.helpers.running import heed_signals
from tests.helpers.terminals import on_a_terminal

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
    [
        "index_parts.train",
        "index_parts.Codebook.ensure",
        "index_build.tune_index",
        "index_tuning.best_scores",
    ],
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


def test_a_build_shows_how_far_filling_and_tuning_are(unindexed, tmp_path):
    out = shutil.copytree(unindexed, tmp_path / "out")
    shown, status = on_a_terminal("index", out, "--factory", "IVF16,Flat")
    assert status == 0, shown
    percents = [int(percent) for percent in re.findall(r"tuning: +(\d+)%\|", shown)]
    assert shown.index("indexing") < shown.index("tuning")
    assert percents[0] == 0
    assert percents == sorted(percents)
    assert 55 < percents[-1] < 100
