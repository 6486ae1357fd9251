"""Defines units, the pieces of a source that the plan and the workers walk over, and the source that is open.

A unit is a record as it lies in its source, or what lies between two. Each module of
`ctxbatch.corpus.formats` cuts sources of a format into units; this module reads lines, from which most units
are made.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctxbatch.corpus.encoding import decode, newline_of
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.streams import MAX_RECORD_BYTES, ByteStream

# After this many empty lines the next ones form one unit: one each would cost minutes per gigabyte.
_MANY_EMPTY = 64
_MERGED = ("txt", "jsonl")
TOO_LONG = f"longer than {MAX_RECORD_BYTES >> 20} MiB"


class Unit(NamedTuple):
    """A record as it lies in its source or, if ``is_record`` is false, what lies between two.

    ``problem`` says why it is rejected, if that is known without its text. With ``is_lost`` it stands for the
    rest of a damaged source, and its position is one behind the last readable byte. No segment begins where
    ``may_begin`` is false: what begins there depends on what precedes it. ``times`` is the number of
    consecutive empty lines, of one byte each, that it stands for. A segment may also begin where a unit that
    is no record ``opens`` what records need, such as a document with its id.
    """

    number: int
    start: int
    end: int
    data: bytes
    is_record: bool = True
    problem: str | None = None
    value: Any = None
    is_lost: bool = False
    may_begin: bool = True
    times: int = 1
    opens: bool = False

    def split(self, n: int) -> "tuple[Unit, Unit]":
        """Return the first ``n`` of many empty lines, and the others."""
        middle = self.start + n
        return (
            self._replace(end=middle, data=self.data[:n], times=n),
            self._replace(number=self.number + n, start=middle, data=self.data[n:], times=self.times - n),
        )

    @property
    def content(self) -> bytes:
        """The bytes that checksums cover."""
        return self.data if self.problem is None else self.data + self.problem.encode()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words of a text, where the source says what they are.

    ``places`` are the start and end of each in the text, in code points, ordered by their starts. ``lemmas``
    and ``upos`` have an entry for each, or none at all. ``is_sentence`` if the text is one sentence. Spans
    that are ``marked`` are all that is wanted of the text, also punctuation, and may overlap.
    """

    places: tuple[tuple[int, int], ...]
    lemmas: tuple[str | None, ...] = ()
    upos: tuple[str | None, ...] = ()
    is_sentence: bool = False
    marked: bool = False

    def within(self, start: int, end: int) -> "Tokens":
        """Return the tokens between two characters, placed from the first one on."""
        chosen = [n for n, (first, last) in enumerate(self.places) if start <= first and last <= end]
        return Tokens(
            tuple((self.places[n][0] - start, self.places[n][1] - start) for n in chosen),
            tuple(self.lemmas[n] for n in chosen) if self.lemmas else (),
            tuple(self.upos[n] for n in chosen) if self.upos else (),
            self.is_sentence,
            self.marked,
        )

    def cross(self, position: int) -> bool:
        """Return True if a token lies across a character, so that the text cannot be cut before it."""
        return any(first < position < last for first, last in self.places)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the place of a part of a text without the white space at its ends."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


class Content(NamedTuple):
    """What a unit holds, once it is parsed: a record's text, the id of its document, and maybe its words.

    ``fields`` are all fields of the record by name, where further ones are wanted; ``kept`` are the values of
    those that the store keeps.
    """

    text: str
    doc_id: str | None = None
    tokens: Tokens | None = None
    fields: Mapping[str, Any] = {}
    kept: tuple[Any, ...] = ()


class BadRecordError(ValueError):
    """The reason why a unit is not a record."""


def lost(number: int, position: int, error: DamagedError) -> Unit:
    """Return the unit that stands for all that follows damage."""
    return Unit(number, position, position + 1, b"", problem=f"{error}: the rest is lost", is_lost=True)


