"""Who may write to a store at this moment: the store's lock, and the claims of single shards.

Owns ``OUT/.lock``, of which single bytes are locked: the operating system frees them with the last process
that holds them, however it ends, so nothing has to be cleared away and nothing can be stale. They are byte
ranges of open files (F_OFD_SETLK), because those are what network file systems pass on to other machines,
what child processes inherit, and what `status` can ask for without taking anything.
"""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ctxbatch.errors import ResourceError
from ctxbatch.files import as_resource_error, host_name, open_to_write
from ctxbatch.store.manifest import LOCK, refuse_links

# What each byte stands for. The first two are held for one run alone, or shared by the parts of one.
_COORDINATORS = 0  # by coordinators
_WRITERS = 1  # by coordinators and their workers, which may outlive them by a moment
_FIRST_SHARD = 2  # and so on: by the one process that makes the shard
_STRUCT_FLOCK = "hhqqi4x"
_OWNER_BYTES = 200
# How long a new run waits for the workers of one that was killed to notice and end.
_ORPHANS_END_SECONDS = 30.0


@contextlib.contextmanager
def locked(out: Path) -> Iterator[int]:
    """Hold a store for this run alone; yields the descriptor that workers inherit, so that they hold it too.

    Where the process that held it is gone and only its workers are left, they are given time to notice.

    Raises:
        ResourceError: Another run or parts of one hold it, or the folder cannot be written to.
    """
    with _held(out, fcntl.F_WRLCK) as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {host_name()}\n".encode(), 0)
        yield descriptor


@contextlib.contextmanager
def shared(out: Path) -> Iterator[int]:
    """Hold a store together with other parts of a run; yields the descriptor that workers inherit.

    Raises:
        ResourceError: A whole run holds it, or the folder cannot be written to.
    """
    with _held(out, fcntl.F_RDLCK) as descriptor:
        yield descriptor


@contextlib.contextmanager
def _held(out: Path, kind: int) -> Iterator[int]:
    with contextlib.ExitStack() as opened:
        try:
            out.mkdir(parents=True, exist_ok=True)
            refuse_links(out)
            coordinators, writers = (open_to_write(out / LOCK, os.O_RDWR) for _ in range(2))
        except OSError as error:
            raise as_resource_error(error, out) from error
        opened.callback(os.close, coordinators)
        opened.callback(os.close, writers)
        if not _take(coordinators, kind, _COORDINATORS):
            raise ResourceError(_in_the_way(coordinators, out))
        deadline = time.monotonic() + _ORPHANS_END_SECONDS
        while not _take(writers, kind, _WRITERS):
            if time.monotonic() > deadline:
                raise ResourceError(f"workers of a run that has ended still write to {out}: stop them")
            time.sleep(0.05)
        yield writers


def _in_the_way(descriptor: int, out: Path) -> str:
    if _holder(descriptor, _COORDINATORS) == fcntl.F_RDLCK:
        return (
            f"parts of a run are writing to {out}: wait for them (`ctxbatch status {out}` says how far they "
            "are), or stop them and run again"
        )
    owner = os.pread(descriptor, _OWNER_BYTES, 0).decode(errors="replace").strip() or "unknown process"
    return f"another run is writing to {out} ({owner}): wait for it, or stop it and run again"


def is_locked(out: Path) -> bool:
    """Whether a run or a part of one is writing to the store at this moment."""
    return bool(_held_bytes(out, [_WRITERS]))


# --- claims ---------------------------------------------------------------------------------------


class Claims:
    """The shards that this process alone makes at this moment.

    The process that makes a shard holds its claim itself: a claim is free when, and only when, nobody is
    left who could still write the shard. A context manager: all are free after it.

    Args:
        out: The store's folder, which this process or its coordinator holds.
    """

    def __init__(self, out: Path) -> None:
        self._descriptor = open_to_write(out / LOCK, os.O_RDWR)

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def take(self, shard: int) -> bool:
        """Claim a shard; false where another process has it."""
        return _take(self._descriptor, fcntl.F_WRLCK, _FIRST_SHARD + shard)

    def release(self, shard: int) -> None:
        """Leave a shard to whoever wants it."""
        _take(self._descriptor, fcntl.F_UNLCK, _FIRST_SHARD + shard)


def claimed(out: Path, shards: Iterable[int]) -> list[int]:
    """Those of some shards that are being made at this moment."""
    return [byte - _FIRST_SHARD for byte in _held_bytes(out, [_FIRST_SHARD + shard for shard in shards])]


# --- bytes ----------------------------------------------------------------------------------------


def _take(descriptor: int, kind: int, byte: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, byte))
    except BlockingIOError:
        return False
    except OSError as error:
        raise ResourceError(
            f"the file system of the store cannot lock {LOCK} ({error.strerror}): mount it with locks, or "
            "name another -o"
        ) from error
    return True


def _held_bytes(out: Path, bytes_: Iterable[int]) -> list[int]:
    """Those of some bytes that somebody holds; none where there is no such file or it may not be read."""
    try:
        descriptor = os.open(out / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        return [byte for byte in bytes_ if _holder(descriptor, byte) != fcntl.F_UNLCK]
    except OSError:  # a file system without locks: nobody can hold one
        return []
    finally:
        os.close(descriptor)


def _holder(descriptor: int, byte: int) -> int:
    """How a byte is held by others: F_WRLCK by one alone, F_RDLCK by some, F_UNLCK by nobody."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    kind: int = struct.unpack(_STRUCT_FLOCK, found)[0]
    return kind


def _flock(kind: int, byte: int) -> bytes:
    """C's ``struct flock`` for one byte."""
    return struct.pack(_STRUCT_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
