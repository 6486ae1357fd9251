"""Decompresses sources (gzip, bzip2, xz, zstd, lz4), and detects which compression a file has.

A damaged stream returns what precedes the damage and then raises `DamagedError`, at the same byte every time.
"""

import bz2
import errno
import functools
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import PurePath
from typing import IO, Any, Literal

import pyarrow as pa

from ctxbatch.corpus.read_errors import DamagedError, classify_error
from ctxbatch.corpus.source_files import open_source
from ctxbatch.errors import InputError

Compression = Literal["gzip", "bzip2", "xz", "zstd", "lz4"]
COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".lz4": "lz4",
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    _ZSTD: "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
# Pieces are always of this size: how much a decompressor returns before it reports damage depends on the size
# of the request.
_STEP = 65_536
# The largest windows, which decompressors hold in memory: pyarrow's own limit for zstd, and one for xz, whose
# presets need less than an eighth of it.
_ZSTD_WINDOW = 128 << 20
_XZ_BYTES = 512 << 20
# Errors that decompressors of the standard library and of pyarrow raise.
_ERRORS = (zlib.error, lzma.LZMAError, MemoryError, OSError, pa.ArrowException)


def find_compression(path: PurePath, head: bytes) -> Compression | None:
    """Return a file's compression, from its suffix or else from its first bytes."""
    if (by_suffix := COMPRESSIONS.get(path.suffix.lower())) is not None:
        return by_suffix
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
        InputError: It needs more memory for its window than the limit.
        ResourceError: The network, the disk or the memory fails.
    """
    return _Decompressed(path, compression, file)


class _Decompressed(io.RawIOBase):
    def __init__(self, path: str, compression: str, file: IO[bytes]) -> None:
        self._path = path
        self._compression = compression
        self._piece = memoryview(b"")
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            self._read = _DECOMPRESSORS[compression](file)
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
        try:
            return self._read()
        except EOFError as error:
            raise self._ends_early() from error
        except _ERRORS as error:
            if "Truncated" in str(error):
                raise self._ends_early() from error
            raise self._classified(error) from error

    def _classified(self, error: Exception) -> Exception:
        if window := _window_error(error, self._path):
            return window
        return classify_error(error, self._path, self._compression, self._size)

    def _ends_early(self) -> DamagedError:
        return DamagedError(f"the {self._compression} data end too early")


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


class _ArrowStream:
    """A stream that pyarrow decompresses.

    pyarrow drops the intact start of a damaged piece. This class then decompresses everything again, and the
    last piece byte by byte.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._stream = pa.CompressedInputStream(file, name)
        self._n_pieces = 0
        self._error: Exception | None = None

    def __call__(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            piece: bytes = self._stream.read(_STEP)
        except _ERRORS as error:
            if not self._is_damaged(error):
                raise
            self._error = error
            piece = self._last_piece()
            if not piece:
                raise
        self._n_pieces += 1
        return piece

    def _last_piece(self) -> bytes:
        piece = bytearray()
        # Open the file again, because pyarrow's stream closes what it reads from.
        with open_source(self._file.name) as file:
            stream = pa.CompressedInputStream(file, self._name)
            for _ in range(self._n_pieces):
                stream.read(_STEP)
            try:
                while len(piece) < _STEP and (byte := stream.read(1)):
                    piece += byte
            except _ERRORS as error:
                if not self._is_damaged(error):
                    raise
                return bytes(piece)
        raise OSError(errno.EIO, f"a read error did not repeat ({self._error}): run again")

    def _is_damaged(self, error: Exception) -> bool:
        return isinstance(classify_error(error, self._file.name, self._name), DamagedError)


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Callable[[], bytes]]] = {
    "gzip": lambda file: functools.partial(gzip.GzipFile(fileobj=file).read1, _STEP),
    "bzip2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Streams(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_BYTES)),
    "zstd": lambda file: _ArrowStream(file, "zstd"),
    "lz4": lambda file: _ArrowStream(file, "lz4"),
}


def _window_error(error: Exception, path: str) -> InputError | None:
    """Return an error if the window exceeds the limit; the stream may be intact."""
    if "requires too much memory" in str(error):
        window = f"a window of {_zstd_window(path)}, more than the supported {_ZSTD_WINDOW >> 20} MiB"
    elif isinstance(error, lzma.LZMAError) and "limit exceeded" in str(error):
        window = f"a dictionary that needs more than the supported {_XZ_BYTES >> 20} MiB"
    else:
        return None
    return InputError(f"{path} is compressed with {window}: decompress it first")


def _zstd_window(path: str) -> str:
    """Return the window size that the first frame of a zstd file declares, in words."""
    try:
        with open_source(path) as file:
            head = file.read(18)
    except OSError:
        return "unknown size"
    if len(head) < 6 or not head.startswith(_ZSTD):
        return "unknown size"
    if head[4] & 0x20:  # a single segment, whose window is its content
        begin = 5 + (0, 1, 2, 4)[head[4] & 3]
        size = int.from_bytes(head[begin : begin + (1 << (head[4] >> 6))], "little")
    else:
        size = 1 << (10 + (head[5] >> 3))
        size += (size >> 3) * (head[5] & 7)
    return f"{size >> 20:,} MiB" if size > _ZSTD_WINDOW else "unknown size"  # else a later frame's is larger
