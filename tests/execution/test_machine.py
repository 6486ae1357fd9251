"""Machines as clusters and containers have them: bound to a core, or without a home."""

import os
import subprocess
import sys

import pytest

COUNT = """
import ctxbatch, torch
from ctxbatch.model.devices import choose_workers
print(len(choose_workers(None, ["cpu"], 0)))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core alone cannot be lost")
def test_workers_are_counted_before_a_library_binds_the_process_to_a_core():
    ours = ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    counted = [
        subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, check=True).stdout
        for environment in (clean, {**clean, "OMP_PROC_BIND": "true"})
    ]
    assert counted[0] == counted[1]


def test_a_user_without_a_home_gets_an_estimate_and_a_run(tmp_path, tiny, text, cli, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("ctxbatch.files.Path.home", no_home)
    assert cli("plan", text, "-o", tmp_path / "out", "--model", tiny()).returncode == 0
    assert cli("run", text, "-o", tmp_path / "out", "--model", tiny()).returncode in (0, 3)
    result = cli("status", "s3://bucket/store")
    assert result.returncode == 4
    assert "set XDG_CACHE_HOME" in result.stderr
