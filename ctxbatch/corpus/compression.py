"""Decompresses sources (gzip, bzip2, xz, zstd, lz4), and detects which compression a file has.

A damaged stream returns what precedes the damage and then raises `DamagedError`, at the same byte every time.
"""

import bz2
import functools
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import IO, Any, Literal

from ctxbatch.corpus.frames import FRAME_ERRORS, LZ4, LZ4_LEGACY, ZSTD, lz4_blocks, zstd_blocks
from ctxbatch.corpus.read_errors import DamagedError, UnsupportedError, classify_error
from ctxbatch.corpus.source_files import open_source
from ctxbatch.corpus.unsupported import HEAD_BYTES, why_unsupported
from ctxbatch.errors import CtxbatchError, InputError

Compression = Literal["gzip", "bzip2", "xz", "zstd", "lz4"]
COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".lz4": "lz4",
}
_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    ZSTD: "zstd",
    LZ4: "lz4",
    LZ4_LEGACY: "lz4",
}
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
# Pieces are always of this size: how much a decompressor returns before it reports damage depends on the size
# of the request.
_STEP = 65_536
# The largest dictionary for xz, whose presets need less than an eighth of it.
_XZ_BYTES = 512 << 20
# Errors that decompressors raise.
_ERRORS = (zlib.error, lzma.LZMAError, MemoryError, OSError, UnsupportedError, *FRAME_ERRORS)


def find_compression(path: PurePath, head: bytes) -> Compression | None:
    """Return a file's compression, from its first bytes or else from its suffix."""
    return _compression_that_begins(head) or COMPRESSIONS.get(path.suffix.lower())


def _compression_that_begins(head: bytes) -> Compression | None:
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    return None if found == "bzip2" and head[4:10] not in _BZIP2_BLOCKS else found


def decompressed(path: str, compression: str, file: IO[bytes]) -> io.RawIOBase:
    """Return the content of a compressed file, as a stream to read in order.

    Args:
        path: The file's name.
        compression: Its compression.
        file: The open file.

    Raises:
        DamagedError: It cannot be decompressed. The stream's methods raise this from the damaged byte on.
        InputError: It needs a dictionary, a filter or a window that is not supported.
        ResourceError: The network, the disk or the memory fails.
    """
    return _Decompressed(path, compression, file)


def why_unsupported_inside(path: str, compression: str) -> str | None:
    """Return why the content of a compressed file is not read, as far as its beginning tells; else ``None``.

    Raises:
        OSError: It cannot be opened.
        ResourceError: The network, the disk or the memory fails.
    """
    with open_source(path) as file:
        stream = _Decompressed(path, compression, file)
        try:
            head = io.BufferedReader(stream).read(HEAD_BYTES)
        except DamagedError:  # it is rejected by name when it is read
            return None
        except InputError:
            if stream.unsupported is None:
                raise
            return stream.unsupported
    if _compression_that_begins(head):
        return "compressed twice: decompress it first"
    return why_unsupported(head)


class _Decompressed(io.RawIOBase):
    def __init__(self, path: str, compression: str, file: IO[bytes]) -> None:
        self._path = path
        self._compression = compression
        self._piece = memoryview(b"")
        self._error: Exception | None = None
        self.unsupported: str | None = None
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            self._read = _DECOMPRESSORS[compression](file, path)
        except _ERRORS as error:
            raise self._classified(error) from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        if not self._piece:
            self._piece = memoryview(self._next())
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size

    def _next(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            return self._read()
        except CtxbatchError as error:  # for the next call too
            self._error = error
            raise
        except (EOFError, *_ERRORS) as error:
            self._error = self._classified(error)
            raise self._error from error

    def _classified(self, error: Exception) -> Exception:
        if isinstance(error, EOFError):
            return DamagedError(f"the {self._compression} data end too early")
        self.unsupported = str(error) if isinstance(error, UnsupportedError) else _why_unsupported_xz(error)
        if self.unsupported is not None:
            return InputError(f"{self._path}: {self.unsupported}")
        return classify_error(error, self._path, self._compression, self._size)


def _why_unsupported_xz(error: Exception) -> str | None:
    """Return what an xz file needs that liblzma does not support; headers have checksums, so it is intact."""
    if not isinstance(error, lzma.LZMAError):
        return None
    if "limit exceeded" in str(error):
        needs = f"a dictionary that needs more than the supported {_XZ_BYTES >> 20} MiB"
    elif "unsupported options" in str(error):
        needs = "an xz filter or option that is not supported"
    else:
        return None
    return f"compressed with {needs}: decompress it first"


class _Streams:
    """Compressed streams one after another, each of which must be whole.

    The standard library's file classes treat a broken later stream as garbage, and end.
    """

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file = file
        self._make = make
        self._stream = make()

    def __call__(self) -> bytes:
        while True:
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")  # padding
                while not data and (more := self._file.read(_STEP)):
                    data = more.lstrip(b"\0")
                if not data:
                    return b""
                self._stream = self._make()
            elif self._stream.needs_input and not (data := self._file.read(_STEP)):
                raise EOFError
            if piece := self._stream.decompress(data, _STEP):
                return bytes(piece)


def _next_of(blocks: Iterator[bytes]) -> Callable[[], bytes]:
    return functools.partial(next, blocks, b"")


_DECOMPRESSORS: dict[str, Callable[[IO[bytes], str], Callable[[], bytes]]] = {
    "gzip": lambda file, _: functools.partial(gzip.GzipFile(fileobj=file).read1, _STEP),
    "bzip2": lambda file, _: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file, _: _Streams(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_BYTES)),
    "zstd": lambda file, path: _next_of(zstd_blocks(file, path)),
    "lz4": lambda file, _: _next_of(lz4_blocks(file)),
}
