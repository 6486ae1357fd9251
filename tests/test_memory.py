"""What is free is the memory of the machine, the container or the process, whichever is smallest."""

import resource
import subprocess
import sys

import pytest

from ctxbatch import memory

MIB = 1 << 20


@pytest.mark.parametrize("version", [0, 1])
def test_a_limit_of_a_container_leaves_less_memory_free(tmp_path, monkeypatch, version):
    name, _, limit, used, cache = memory._CGROUPS[version]
    monkeypatch.setattr(memory, "_CGROUPS", [(name, tmp_path, limit, used, cache)])
    assert memory.free_memory() > 100 * MIB  # no such folder
    (tmp_path / limit).write_text("max\n" if version == 0 else f"{1 << 62}\n")
    (tmp_path / used).write_text(f"{90 * MIB}\n")
    (tmp_path / memory._STATISTICS).write_text(f"anon 5\n{cache} {30 * MIB}\n")
    assert memory.free_memory() > 100 * MIB
    (tmp_path / limit).write_text(f"{100 * MIB}\n")
    assert memory.free_memory() == 40 * MIB


def test_a_limit_of_a_process_leaves_less_memory_free():
    code = "from ctxbatch.memory import *; print(free_for_this_process(), free_memory())"
    limits = lambda: resource.setrlimit(resource.RLIMIT_AS, (400 * MIB,) * 2)  # noqa: E731 (used once)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, preexec_fn=limits)
    here, everywhere = map(int, done.stdout.split())
    assert 0 < here < 400 * MIB
    assert everywhere > here
