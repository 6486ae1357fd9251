"""The bytes of a source: decompressed, read line by line, each with its position.

Owns compression, encodings and line ends. A stream that is damaged gives what can be had before the
damage and then raises `DamagedError`, at the same byte every time.
"""

import bz2
import codecs
import errno
import functools
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import IO, Any, Literal

import pyarrow as pa

from ctxbatch.corpus.read_errors import DamagedError, meaning_of, unreadable
from ctxbatch.errors import InputError
from ctxbatch.filesystem import is_remote, open_file

Compression = Literal["gzip", "bzip2", "xz", "zstd", "lz4"]
COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".lz4": "lz4",
}
# Longer records are rejected by name: a worker holds a record whole, several times over.
MAX_RECORD_BYTES = 64 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    _ZSTD: "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
# The four-byte marks first: that of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Always read in pieces of one size: how much a decompressor gives out before it finds a damage depends on
# how much it is asked for.
_STEP = 65_536
_BUFFER = 1 << 20
# The largest windows that decompressors look back on, which is what they hold in memory: pyarrow's own bound
# for zstd, and one for xz, whose presets stay below an eighth of it.
_ZSTD_WINDOW = 128 << 20
_XZ_BYTES = 512 << 20
# What decompressors of the standard library and of pyarrow raise.
_BROKEN = (zlib.error, lzma.LZMAError, MemoryError, OSError, pa.ArrowException)


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
    """Refuse what is not a regular file, such as a pipe, which would be waited for: a store may name one.

    Raises:
        OSError: It is none, or cannot be looked at.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)


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


class ByteStream:
    """A source's bytes, decompressed. ``position`` is the byte that comes next.

    Forward seeks in a compressed source skip; backward ones begin again.

    Raises:
        InputError: The source cannot be opened.
        ResourceError: The network fails.
    """

    def __init__(self, path: str, compression: str | None) -> None:
        self._path = path
        self._compression = compression
        self._open()

    def _open(self) -> None:
        try:
            self._file = open_source(self._path)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._stream: Any = self._file
        if self._compression is not None:
            self._stream = io.BufferedReader(
                _Decompressed(self._path, self._compression, self._file), _BUFFER
            )
        self.position = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def seek(self, position: int) -> None:
        """Go to a byte; behind the last one nothing is left to read.

        Raises:
            DamagedError: The source is damaged before it.
        """
        if self._compression is None:
            self._stream.seek(position)
            self.position = position
            return
        if position < self.position:
            self.close()
            self._open()
        while self.position < position and self.read(min(position - self.position, _BUFFER)):
            pass

    def read(self, size: int) -> bytes:
        """Some of the next bytes, at most so many; none only at the end.

        Raises:
            DamagedError: The source is damaged here.
            InputError: It cannot be read.
            ResourceError: The network fails.
        """
        try:
            data: bytes = self._stream.read1(size)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self.position += len(data)
        return data

    def readline(self, newline: bytes) -> bytes:
        r"""The next line with its end, or `MAX_RECORD_BYTES` of it if it is longer.

        Args:
            newline: The encoded line feed; of several bytes in UTF-16 and UTF-32.

        Raises:
            DamagedError: The source is damaged within the line; ``position`` is where the line begins.
            InputError: It cannot be read.
            ResourceError: The network fails.
        """
        try:
            line: bytes = self._stream.readline(MAX_RECORD_BYTES)
            if len(newline) > 1:
                line = self._wide_line(line, newline)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self.position += len(line)
        return line

    def empty_lines(self, until: float) -> bytes:
        """The line feeds that come next, as many as are at hand, but none from position ``until`` on."""
        ahead = self._stream.peek(1)
        n_found = len(ahead) - len(ahead.lstrip(b"\n"))
        return self.read(int(min(n_found, until - self.position))) if n_found else b""

    def _wide_line(self, line: bytes, newline: bytes) -> bytes:
        width = len(newline)
        whole = bytearray(line)
        while line and len(whole) < MAX_RECORD_BYTES:
            whole += self._stream.read(-len(whole) % width)
            if whole.endswith(newline):
                break
            line = self._stream.readline(MAX_RECORD_BYTES - len(whole))
            whole += line
        return bytes(whole)

    def compressed_position(self) -> int:
        """How much of the file has been read, about: in compressed bytes."""
        return self._file.tell()


def find_compression(path: PurePath, head: bytes) -> Compression | None:
    """How a file is compressed, by its suffix or, failing that, by how it begins."""
    if (by_suffix := COMPRESSIONS.get(path.suffix.lower())) is not None:
        return by_suffix
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    return None if found == "bzip2" and head[4:10] not in _BZIP2_BLOCKS else found


# --- encodings ------------------------------------------------------------------------------------


def check_encoding(name: str) -> str:
    """The name of an encoding as Python spells it.

    Raises:
        InputError: It is unknown, or its line ends are not found by their bytes.
    """
    try:
        canonical = codecs.lookup(name).name
        wide = canonical.startswith(("utf-16", "utf-32"))
        b"text \xff".decode(canonical, "replace")
        if not wide and '\n\r\t,"{'.encode(canonical) != b'\n\r\t,"{':
            raise InputError(f"--encoding {name} cannot be read by line: convert the text to UTF-8 first")
    except (LookupError, UnicodeError, TypeError, ValueError):
        raise InputError(
            f"--encoding {name!r} is unknown: give a name such as utf-8, latin-1, cp1252, utf-16 or gb18030"
        ) from None
    return {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(canonical, canonical)


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning of a source names."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def newline_of(encoding: str) -> bytes:
    """The line feed in an encoding."""
    return "\n".encode(encoding)


def decode(data: bytes, encoding: str, errors: str, start: int) -> tuple[str, str | None]:
    """Decode bytes that stand at position ``start`` of a source.

    Returns:
        The text, and ``None`` or why it is not text; then the text has replacement characters.
    """
    try:
        return data.decode(encoding, errors), None
    except UnicodeDecodeError as error:
        return data.decode(encoding, "replace"), f"not {encoding.upper()} at byte {start + error.start}"
