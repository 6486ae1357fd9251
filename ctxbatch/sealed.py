"""Makes and reads sealed files, JSON objects with their own checksum, and opens the files of a store.

A store is untrusted. Its files are opened only if they are regular, and read only up to a limit. Their
content is checked against a declared type before use. A bad file raises a `StoreError`; a disk, a permission
or a lack of memory raises a `ResourceError`.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ctxbatch.errors import CtxbatchError, InputError, StoreError, cannot_be_read, one_line, out_of_memory

Content = TypeVar("Content")
# The manifest of a million sources takes about 400 MB.
MAX_BYTES = 1 << 30
_BLOCK_BYTES = 4 << 20
_MISSING = (errno.ENOENT, errno.ENOTDIR)

# Types of values in sealed files.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]


def canonical_json(value: object) -> str:
    """Return the canonical spelling of a JSON value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def seal(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object with its own checksum, as bytes to write."""
    sealed = {**content, "checksum": _checksum(content)}
    # The bytes of `json.dumps(..., indent=1)`, which takes four times as long and ten times the memory.
    return msgspec.json.format(json.dumps(sealed, ensure_ascii=False).encode(), indent=1) + b"\n"


def unseal(raw: bytes, name: object) -> dict[str, Any]:
    """Return the JSON object in bytes that `seal` made; ``name`` is their place, for errors.

    Raises:
        StoreError: They are not a JSON object, or not byte for byte what was written.
    """
    try:
        content: dict[str, Any] = json.loads(raw)
        del content["checksum"]
        intact = raw == seal(content)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{name} is damaged: it is not the JSON that was written") from error
    if not intact:
        raise StoreError(f"{name} is damaged: its content does not match its checksum")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def typed(content: Mapping[str, Any], kind: type[Content], name: object) -> Content:
    """Check an unsealed object's fields against their types, and return it as a dataclass.

    Raises:
        StoreError: A field is missing, of another type or out of its bounds.
    """
    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError, InputError) as error:
        raise StoreError(f"{name} is damaged: {one_line(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read and unseal a JSON file.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: It is not a regular file, not a JSON object, or not byte for byte what was written.
        ResourceError: The disk or a permission does not let it be read.
    """
    return unseal(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file of a store whole.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: It is not a regular file, or larger than `MAX_BYTES`.
        ResourceError: The disk or a permission does not let it be read.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > MAX_BYTES:
            raise StoreError(f"{path} is damaged: it is larger than {MAX_BYTES >> 20} MiB")
        try:
            return stream.read(MAX_BYTES)
        except OSError as error:
            raise not_readable(path, error) from error
        except MemoryError as error:
            raise out_of_memory(path) from error


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading; a FIFO or a device would hang or never end.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: It is not a regular file.
        ResourceError: The disk or a permission does not let it be opened.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before opening: opening a device can have effects
            raise _not_regular(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _MISSING:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise not_readable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return os.fdopen(descriptor, "rb")


def _not_regular(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged: it is not a regular file")


def is_there(path: Path) -> bool:
    """Return True if a path exists, even as a broken link.

    Raises:
        ResourceError: The disk or a permission does not let it be looked up.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in _MISSING:
            return False
        raise not_readable(path, error) from error
    return True


def size_of(path: Path) -> int | None:
    """Return the size of a regular file, or ``None`` if there is none.

    Raises:
        ResourceError: The disk or a permission does not let it be looked up.
    """
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise not_readable(path, error) from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def file_digest(path: Path, look: Callable[[], None] = lambda: None) -> str:
    """Return the sha256 of a regular file.

    Args:
        path: The file.
        look: Called after every few MB; what it raises ends the reading.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: It is not a regular file.
        ResourceError: The disk or a permission does not let it be read.
    """
    with open_regular(path) as stream:
        try:
            digest = hashlib.sha256()
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                look()
            return digest.hexdigest()
        except OSError as error:
            raise not_readable(path, error) from error


def is_intact(path: Path, size: int, sha256: str, look: Callable[[], None] = lambda: None) -> bool:
    """Return True if a file has the size and the checksum that were noted when it was written.

    ``look`` is as in `file_digest`.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: It is not a regular file.
        ResourceError: The disk or a permission does not let it be read.
    """
    return size_of(path) in (None, size) and file_digest(path, look) == sha256


def not_readable(path: Path, error: OSError) -> CtxbatchError:
    """Return the error that says why an existing file cannot be read.

    A path that the system cannot follow, such as a loop of links, is the store's fault; the rest is not.
    """
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return StoreError(f"{path} is damaged: {error.strerror}")
    why = str(error) if error.errno is None else os.strerror(error.errno)  # Arrow's message names the file
    return cannot_be_read(path, why)
