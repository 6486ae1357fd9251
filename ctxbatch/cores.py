"""The cores that this process may use, whatever the libraries that it loads do to it.

Where OpenMP is told to bind threads to cores, loading a library that uses it binds the thread that loads it,
and with it all threads and processes that this thread starts. The package imports this module before others.
"""

import contextlib
import os

_AT_START = os.sched_getaffinity(0)
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
# The environment of processes that are not to be bound.
UNBOUND = {"OMP_PROC_BIND": "false", "KMP_AFFINITY": "disabled"}
_LIMIT = "LOKY_MAX_CPU_COUNT"


def unbind() -> None:
    """Give this thread, and what it starts from now on, the cores that it had at the start."""
    if any(os.environ.get(name) for name in _BINDING):
        with contextlib.suppress(OSError):  # some of them have been taken away since
            os.sched_setaffinity(0, _AT_START)


def count_cores() -> int:
    """How many physical cores this process may use, by its affinity mask and the quota of its cgroup."""
    from joblib import cpu_count

    unbind()
    return int(cpu_count(only_physical_cores=True))


def describe_limit() -> str | None:
    """Why this process may use fewer cores than the machine has; ``None`` if all, or as the user says."""
    from joblib import cpu_count

    unbind()
    usable, there = cpu_count(), os.cpu_count() or 1
    if usable >= there or os.environ.get(_LIMIT) == str(usable):
        return None
    limit = "affinity mask" if usable == len(os.sched_getaffinity(0)) else "cgroup quota"
    return f"{usable} of {there} cores may be used ({limit})"
