"""A small part of the attacks that `scripts/checks/attack.py` makes on a store; it says what they are."""

import subprocess
import sys

from tests.helpers.running import ROOT


def test_nothing_crashes_lies_or_is_written_elsewhere(tmp_path):
    """Files and calls are attacked by one process, which imports everything and makes the stores once."""
    arguments = ("all", "--cases", "40", "--seed", "23", "--every", "120", "--seconds", "60")
    command = [sys.executable, "-m", "scripts.checks.attack", *arguments, "--work", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
