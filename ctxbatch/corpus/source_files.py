"""Opens and looks up the file behind a source's name, local or remote."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from ctxbatch.corpus.read_errors import may_be_fixed, unreadable
from ctxbatch.filesystem import is_remote, look_up, open_file


def open_source(path: str) -> IO[bytes]:
    """Open a local or a remote file for reading.

    Raises:
        OSError: It cannot be opened.
    """
    if is_remote(path):
        return open_file(path)
    refuse_special(path)
    return Path(path).open("rb")


def refuse_special(path: str) -> None:
    """Raise an error unless a path is a regular file: a store may name a pipe, which would block.

    Raises:
        OSError: It is not a regular file, or cannot be looked up.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)


def real_place(path: str) -> str:
    """Return the real path of a file, which all its names share."""
    return path if is_remote(path) else str(Path(path).resolve())


def size_and_time(path: str) -> tuple[int, int]:
    """Return the current size and modification time (ns) of a file.

    Raises:
        OSError: It cannot be looked up.
    """
    if is_remote(path):
        entry = look_up(path)
        return entry.size, entry.mtime_ns
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def current_size(path: str) -> int | None:
    """Return the current size of a file, or ``None`` if it does not exist.

    Raises:
        ResourceError: The network fails.
    """
    try:
        return size_and_time(path)[0]
    except OSError as error:
        if may_be_fixed(error):
            raise unreadable(path, error) from error
        return None
