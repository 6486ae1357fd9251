"""Reads planned segments as records, or as rejects with their reasons.

Owns what makes a unit a record, and that workers see exactly what was planned, or fail.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctxbatch.corpus.raw_records import content_of, units
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.units import BadRecordError, OpenSource, Tokens, Unit
from ctxbatch.errors import InputError, out_of_memory
from ctxbatch.sealed import Count, Sha256


@dataclass(frozen=True, slots=True)
class Segment:
    """Whole records of a source, from number ``first_record`` on.

    ``start`` and ``end`` count bytes of the decompressed source, or rows of a table; ``size`` is always in
    bytes. ``sha256`` covers everything that is read between them.
    """

    source: Count
    start: Count
    end: Count
    first_record: Count
    size: Count
    sha256: Sha256


class Record(NamedTuple):
    """A line, paragraph, file, JSON object or row: its text, and where it begins in its source.

    A record without text may stand for ``times`` consecutive empty lines. ``tokens`` are its words, where the
    source says what they are. ``kept`` are the values of the fields that the store keeps.
    """

    source: int
    record: int
    byte_start: int | None
    doc_id: str | None
    text: str
    times: int = 1
    tokens: Tokens | None = None
    kept: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is rejected, and why. ``word`` is set if only that word of it is."""

    source: int
    record: int
    byte_start: int | None
    reason: str
    word: str | None = None


# --- records --------------------------------------------------------------------------------------


def to_record(unit: Unit, number: int, source: OpenSource) -> Record | Reject:
    """Return the record, or the reject, of a unit of source ``number``."""
    start = source.byte_start(unit)
    if unit.problem is not None:
        return Reject(number, unit.number, start, unit.problem)
    try:
        text, doc_id, tokens, _, kept = content_of(unit, source)
        try:
            (text + (doc_id or "")).encode()
            if kept:
                "".join(value for value in kept if isinstance(value, str)).encode()
        except UnicodeEncodeError:
            if source.reading.errors == "strict":
                reason = "holds half of a surrogate pair, which is not text"
                return Reject(number, unit.number, start, reason)
            text, doc_id = _replaced(text), _replaced(doc_id)
            kept = tuple(map(_replaced, kept))
    except BadRecordError as error:
        return Reject(number, unit.number, start, str(error))
    except RecursionError:  # from an id that is an object
        return Reject(number, unit.number, start, "not JSON: nested too deeply")
    except MemoryError as error:
        raise out_of_memory(source.source.path) from error
    return Record(number, unit.number, start, doc_id, text, unit.times, tokens, kept)


def _replaced(value: Any) -> Any:  # noqa: ANN401 (a text, or any value of a kept field)
    """Return a text with U+FFFD for halves of surrogate pairs, and another value as it is."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# --- reading what was planned ---------------------------------------------------------------------


class Reader:
    """Reads segments. Segments of one source, in order, take one pass, even if it is compressed.

    ``bytes_read`` counts the bytes of all segments so far.
    """

    def __init__(self, sources: Sequence[Source], reading: Reading) -> None:
        self._sources = sources
        self._reading = reading
        self._open: OpenSource | None = None
        self.bytes_read = 0

    def close(self) -> None:
        """Close the source that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def read(self, segments: Sequence[Segment]) -> Iterator[Record | Reject]:
        """Yield the records and rejects of segments, in source order.

        Raises:
            InputError: A source cannot be read, or its bytes have changed since it was planned.
        """
        for segment in segments:
            source = self._opened(segment.source)
            digest = hashlib.sha256()
            for unit in self._units(source, segment):
                digest.update(unit.content)
                self.bytes_read += len(unit.data)
                if unit.is_record:
                    yield to_record(unit, segment.source, source)
            if digest.hexdigest() != segment.sha256:
                raise InputError(
                    f"{source.source.path} changed after the run was planned "
                    f"({place_of(source.source, segment)}): restore it, or start a new run with another -o"
                )

    def is_unchanged(self, segment: Segment) -> bool:
        """Return True if a source still holds what was planned.

        Raises:
            InputError: The source cannot be read.
        """
        digest = hashlib.sha256()
        for unit in self._units(self._opened(segment.source), segment):
            digest.update(unit.content)
        return digest.hexdigest() == segment.sha256

    def _opened(self, number: int) -> OpenSource:
        source = self._sources[number]
        if self._open is None or self._open.source is not source:
            self.close()
            self._open = OpenSource(source, self._reading)
        return self._open

    def _units(self, source: OpenSource, segment: Segment) -> Iterator[Unit]:
        # Stop at the last unit of the segment: to go back in a compressed source is to start again.
        for unit in units(source, segment.start, segment.first_record, segment.end):
            yield unit
            if unit.end >= segment.end:
                return


def place_of(source: Source, segment: Segment) -> str:
    """Return the place of a segment, in words."""
    return f"{'rows' if source.is_table else 'bytes'} {segment.start} to {segment.end}"
