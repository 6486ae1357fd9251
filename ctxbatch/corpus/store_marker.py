"""Recognises a store of this program by the first bytes of its manifest."""

import errno
from pathlib import Path

from ctxbatch.filesystem import RemoteError, read_file

# The name of a store's manifest, and what it calls its format.
MANIFEST = "manifest.json"
STORE_FORMAT = "ctxbatch store"
# Why a store is not read as input.
A_STORE = f"a {STORE_FORMAT}"
_HEAD_BYTES = 200


def is_store(folder: Path) -> bool:
    """Return True if a folder is a store of this program, whose files are not input."""
    try:
        if not (folder / MANIFEST).is_file():  # opening a pipe would block
            return False
        with (folder / MANIFEST).open("rb") as stream:
            return _is_manifest(stream.read(_HEAD_BYTES))
    except OSError:
        return False


def is_remote_store(url: str) -> bool:
    """Return True if a remote folder is a store of this program.

    Raises:
        RemoteError: The network fails.
    """
    try:
        return _is_manifest(read_file(f"{url.rstrip('/')}/{MANIFEST}", _HEAD_BYTES))
    except RemoteError as error:
        if error.errno == errno.EIO:
            raise
        return False


def _is_manifest(head: bytes) -> bool:
    return f'"{STORE_FORMAT}"'.encode() in head
