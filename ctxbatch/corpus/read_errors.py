"""Decides what an error in reading a source means: damaged bytes, or a problem of this machine.

Damage is committed as a reject, and nobody reads those bytes again. A problem of this machine (memory, disk,
network, a permission, a codec that pyarrow was built without) ends the run with nothing committed. pyarrow
raises the same classes for both, and reports one shortage in many ways, so neither classes nor messages alone
decide:

- A `MemoryError`, and an `OSError` with a number, are this machine's; pyarrow hides some in its messages.
- So is a message about memory, threads or a codec that was not built.
- For any other message, memory must be available: if a quarter of a gigabyte cannot be allocated at that
  moment, the failure says nothing about the bytes.
- A request for more memory than the file's bytes could ever expand to is damage.
"""

import contextlib
import errno
import mmap
import re
from collections.abc import Iterator

from ctxbatch.errors import (
    SHOWN_REASON,
    CtxbatchError,
    InputError,
    ResourceError,
    cannot_be_read,
    one_line,
    out_of_memory,
)
from ctxbatch.filesystem import RemoteError, is_remote

# Errors of a wrong name, not of a file that could not be read.
_WRONG_NAME = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
    errno.ENXIO,
)
_MEMORY = re.compile(
    r"\b[mc]alloc\b|\brealloc\b|bad_alloc|allocation_failed|allocation error|(not enough|insufficient) memory"
    r"|(cannot|failed to|could not|unable to) (re)?allocate|out of memory|requires too much memory|error -4 "
    r"|launch worker thread|resource temporarily unavailable|too many open files|memory usage limit",
    re.IGNORECASE,
)
_CODEC = re.compile(r"support for codec .* not built", re.IGNORECASE)
_NUMBERED = re.compile(r"\[errno (\d+)\] (.*?)(?:\. Detail: |$)", re.IGNORECASE)
_REQUEST = re.compile(r"alloc of size (\d+) failed")
# No codec expands a byte to more, and no machine has this much memory.
_MAX_EXPANSION = 40_000
_IMPOSSIBLE_BYTES = 1 << 40
_DAMAGE = re.compile(r"the \w+ data are damaged \((.*)\)", re.DOTALL)
_PROBED_BYTES = 256 << 20


class DamagedError(Exception):
    """A source cannot be decompressed, or read as the table it claims to be, from here on."""


class UnsupportedError(Exception):
    """A source may be intact, but is not decompressed; the message says what it is, and the remedy."""


def classify_error(error: Exception, path: str, what: str, size: int = _IMPOSSIBLE_BYTES) -> Exception:
    """Return the error to raise in place of one that a decoder raised.

    Args:
        error: The decoder's error.
        path: The source.
        what: What its bytes should be, such as ``Parquet``.
        size: The size of the file in bytes.

    Returns:
        A `DamagedError` if the source's bytes are at fault, else an `InputError` or a `ResourceError`.
    """
    why = one_line(error)
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(path, error)
    if hidden := _NUMBERED.search(why):
        kind = RemoteError if is_remote(path) else OSError
        return unreadable(path, kind(int(hidden[1]), hidden[2]))
    if _CODEC.search(why):
        return ResourceError(f"{path} cannot be read ({why}): install a pyarrow with this codec")
    if asked := _impossible_request(why, size):
        # Do not quote words that `is_our_trouble` would match, unless no machine has that much memory.
        return _damage(what, why if asked > _IMPOSSIBLE_BYTES else f"it claims to hold {asked:,} bytes")
    if isinstance(error, MemoryError) or _MEMORY.search(why) or not _is_memory_left():
        return out_of_memory(path, why)
    return _damage(what, why)


def _damage(what: str, why: str) -> DamagedError:
    return DamagedError(f"the {what} data are damaged ({why[:SHOWN_REASON]})")


def is_our_trouble(reason: str) -> bool:
    """Return True if a stored reject's reason blames this machine, not the bytes.

    Earlier versions committed such rejects, whose bytes may be intact.
    """
    match = _DAMAGE.match(reason)
    if match is None or _impossible_request(match[1], _IMPOSSIBLE_BYTES):
        return False
    return any(signs.search(match[1]) is not None for signs in (_MEMORY, _CODEC, _NUMBERED))


def _impossible_request(why: str, size: int) -> int:
    """Return the requested memory in bytes if a file of this size could never need it, else 0."""
    request = _REQUEST.search(why)
    asked = 0 if request is None else int(request[1])
    return asked if asked > min(_IMPOSSIBLE_BYTES, size * _MAX_EXPANSION + _PROBED_BYTES) else 0


def _is_memory_left() -> bool:
    try:
        mmap.mmap(-1, _PROBED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


@contextlib.contextmanager
def telling_of_memory(path: str) -> Iterator[None]:
    """Turn a `MemoryError` into a `ResourceError` that names the source being read."""
    try:
        yield
    except MemoryError as error:
        raise out_of_memory(path, one_line(error)) from error


def unreadable(path: str, error: OSError) -> CtxbatchError:
    """Return the error that says why a source cannot be read."""
    if not may_be_fixed(error):
        return InputError(f"{path} cannot be read: {error.strerror or error}")
    if isinstance(error, RemoteError):  # it already says what to do
        return ResourceError(f"{path} cannot be read: {error.strerror}")
    return cannot_be_read(path, error)


def may_be_fixed(error: OSError) -> bool:
    """Return True if the disk, the network or a permission is at fault, so that a later run may succeed."""
    return error.errno not in _WRONG_NAME
