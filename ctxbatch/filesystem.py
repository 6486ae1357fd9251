"""Looks up, lists, reads and writes files whose name has a scheme, such as ``s3://bucket/key``.

Owns which names are remote. Credentials, regions and endpoints come only from the environment. The libraries
retry by themselves; AWS_MAX_ATTEMPTS limits them on S3. Every failure is a `RemoteError` with an ``errno``:
readers take an `OSError` without one for damaged data, and would lose records. The main thread has another
thread do the work, so that it can handle signals meanwhile.
"""

import contextlib
import errno
import io
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import fs as arrow_fs

from ctxbatch.errors import SHOWN_REASON, InputError, ResourceError, one_line
from ctxbatch.storage_backends import arrow_file_system, fsspec_file_system

log = logging.getLogger("ctxbatch")
Answer = TypeVar("Answer")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)", re.IGNORECASE)
# Bytes per read: few requests, and little that is read in vain at the end of a shard.
_BUFFER = 1 << 20
# Bytes per read when a whole file is copied.
_BLOCK = 16 << 20
OF_BUCKETS = ("s3", "gs", "gcs")
_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "status 403",
    "OAuth2",
)
_ABSENT = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND")
# Waits longer than this are logged.
_SILENT_SECONDS = 10.0
_NOT_FOUND = "no such object, folder or bucket"


class RemoteError(OSError):
    """A remote file system refuses or fails; ``strerror`` says why and what to do.

    ``errno`` is ENOENT if nothing has the name, EINVAL if nothing can have it, EACCES if access is denied,
    and EIO for anything else, which may succeed later.
    """


class Entry(NamedTuple):
    """An object or a folder. A folder's size is 0; ``mtime_ns`` is 0 if the file system has no times."""

    url: str
    size: int
    mtime_ns: int
    is_folder: bool


def is_remote(name: str) -> bool:
    """Return True if a name begins with a scheme. No path that pathlib wrote does."""
    return _SCHEME.match(name) is not None


def without_password(url: str) -> str:
    """Return a URL with its password hidden, for messages."""
    return re.sub(r"^([^/]*//[^/:]*):[^/@]*@", r"\1:…@", url)


def check_name(url: str) -> None:
    """Raise an error if a URL cannot name an object.

    Raises:
        RemoteError: It names no bucket, names a local file, or holds credentials.
    """
    match = _SCHEME.match(url)
    assert match is not None
    scheme, host = match[1].lower(), match[2]
    if scheme == "file":
        raise RemoteError(errno.EINVAL, f"give a local file by its path: {url[match.end() :]}")
    if scheme in OF_BUCKETS and not host:
        raise RemoteError(errno.EINVAL, f"it names no bucket: write {scheme}://bucket/key")
    user = host.rpartition("@")[0]
    if ":" in user or (scheme == "s3" and user):
        raise RemoteError(errno.EINVAL, f"a URL must not hold credentials: {_credentials(url)}")


@contextlib.contextmanager
def naming(place: object) -> Iterator[None]:
    """Turn an error of a remote file into one of the project's that names a place, a store or an export.

    Raises:
        InputError: The place is not there, or its name is malformed.
        ResourceError: The network fails, or access is denied.
    """
    try:
        yield
    except RemoteError as error:
        kind = InputError if error.errno in (errno.ENOENT, errno.EINVAL) else ResourceError
        raise kind(f"{place}: {error.strerror}") from error


def look_up(url: str) -> Entry:
    """Return what a URL names; a prefix of objects is a folder.

    Raises:
        RemoteError: It names nothing, or cannot be looked up.
    """
    info = _ask(url, lambda files, path: files.get_file_info(path))
    if info.type == arrow_fs.FileType.NotFound:
        raise RemoteError(errno.ENOENT, _NOT_FOUND)
    return _entry(url, info)


def list_folder(url: str, *, recursive: bool) -> list[Entry]:
    """Return the entries of a folder, or also of the folders below it, unsorted.

    Raises:
        RemoteError: It is not there, or cannot be listed.
    """

    def names(files: Any, path: str) -> tuple[list[Any], str]:  # noqa: ANN401 (pyarrow has no types)
        return files.get_file_info(arrow_fs.FileSelector(path, recursive=recursive)), path

    infos, path = _ask(url.rstrip("/"), names)
    inside = path.rstrip("/") + "/"
    root = url.rstrip("/") + "/"
    return [_entry(root + info.path[len(inside) :], info) for info in infos if info.path.startswith(inside)]


def open_file(url: str) -> IO[bytes]:
    """Open an object for random access, a megabyte ahead; its ``name`` is the URL.

    Raises:
        RemoteError: It cannot be opened. Its methods raise this if it cannot be read.
    """
    return io.BufferedReader(_RemoteFile(url), _BUFFER)


def read_file(url: str, size: int = -1) -> bytes:
    """Return an object's bytes, or the first ``size`` of them.

    Raises:
        RemoteError: It cannot be read.
    """
    with _RemoteFile(url) as file:
        return bytes(file.read(size))


def write_file(url: str, content: bytes) -> None:
    """Write an object whole or not at all.

    Raises:
        RemoteError: It cannot be written.
    """

    def write(files: Any, path: str) -> None:  # noqa: ANN401 (pyarrow has no types)
        # Otherwise pyarrow compresses objects whose name ends in .gz.
        with files.open_output_stream(path, compression=None) as stream:
            stream.write(content)

    _ask(url, write)


