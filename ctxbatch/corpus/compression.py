"""Decompresses sources: gzip, bzip2, xz, zstd and lz4, and tells which of them a file is compressed with.

A stream that is damaged gives what can be had before the damage and then raises `DamagedError`, at the same
byte every time.
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

from ctxbatch.corpus.read_errors import DamagedError, meaning_of
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
# Always read in pieces of one size: how much a decompressor gives out before it finds a damage depends on
# how much it is asked for.
_STEP = 65_536
# The largest windows that decompressors look back on, which is what they hold in memory: pyarrow's own bound
# for zstd, and one for xz, whose presets stay below an eighth of it.
_ZSTD_WINDOW = 128 << 20
_XZ_BYTES = 512 << 20
# What decompressors of the standard library and of pyarrow raise.
_BROKEN = (zlib.error, lzma.LZMAError, MemoryError, OSError, pa.ArrowException)


def find_compression(path: PurePath, head: bytes) -> Compression | None:
    """Return how a file is compressed, by its suffix or, failing that, by how it begins."""
    if (by_suffix := COMPRESSIONS.get(path.suffix.lower())) is not None:
        return by_suffix
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    return None if found == "bzip2" and head[4:10] not in _BZIP2_BLOCKS else found


def decompressed(path: str, compression: str, file: IO[bytes]) -> io.RawIOBase:
    """Return the content of a compressed file, which can be read in order.

    Args:
        path: What it is called.
        compression: How it is compressed.
        file: Where it is read from.

    Raises:
        DamagedError: It cannot be decompressed; so do its methods, from some byte on.
        InputError: It needs more memory than is held for a window.
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
        except _BROKEN as error:
            raise self._meaning_of(error) from error

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
        except _BROKEN as error:
            if "Truncated" in str(error):
                raise self._ends_early() from error
            raise self._meaning_of(error) from error

    def _meaning_of(self, error: Exception) -> Exception:
        if window := _window_beyond_bound(error, self._path):
            return window
        return meaning_of(error, self._path, self._compression, self._size)

    def _ends_early(self) -> DamagedError:
        return DamagedError(f"the {self._compression} data end too early")


class _Streams:
    """Compressed streams one after another, each of which must be whole.

    The standard library's files take a later stream that cannot be decompressed for garbage, and end.
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
    """A stream of pyarrow's, which loses what it has of a piece in which it meets a damage.

    Then everything is decompressed once more, and the last piece byte by byte.
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
        except _BROKEN as error:
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
        # A file of its own, because pyarrow's stream closes what it reads from.
        with open_source(self._file.name) as file:
            stream = pa.CompressedInputStream(file, self._name)
            for _ in range(self._n_pieces):
                stream.read(_STEP)
            try:
                while len(piece) < _STEP and (byte := stream.read(1)):
                    piece += byte
            except _BROKEN as error:
                if not self._is_damaged(error):
                    raise
                return bytes(piece)
        raise OSError(errno.EIO, f"it failed once and not again ({self._error})")

    def _is_damaged(self, error: Exception) -> bool:
        return isinstance(meaning_of(error, self._file.name, self._name), DamagedError)


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Callable[[], bytes]]] = {
    "gzip": lambda file: functools.partial(gzip.GzipFile(fileobj=file).read1, _STEP),
    "bzip2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Streams(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_BYTES)),
    "zstd": lambda file: _ArrowStream(file, "zstd"),
    "lz4": lambda file: _ArrowStream(file, "lz4"),
}


def _window_beyond_bound(error: Exception, path: str) -> InputError | None:
    """Say that a stream is compressed with a larger window than is held in memory; it may be intact."""
    if "requires too much memory" in str(error):
        bound = f"a window of {_zstd_window(path)}, and at most {_ZSTD_WINDOW >> 20} MiB"
    elif isinstance(error, lzma.LZMAError) and "limit exceeded" in str(error):
        bound = f"a dictionary for which more memory is needed than the {_XZ_BYTES >> 20} MiB that"
    else:
        return None
    return InputError(f"{path} is compressed with {bound} are supported: decompress it first")


def _zstd_window(path: str) -> str:
    """The window that the first frame of a zstd file declares, in words."""
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
    return f"{size >> 20:,} MiB" if size > _ZSTD_WINDOW else "unknown size"  # it was a later frame's
