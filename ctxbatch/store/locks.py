"""Locks a store for writing, and claims single shards.

Owns ``OUT/.lock``, and locks single bytes of it. The operating system frees a lock when its last holder ends,
however it ends, so no lock is ever stale. The locks belong to open file descriptions (F_OFD_SETLK): network
file systems pass those on to other machines, child processes inherit them, and `status` can query them
without taking any.
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

# Who locks which byte. A run locks the first two exclusively; the parts of one run share them.
_COORDINATORS = 0  # coordinators
_WRITERS = 1  # coordinators and their workers, which may outlive them by a moment
_FIRST_SHARD = 2  # and one byte a shard from here: the process that makes the shard
_STRUCT_FLOCK = "hhqqi4x"
_OWNER_BYTES = 200
# How long a new run waits for the workers of one that was killed to notice and end.
_ORPHANS_END_SECONDS = 30.0


@contextlib.contextmanager
def locked(out: Path) -> Iterator[int]:
    """Lock a store for this run alone; yield the descriptor that workers inherit to keep the lock.

    If a previous run was killed, this waits for its workers to notice and end.

    Raises:
        ResourceError: Another run, or a part of one, holds the lock, or the folder cannot be written to.
    """
    with _held(out, fcntl.F_WRLCK) as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {host_name()}\n".encode(), 0)
        yield descriptor


@contextlib.contextmanager
def shared(out: Path) -> Iterator[int]:
    """Lock a store together with other parts of a run; yield the descriptor that workers inherit.

    Raises:
        ResourceError: A whole run holds the lock, or the folder cannot be written to.
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
            raise ResourceError(_locked_by(coordinators, out))
        deadline = time.monotonic() + _ORPHANS_END_SECONDS
        while not _take(writers, kind, _WRITERS):
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"workers of an earlier run still write to {out}: wait a minute, or end these processes, "
                    "then run again"
                )
            time.sleep(0.05)
        yield writers


def _locked_by(descriptor: int, out: Path) -> str:
    """Return the message that names the holder of the lock."""
    if _holder(descriptor, _COORDINATORS) == fcntl.F_RDLCK:
        return (
            f"parts of a run are writing to {out}: wait for them (`ctxbatch status {out}` shows their "
            "progress), or stop them and run again"
        )
    owner = os.pread(descriptor, _OWNER_BYTES, 0).decode(errors="replace").strip() or "unknown process"
    return f"another run is writing to {out} ({owner}): wait for it, or stop it and run again"


def is_locked(out: Path) -> bool:
    """Return True if a run, or a part of one, is writing to the store now."""
    return bool(_held_bytes(out, [_WRITERS]))


# --- claims ---------------------------------------------------------------------------------------


class Claims:
    """The shards that this process has claimed, so that no other process makes them.

    The process that makes a shard holds the claim itself: a claim is free only when no process is left that
    could still write the shard. A context manager, which frees all claims at its end.

    Args:
        out: The store's folder, which this process or its coordinator has locked.
    """

    def __init__(self, out: Path) -> None:
        self._descriptor = open_to_write(out / LOCK, os.O_RDWR)

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def take(self, shard: int) -> bool:
        """Claim a shard; return False if another process has claimed it."""
        return _take(self._descriptor, fcntl.F_WRLCK, _FIRST_SHARD + shard)

    def release(self, shard: int) -> None:
        """Free the claim of a shard."""
        _take(self._descriptor, fcntl.F_UNLCK, _FIRST_SHARD + shard)


def claimed(out: Path, shards: Iterable[int]) -> list[int]:
    """Return which of the shards are being made now."""
    return [byte - _FIRST_SHARD for byte in _held_bytes(out, [_FIRST_SHARD + shard for shard in shards])]


# --- bytes ----------------------------------------------------------------------------------------


def _take(descriptor: int, kind: int, byte: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, byte))
    except BlockingIOError:
        return False
    except OSError as error:
        raise ResourceError(
            f"the file system of the store cannot lock {LOCK} ({error.strerror}): mount it with locking, or "
            "choose another -o"
        ) from error
    return True


def _held_bytes(out: Path, bytes_: Iterable[int]) -> list[int]:
    """Return which of the bytes are locked; none if the lock file does not exist or cannot be read."""
    try:
        descriptor = os.open(out / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        return [byte for byte in bytes_ if _holder(descriptor, byte) != fcntl.F_UNLCK]
    except OSError:  # the file system has no locks, so nobody holds one
        return []
    finally:
        os.close(descriptor)


def _holder(descriptor: int, byte: int) -> int:
    """Return how others lock a byte: F_WRLCK exclusively, F_RDLCK together, F_UNLCK not at all."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    kind: int = struct.unpack(_STRUCT_FLOCK, found)[0]
    return kind


def _flock(kind: int, byte: int) -> bytes:
    """Return C's ``struct flock`` for one byte."""
    return struct.pack(_STRUCT_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