def upload(file: Path, url: str) -> None:
    """Copy a file to an object. If this fails, a truncated object may remain.

    Raises:
        RemoteError: The file cannot be read, or the object cannot be written.
    """

    def copy(files: Any, path: str) -> None:  # noqa: ANN401 (pyarrow has no types)
        with file.open("rb") as source, files.open_output_stream(path, compression=None) as stream:
            shutil.copyfileobj(source, stream, _BLOCK)

    _ask(url, copy)


def download(url: str, file: Path) -> None:
    """Copy an object to a file.

    Raises:
        RemoteError: The object cannot be read.
        OSError: The file cannot be written.
    """
    with _RemoteFile(url) as source, file.open("wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)


def delete_file(url: str) -> None:
    """Remove an object if it exists.

    Raises:
        RemoteError: It cannot be removed.
    """

    def delete(files: Any, path: str) -> None:  # noqa: ANN401 (pyarrow has no types)
        with contextlib.suppress(FileNotFoundError):
            files.delete_file(path)

    _ask(url, delete)


class _RemoteFile(io.RawIOBase):
    """An object as a Python file, whose errors pass through pyarrow's readers unchanged."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._file, self._size = _ask(url, self._open)
        self._position = 0

    @staticmethod
    def _open(files: Any, path: str) -> tuple[Any, int]:  # noqa: ANN401 (pyarrow has no types)
        file = files.open_input_file(path)
        return file, file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        )
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = _heeding_signals(self.name, lambda: self._file.read_at(wanted, self._position))
        if not data:
            raise RemoteError(errno.EIO, "it shrank while it was read: run again when it is complete")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


# --- file systems ---------------------------------------------------------------------------------


def _locate(url: str) -> tuple[Any, str]:
    """Return the file system behind a URL, and the path in it."""
    check_name(url)
    match = _SCHEME.match(url)
    assert match is not None
    scheme, host = match[1].lower(), match[2]
    try:
        file_system, path = arrow_file_system(scheme, host)
    except (pa.ArrowInvalid, NotImplementedError):
        return _by_fsspec(f"{scheme}://{host}{url[match.end() :]}")
    return file_system, path + url[match.end() :]


def _by_fsspec(url: str) -> tuple[Any, str]:
    try:
        return fsspec_file_system(url)
    except ImportError as error:
        hint = "install that, or 'ctxbatch[remote]' for http and https"
        raise RemoteError(errno.EINVAL, f"{_reason(error)}: {hint}") from error
    except ValueError as error:
        why = f"neither pyarrow nor fsspec opens it ({_reason(error)}): use a local file, s3:// or gs://"
        raise RemoteError(errno.EINVAL, why) from error


def _entry(url: str, info: Any) -> Entry:  # noqa: ANN401 (pyarrow has no types)
    if info.type == arrow_fs.FileType.Directory:
        return Entry(url, 0, 0, is_folder=True)
    if info.size is None:  # it must not pass for an empty object
        raise RemoteError(errno.ENOENT, "its size is unknown: copy it to a file first")
    return Entry(url, info.size, info.mtime_ns or 0, is_folder=False)


# --- what goes wrong ------------------------------------------------------------------------------


def _ask(url: str, do: Callable[[Any, str], Answer]) -> Answer:
    """Call ``do`` with the file system behind a URL and the path in it."""
    return _heeding_signals(url, lambda: do(*_locate(url)))


def _heeding_signals(url: str, do: Callable[[], Answer]) -> Answer:
    """Call ``do``, which may retry for minutes; the main thread has another thread call it, and waits.

    Turn the libraries' errors, which are of many classes, into a `RemoteError`.
    """
    try:
        if threading.current_thread() is not threading.main_thread():
            return do()
        return _wait_for(url, do)
    except (MemoryError, RemoteError):
        raise
    except Exception as error:
        raise _as_remote_error(error, url) from error


def _wait_for(url: str, do: Callable[[], Answer]) -> Answer:
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(do())
        except BaseException as error:  # for the thread that waits
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(timeout=_SILENT_SECONDS)
    except TimeoutError:
        if not answer.done():
            log.info("waiting for %s", without_password(url))
    return answer.result()


def _as_remote_error(error: Exception, url: str) -> RemoteError:
    text = _reason(error)
    if isinstance(error, FileNotFoundError) or any(sign in text for sign in _ABSENT):
        return RemoteError(errno.ENOENT, _NOT_FOUND)
    if isinstance(error, NotImplementedError):
        return RemoteError(errno.EINVAL, f"this file system does not support this ({text})")
    if isinstance(error, PermissionError) or any(sign in text for sign in _DENIED):
        return RemoteError(errno.EACCES, f"access is denied ({text}): {_credentials(url)}")
    return RemoteError(errno.EIO, f"{text}: check the network and the endpoint, and run again")


def _reason(error: Exception) -> str:
    text = one_line(error) or type(error).__name__
    text = text[max(text.find("AWS Error"), 0) :].partition(" (Request ID")[0]
    return text[:SHOWN_REASON].rstrip(". ")


def _credentials(url: str) -> str:
    if url.lower().startswith("s3"):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    return "set GOOGLE_APPLICATION_CREDENTIALS" if url.lower().startswith("g") else "set its credentials"