def joined(units: Sequence[Unit], problem: str | None = None, value: object = None) -> Unit:
    """Return one unit for several that follow each other."""
    data = units[0].data if len(units) == 1 else b"".join(unit.data for unit in units)
    return Unit(units[0].number, units[0].start, units[-1].end, data, problem=problem, value=value)


class OpenSource:
    """A source that is open for walking over its units, best forward.

    ``until`` is where the caller stops reading. ``kept`` is what a format keeps open between two walks.

    Raises:
        InputError: It cannot be opened.
    """

    def __init__(self, source: Source, reading: Reading) -> None:
        self.source = source
        self.reading = reading
        self._is_table = source.is_table
        self.stream = None if source.is_table else ByteStream(source.path, source.compression)
        self.wants_fields = bool(reading.tokens_field or reading.span_field or reading.keep_field)
        self.until = math.inf
        self.kept: Any = None
        self.encoding = source.encoding or reading.encoding
        self.newline = newline_of(self.encoding, source.newline)
        self.mark = "\ufeff".encode(self.encoding) if self.encoding.startswith("utf") else b""

    def close(self) -> None:
        """Close the file."""
        if self.stream is not None:
            self.stream.close()

    def lines(self, start: int, number: int) -> Iterator[Unit]:
        """Yield a unit per line, with its line end. A long run of empty lines is one unit."""
        stream = self.stream
        assert stream is not None
        n_empty = 0
        merges = self.source.format in _MERGED and self.newline == b"\n"
        try:
            stream.seek(start)
            while line := stream.readline(self.newline):
                begin, end = stream.position - len(line), stream.position
                number += 1
                n_empty = n_empty + 1 if line == b"\n" else 0
                if n_empty > _MANY_EMPTY and merges and (more := stream.empty_lines(self.until)):
                    number += len(more)
                    yield Unit(
                        number - 1 - len(more), begin, stream.position, line + more, times=1 + len(more)
                    )
                    continue
                if len(line) < MAX_RECORD_BYTES:
                    yield Unit(number - 1, begin, end, line)
                    continue
                yield Unit(number - 1, begin, end, line, problem=TOO_LONG)
                while line and not line.endswith(self.newline):
                    begin, line = stream.position, stream.readline(self.newline)
                    yield Unit(number, begin, stream.position, line, is_record=False)
        except DamagedError as error:
            yield lost(number, stream.position, error)

    def without_mark(self, unit: Unit) -> bytes:
        """Return a unit's bytes without the byte order mark of a file, which may be joined to others."""
        return unit.data.removeprefix(self.mark) if self.mark else unit.data

    def byte_start(self, unit: Unit) -> int | None:
        """Return the byte where a unit's text begins; ``None`` for rows of a table."""
        if self._is_table:
            return None
        return unit.start + len(self.mark) if self.mark and unit.data.startswith(self.mark) else unit.start

    def text_of(self, unit: Unit) -> tuple[str, str | None]:
        """Return a unit's text with its line end, and ``None`` or why it cannot be decoded."""
        data = self.without_mark(unit)
        start = unit.end - len(data)
        return decode(data, self.encoding, self.reading.errors, start)

    def is_blank(self, unit: Unit) -> bool:
        """Return True if a line holds only ASCII white space."""
        data = self.without_mark(unit)
        if len(self.newline) > 1:
            data = data.decode(self.encoding, "replace").encode()
        return not data.strip()

    def decoded(self, unit: Unit) -> str:
        """Return a unit's text without its line end.

        Raises:
            BadRecordError: It cannot be decoded.
        """
        if unit.times > 1:
            return ""
        text, problem = self.text_of(unit)
        if problem is not None:
            raise BadRecordError(problem)
        return without_line_end(text)


def without_line_end(text: str) -> str:
    """Return a text without the LF, CRLF or CR at its end."""
    return text.removesuffix("\n").removesuffix("\r")
