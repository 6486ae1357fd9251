"""Reads sources with little memory, and prints a line for each: `python limited.py BYTES PATH ...`.

A forked process reads each source. It may take BYTES more than it has after all imports.
"""

import os
import resource
import sys
from pathlib import Path

from ctxbatch.corpus.records import Reject
from ctxbatch.errors import CtxbatchError
from tests.helpers.corpora import reading_of

# One shard takes many large records. If each had a shard, the source would be opened and decoded for each.
SHARD_SIZE = 1 << 30


def outcome(path):
    """Return the reasons of a source's rejects, or the error, or the number of records."""
    rejects, n_records = [], 0
    try:
        for item in reading_of([path], shard_size=SHARD_SIZE)[2]:
            if isinstance(item, Reject):
                rejects.append(item.reason)
            else:
                n_records += 1
    except CtxbatchError as error:
        return f"{type(error).__name__}: {error}"
    return "; ".join(rejects) or f"{n_records} records"


def main():
    n_bytes, *paths = sys.argv[1:]
    for path in paths:
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (has + int(n_bytes),) * 2)
            print(outcome(path), flush=True)
            os._exit(0)
        if status := os.waitpid(pid, 0)[1]:
            print(f"ended with {status}")


if __name__ == "__main__":
    main()
