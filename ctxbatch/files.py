"""Writes files whole or not at all, only inside a store, and only if the disk has room.

A file that is written once is written beside its place, synced and renamed. Its temporary name is hidden, and
unique to the process on all machines. Also owns the location of the user's cache folder.
"""

import errno
import functools
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ctxbatch.errors import ResourceError, StoreError
from ctxbatch.sealed import seal
from ctxbatch.terminal import readable_size

# The environment variable that tells a worker its nonce, so that its coordinator can clean up after it.
PROCESS_NONCE = "CTXBATCH_PROCESS"


# --- whole or not at all ----------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum, whole or not at all, and sync it.

    Raises:
        OSError: The disk refuses.
    """
    write_atomically(path, seal(content))


def create(path: Path, content: bytes) -> bool:
    """Write a file atomically unless it exists; return True if this call created it.

    Of several processes on several machines, exactly one succeeds: a link appears whole and replaces nothing.

    Raises:
        OSError: The disk refuses.
    """
    beside = path.with_name(temporary_name(path.name))
    try:
        beside.write_bytes(content)
        sync(beside)
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it, and rename it into place."""
    with replacing(path) as beside:
        beside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; then sync that file and rename it into place."""
    beside = path.with_name(temporary_name(path.name))
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder with its content, or a file. What cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # rmtree would open a pipe, and wait
        with suppress(OSError):
            path.unlink()


# --- names while a file is written ------------------------------------------------------------


def temporary_name(name: str, process: str | None = None) -> str:
    """Return a name for a file or folder being written: hidden, and unique to a process on all machines."""
    return f".{name}.{process or process_name()}.tmp"


def process_name(pid: int | None = None, nonce: str | None = None) -> str:
    """Return a name, unique among the writers of a store, for this process or one that it started.

    Host and process number are not enough: two containers can share both.

    Args:
        pid: The number of a process that this one started.
        nonce: The value of `PROCESS_NONCE` in that process's environment.
    """
    return f"{host_name().replace('.', '-')}.{nonce or _own_nonce()}.{pid or os.getpid()}"


def new_nonce() -> str:
    """Return a nonce for a process that is about to start."""
    return secrets.token_hex(6)


@functools.cache
def _own_nonce() -> str:
    return os.environ.get(PROCESS_NONCE) or new_nonce()


def host_name() -> str:
    """Return this machine's name among the writers of a store."""
    return socket.gethostname()


# --- inside the store alone -------------------------------------------------------------------


def open_to_write(path: Path, mode: int) -> int:
    """Open or create a file of a store to write to it in place; return the descriptor.

    Raises:
        StoreError: It is a link, or not a regular file.
        OSError: The disk refuses.
    """
    flags = mode | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise StoreError(refused_link(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(refused_link(path))
    return descriptor


def refused_link(path: Path) -> str:
    """Return the message for a link, or a special file, in place of a file of a store."""
    return f"{path} is a link or not a regular file, and ctxbatch writes only inside a store: remove it"


# --- room, and a disk that refuses ------------------------------------------------------------


def free_bytes(out: Path) -> int:
    """Return the bytes free on the disk where a store is or will be."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(out: Path, needed: int, remedy: str) -> None:
    """Raise an error if the disk cannot hold ``needed`` bytes more; ``remedy`` ends its message.

    Raises:
        ResourceError: The disk has too little room.
    """
    free = free_bytes(out)
    if needed > free:
        raise ResourceError(
            f"{out} needs about {readable_size(needed)} more, but its disk has {readable_size(free)} free: "
            f"{remedy}"
        )


def as_resource_error(error: OSError, out: Path) -> ResourceError:
    """Return the error that says what stopped the writing of a store, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"the disk of {out} is full: make room and run the same command again")
    return ResourceError(f"{out} cannot be written to ({error.strerror or error}): fix that and run again")


# --- the cache --------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the user's cache folder, for converted models and rates of past runs.

    Raises:
        ResourceError: The user has no home folder, and XDG_CACHE_HOME is not an absolute path.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if Path(named).is_absolute():  # the XDG standard ignores relative paths
        return Path(named) / "ctxbatch"
    try:
        return Path.home() / ".cache" / "ctxbatch"
    except RuntimeError:
        raise ResourceError(
            "this user has no home folder for a cache: set XDG_CACHE_HOME to a folder"
        ) from None
