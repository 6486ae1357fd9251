"""Reads planned segments as records, or as rejects with their reasons.

Owns what makes a unit a record, and that workers see exactly what was planned, or fail.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ctxbatch.corpus.raw_records import OpenSource, Unit, without_line_end
from ctxbatch.corpus.sources import Reading, Source
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


@dataclass(frozen=True, slots=True)
class Record:
    """A line, paragraph, file, JSON object or row: its text, and where it begins in its source.

    A record without text may stand for ``times`` consecutive empty lines.
    """

    source: int
    record: int
    byte_start: int | None
    doc_id: str | None
    text: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is rejected, and why. ``word`` is set if only that word of it is."""

    source: int
    record: int
    byte_start: int | None
    reason: str
    word: str | None = None


# --- records --------------------------------------------------------------------------------------


class _BadRecordError(ValueError):
    """The reason why a unit is not a record."""


def to_record(unit: Unit, number: int, source: OpenSource) -> Record | Reject:
    """Return the record, or the reject, of a unit of source ``number``."""
    start = source.byte_start(unit)
    if unit.problem is not None:
        return Reject(number, unit.number, start, unit.problem)
    try:
        text, doc_id = _CONTENT[source.source.format](unit, source)
        (text + (doc_id or "")).encode()
    except _BadRecordError as error:
        return Reject(number, unit.number, start, str(error))
    except UnicodeEncodeError:
        return Reject(number, unit.number, start, "holds half of a surrogate pair, which is not text")
    except RecursionError:  # from an id that is an object
        return Reject(number, unit.number, start, "not JSON: nested too deeply")
    except MemoryError as error:
        raise out_of_memory(source.source.path) from error
    return Record(number, unit.number, start, doc_id, text, unit.times)


def _decoded(unit: Unit, source: OpenSource) -> str:
    if unit.times > 1:
        return ""
    text, problem = source.text_of(unit)
    if problem is not None:
        raise _BadRecordError(problem)
    return without_line_end(text)


def _text_content(unit: Unit, source: OpenSource) -> tuple[str, str | None]:
    return _decoded(unit, source), None


def _json_content(unit: Unit, source: OpenSource) -> tuple[str, str | None]:
    if source.is_blank(unit):
        return "", None
    fields = json_object(_decoded(unit, source))
    wanted = source.reading.text_field
    text = json_field(fields, wanted)
    if text is _MISSING:
        raise _BadRecordError(f"no field {wanted!r}")
    if not isinstance(text, str):
        raise _BadRecordError(f"field {wanted!r} is {_json_type(text)}, not a string")
    doc_id = json_field(fields, source.reading.id_field)
    if doc_id is None or doc_id is _MISSING:
        return text, None
    return text, doc_id if isinstance(doc_id, str) else json.dumps(doc_id)


def json_object(line: str) -> dict[str, Any]:
    """Parse a line as a JSON object.

    Raises:
        ValueError: It is not one.
    """
    try:
        fields = json.loads(line)
    except RecursionError as error:
        raise _BadRecordError("not JSON: nested too deeply") from error
    except ValueError as error:
        # For a number of thousands of digits, Python's message advises changing Python's settings.
        why = "a number has too many digits" if "digits" in str(error) else error
        raise _BadRecordError(f"not JSON: {why}") from error
    if not isinstance(fields, dict):
        raise _BadRecordError(f"not a JSON object but {_json_type(fields)}")
    return fields


_MISSING = object()


def json_field(fields: dict[str, Any], name: str) -> Any:  # noqa: ANN401 (a JSON value)
    """Return a field by its name, or by a path with dots; `_MISSING` if there is none."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def has_json_field(fields: dict[str, Any], name: str) -> bool:
    """Return True if an object has a field, even if it is null."""
    return json_field(fields, name) is not _MISSING


def json_field_names(fields: dict[str, Any]) -> list[str]:
    """Return the names of an object's fields, with dots for nested ones."""
    names: list[str] = []
    waiting = [("", fields)]
    while waiting:  # no recursion: objects can be nested deeply
        prefix, fields = waiting.pop()
        names += [prefix + name for name, value in fields.items() if not isinstance(value, dict)]
        waiting += [(f"{prefix}{name}.", value) for name, value in fields.items() if isinstance(value, dict)]
    return names


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}.get(
        type(value), "an object"
    )


def _csv_content(unit: Unit, source: OpenSource) -> tuple[str, str | None]:
    columns, fields = source.source.columns, unit.value
    assert columns is not None
    if not fields:
        return "", None
    name = source.reading.id_field
    return fields[columns.index(source.reading.text_field)], (
        fields[columns.index(name)] if name in columns else None
    )


def _table_content(unit: Unit, source: OpenSource) -> tuple[str, str | None]:
    _, data, name = unit.value
    if data is None:
        raise _BadRecordError(f"field {source.reading.text_field!r} is null, not a string")
    errors = source.reading.errors
    try:
        text = data.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise _BadRecordError(f"not UTF-8 at byte {error.start} of the text") from error
    try:
        return text, None if name is None else name.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise _BadRecordError(f"not UTF-8 at byte {error.start} of the id") from error


_CONTENT: dict[str, Callable[[Unit, OpenSource], tuple[str, str | None]]] = {
    "txt": _text_content,
    "jsonl": _json_content,
    "csv": _csv_content,
    "tsv": _csv_content,
    "parquet": _table_content,
    "arrow": _table_content,
}


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
        for unit in source.units(segment.start, segment.first_record, segment.end):
            yield unit
            if unit.end >= segment.end:
                return


def place_of(source: Source, segment: Segment) -> str:
    """Return the place of a segment, in words."""
    return f"{'rows' if source.is_table else 'bytes'} {segment.start} to {segment.end}"
