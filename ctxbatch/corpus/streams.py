"""Reads the decompressed bytes of a source line by line, and keeps track of the position.

A damaged stream returns what precedes the damage and then raises `DamagedError`, at the same byte every time.
"""

import io
from typing import Any

from ctxbatch.corpus.compression import decompressed
from ctxbatch.corpus.read_errors import unreadable
from ctxbatch.corpus.source_files import open_source

# Longer records are rejected, because a worker holds several copies of a whole record.
MAX_RECORD_BYTES = 64 << 20
_BUFFER = 1 << 20


class ByteStream:
    """The decompressed bytes of a source. ``position`` is the next byte.

    In a compressed source, forward seeks skip bytes, and backward seeks start again.

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
            self._stream = io.BufferedReader(decompressed(self._path, self._compression, self._file), _BUFFER)
        self.position = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def seek(self, position: int) -> None:
        """Go to a byte; behind the last one, nothing is left to read.

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
        """Return at most ``size`` of the next bytes, none only at the end.

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
        """Return the next line with its end, or its first `MAX_RECORD_BYTES` if it is longer.

        Args:
            newline: The encoded LF or CR; of several bytes in UTF-16 and UTF-32.

        Raises:
            DamagedError: The source is damaged within the line; ``position`` is where the line begins.
            InputError: It cannot be read.
            ResourceError: The network fails.
        """
        try:
            if newline == b"\n":
                line: bytes = self._stream.readline(MAX_RECORD_BYTES)
            elif b"\r" in newline:
                line = self._line_to_cr(newline)
            else:
                line = self._wide_line(self._stream.readline(MAX_RECORD_BYTES), newline)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self.position += len(line)
        return line

    def empty_lines(self, until: float) -> bytes:
        """Return the line feeds that come next in the buffer, before position ``until``."""
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

    def _line_to_cr(self, newline: bytes) -> bytes:
        width = len(newline)
        whole = bytearray()
        while len(whole) < MAX_RECORD_BYTES and (ahead := self._stream.peek(1)):
            whole += self._stream.read(
                min(ahead.find(b"\r") + 1 or len(ahead), MAX_RECORD_BYTES - len(whole))
            )
            whole += self._stream.read(-len(whole) % width)
            if whole.endswith(newline):
                break
        return bytes(whole)

    def compressed_position(self) -> int:
        """Return roughly how many compressed bytes have been read."""
        return self._file.tell()
