"""Readers: a shard's bytes become records, or rejects with their reasons.

Readers see exactly the bytes that were planned, or fail. To add a format, add its suffix to
`ctxbatch.corpus.FORMATS` and a reader to `_READERS`.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ctxbatch.corpus import BOM, Digest, Reading, Segment, ShardSpec, Source, open_source
from ctxbatch.errors import InputError

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """A line, paragraph, file or JSON object: its text and where it begins in its source."""

    source: int
    record: int
    byte_start: int
    doc_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Something that is not processed, by name. ``word`` is set where only that word of a record is."""

    source: int
    record: int
    byte_start: int
    reason: str
    word: str | None = None


def read(spec: ShardSpec, sources: Sequence[Source], reading: Reading) -> Iterator[Record | Reject]:
    """Yield a shard's records, and what cannot be one, in source order.

    Raises:
        InputError: A source cannot be read, or its bytes are not those that were planned.
    """
    for segment in spec.segments:
        source = sources[segment.source]
        read_format = _READERS[source.format]
        digest = hashlib.sha256()
        with open_source(source) as stream:
            try:
                stream.seek(segment.start)
                yield from read_format(_lines(stream, segment, digest), segment, reading)
            except OSError as error:
                raise InputError(f"{source.path} cannot be read: {error.strerror}") from error
        if digest.hexdigest() != segment.sha256:
            raise InputError(
                f"{source.path} changed after the run was planned (bytes {segment.start} to {segment.end}): "
                "restore it, or start a new run with another -o"
            )


def check_segment(segment: Segment, source: Source) -> bool:
    """Whether a source still holds a segment's bytes.

    Raises:
        InputError: The source cannot be read.
    """
    digest = hashlib.sha256()
    with open_source(source) as stream:
        stream.seek(segment.start)
        left = segment.end - segment.start
        while left and (chunk := stream.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest() == segment.sha256


_Line = tuple[int, int, bytes]  # number and first byte of the line, and the line with its end


def _lines(stream: BinaryIO, segment: Segment, digest: Digest) -> Iterator[_Line]:
    start, number = segment.start, segment.first_record
    while start < segment.end and (line := stream.readline(segment.end - start)):
        digest.update(line)
        if start == 0 and line.startswith(BOM):
            yield number, len(BOM), line[len(BOM) :]
        else:
            yield number, start, line
        start += len(line)
        number += 1


def _read_text(lines: Iterator[_Line], segment: Segment, reading: Reading) -> Iterator[Record | Reject]:
    groups: Iterable[list[_Line]]
    if reading.record == "line":
        groups = ([line] for line in lines)
    elif reading.record == "file":
        groups = [list(lines)]
    else:
        groups = (
            list(group)
            for blank, group in itertools.groupby(lines, key=lambda line: not line[2].strip())
            if not blank
        )
    for group in filter(None, groups):
        number, start, _ = group[0]
        try:
            text = _without_line_end(b"".join(line for _, _, line in group)).decode()
        except UnicodeDecodeError as error:
            yield Reject(segment.source, number, start, f"not UTF-8 at byte {start + error.start}")
        else:
            yield Record(segment.source, number, start, None, text)


def _without_line_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line


def _read_json_lines(lines: Iterator[_Line], segment: Segment, reading: Reading) -> Iterator[Record | Reject]:
    for number, start, line in lines:
        if not line.strip():
            yield Record(segment.source, number, start, None, "")
            continue
        try:
            text, doc_id = _json_fields(line, reading)
        except _BadRecordError as error:
            yield Reject(segment.source, number, start, str(error))
        else:
            yield Record(segment.source, number, start, doc_id, text)


class _BadRecordError(ValueError):
    """Why a line is no record."""


def _json_fields(line: bytes, reading: Reading) -> tuple[str, str | None]:
    try:
        fields = json.loads(_without_line_end(line).decode())
    except UnicodeDecodeError as error:
        raise _BadRecordError(f"not UTF-8 at byte {error.start} of the line") from error
    except RecursionError as error:
        raise _BadRecordError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise _BadRecordError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _BadRecordError(f"not a JSON object but {_json_type(fields)}")
    if reading.text_field not in fields:
        raise _BadRecordError(f"no field {reading.text_field!r}")
    text = fields[reading.text_field]
    if not isinstance(text, str):
        raise _BadRecordError(f"field {reading.text_field!r} is {_json_type(text)}, not a string")
    doc_id = fields.get(reading.id_field)
    if doc_id is not None and not isinstance(doc_id, str):
        doc_id = json.dumps(doc_id)
    try:
        (text + (doc_id or "")).encode()
    except UnicodeEncodeError as error:
        raise _BadRecordError("holds half of a surrogate pair, which is no text") from error
    return text, doc_id


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}.get(
        type(value), "an object"
    )


_READERS = {"text": _read_text, "json lines": _read_json_lines}
