"""Reads a sample of a text source: a small source whole, of others the start and seeded pieces from all over.

Of a compressed source, only the first megabytes are decompressed.
"""

import itertools
import random
from dataclasses import dataclass

from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.sources import LineEnd, Source
from ctxbatch.corpus.streams import ByteStream

_WHOLE_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10
_PIECES = 16
_MAX_DECOMPRESSED = 16 << 20
_HEAD_BYTES = 4096
_LAID_OUT = ("txt", "csv", "tsv", "vertical")


@dataclass(frozen=True, slots=True)
class TextSample:
    """Pieces of a source's bytes, the first one from its start; ``is_whole`` if that is all of it."""

    pieces: tuple[bytes, ...]
    is_whole: bool

    @property
    def head(self) -> bytes:
        """The first bytes of the source."""
        return self.pieces[0][:_HEAD_BYTES] if self.pieces else b""

    def texts(self, encoding: str) -> list[str]:
        """Return the pieces as text, with U+FFFD for what cannot be decoded."""
        return [piece.decode(encoding, "replace").lstrip("\ufeff") for piece in self.pieces]

    def lines(self, encoding: str, newline: LineEnd | None) -> list[list[str]]:
        """Return the whole lines of each piece, without their ends."""
        end = "\r" if newline == "cr" else "\n"
        pieces = []
        for number, text in enumerate(self.texts(encoding)):
            lines = [line.removesuffix("\r") for line in text.split(end)]
            if number:  # it begins within a line
                lines = lines[1:]
            if lines and (not self.is_whole or not lines[-1]):
                lines.pop()
            pieces.append(lines)
        return pieces


def read_sample(source: Source) -> TextSample:
    """Read a sample of a source that is not a table; less of it if it is damaged.

    Raises:
        InputError: The source cannot be opened.
        ResourceError: The network or the disk fails.
    """
    stream = ByteStream(source.path, source.compression)
    pieces: list[bytes] = []
    # In other formats, the start tells all that is asked.
    most = _WHOLE_BYTES if source.format in _LAID_OUT else _PIECE_BYTES
    try:
        head = _read(stream, most + 1)
        pieces.append(head[:most])
        if len(head) > _WHOLE_BYTES:
            for place in _places(source):
                stream.seek(place)
                if piece := _read(stream, _PIECE_BYTES):
                    pieces.append(piece)
            pieces[0] = head[:_PIECE_BYTES]
    except DamagedError:
        return TextSample(tuple(pieces), is_whole=False)
    finally:
        stream.close()
    return TextSample(tuple(pieces), is_whole=len(head) <= most)


def _read(stream: ByteStream, size: int) -> bytes:
    """Read so many bytes, or up to the end or to damage."""
    data = bytearray()
    try:
        while len(data) < size and (more := stream.read(size - len(data))):
            data += more
    except DamagedError:
        if not data:
            raise
    return bytes(data)


def _places(source: Source) -> list[int]:
    """Return where pieces begin, in order: at multiples of four, which no character crosses."""
    chance = random.Random(source.size)  # noqa: S311 (a sample needs no secret)
    if source.compression is None:
        room = source.size - _PIECE_BYTES
        places = sorted(chance.randrange(room) for _ in range(_PIECES))
    else:
        gap = _MAX_DECOMPRESSED // _PIECES
        places = list(itertools.accumulate(chance.randrange(gap) + _PIECE_BYTES for _ in range(_PIECES)))
    return [place // 4 * 4 for place in places]
