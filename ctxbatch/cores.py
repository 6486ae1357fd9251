"""Counts the cores that this process may use, and undoes the thread binding of OpenMP.

If OpenMP is told to bind threads to cores, loading a library that uses it binds the loading thread, and all
threads and processes that this thread starts. The package therefore imports this module first.
"""

import contextlib
import os

_AT_START = os.sched_getaffinity(0)
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
# The environment of processes that must not be bound.
UNBOUND = {"OMP_PROC_BIND": "false", "KMP_AFFINITY": "disabled"}
_LIMIT = "LOKY_MAX_CPU_COUNT"


def unbind() -> None:
    """Give this thread, and what it starts from now on, the cores that it had at the start."""
    if any(os.environ.get(name) for name in _BINDING):
        with contextlib.suppress(OSError):  # some of these cores have since been taken away
            os.sched_setaffinity(0, _AT_START)


def count_cores() -> int:
    """Return the number of physical cores this process may use, by affinity mask and cgroup quota."""
    from joblib import cpu_count

    unbind()
    return int(cpu_count(only_physical_cores=True))


def describe_limit() -> str | None:
    """Return why this process may not use all cores; ``None`` if it may, or if the user set the number."""
    from joblib import cpu_count

    unbind()
    usable, there = cpu_count(), os.cpu_count() or 1
    if usable >= there or os.environ.get(_LIMIT) == str(usable):
        return None
    limit = "affinity mask" if usable == len(os.sched_getaffinity(0)) else "cgroup quota"
    return f"{usable} of {there} cores may be used ({limit})"
