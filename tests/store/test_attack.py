"""A small part of the attacks that `scripts/checks/attack.py` makes on a store; it says what they are."""

import subprocess
import sys

import pytest

from tests.helpers.running import ROOT


@pytest.mark.parametrize(
    "arguments",
    [["files", "--cases", "40", "--seed", "23"], ["io", "--every", "120"]],
    ids=["files", "calls"],
)
def test_nothing_crashes_lies_or_is_written_elsewhere(arguments, tmp_path):
    command = [
        sys.executable,
        "-m",
        "scripts.checks.attack",
        *arguments,
        "--seconds",
        "60",
        "--work",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
