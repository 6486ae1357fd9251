"""Says how much memory is free: of this machine, of this container, of this process."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_STATISTICS = "memory.stat"
# For version 2 and 1 of cgroups: their name in /proc, their root, the files of their limit and their use, and
# the part of the use that is a cache, which the kernel gives up.
_CGROUPS = (
    ("", Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        "memory",
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_memory() -> int:
    """Return how many bytes of memory this machine, or this container, has for new processes."""
    return min([_number_in(Path("/proc/meminfo"), "MemAvailable:") << 10, *_free_in_cgroups()])


def free_for_this_process() -> int:
    """Return how many bytes of memory this process may still take; ``ulimit -v`` may limit them."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return free_memory()
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE")
    return max(0, min(free_memory(), limit - used))


def _free_in_cgroups() -> Iterator[int]:
    """Yield what each cgroup with a limit that this process is in leaves free."""
    for name, root, limit_name, used_name, cache_name in _CGROUPS:
        for folder in _folders_of_this_process(name, root):
            try:
                limit = (folder / limit_name).read_text(encoding="ascii").strip()
                if limit.isdecimal():
                    used = int((folder / used_name).read_text(encoding="ascii"))
                    cache = _number_in(folder / _STATISTICS, cache_name)
                    yield max(0, int(limit) - used + cache)
            except OSError:  # no such cgroup, or one that is not seen from inside a container
                continue


def _folders_of_this_process(cgroup: str, root: Path) -> list[Path]:
    """Return the folders of this process's cgroup and of those around it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    own = next((path for _, names, path in (line.split(":", 2) for line in lines) if names == cgroup), "/")
    folder = root / own.strip("/")
    return [folder, *(around for around in folder.parents if around.is_relative_to(root))]


def _number_in(path: Path, name: str) -> int:
    lines = path.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
