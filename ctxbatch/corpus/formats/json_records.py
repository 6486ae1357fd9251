"""Reads JSON objects: one per line, or the values of an array, or one after another over several lines."""

import json
import re
from collections.abc import Iterator
from typing import Any

from ctxbatch.corpus.fields import MISSING, find_field
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.streams import MAX_RECORD_BYTES
from ctxbatch.corpus.units import TOO_LONG, BadRecordError, Content, OpenSource, Unit, lost

_STEP = 1 << 20
# What ends a string or may be inside one, and what else decides where a value ends.
_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*(["\\]?)', re.DOTALL)
_OUTSIDE = re.compile(rb'[^][{}",]*([][{}",]?)')
# A whole object that is nested three times at most: this is three times as fast as sign by sign.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_INSIDE = rb'(?:[^][{}"]++|' + _STRING + rb")*+"
for _ in range(3):
    _INSIDE = rb'(?:[^][{}"]++|' + _STRING + rb"|[\[{]" + _INSIDE + rb"[\]}])*+"
_SHALLOW = re.compile(rb"\{" + _INSIDE + rb"\}", re.DOTALL)
# White space, commas, the brackets of the array, and a byte order mark.
_BETWEEN = re.compile(rb"[ \t\r\n,\[\]\xef\xbb\xbf]*")


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per line, or per value if the source is JSON that is not in lines."""
    return source.lines(start, number) if source.source.format == "jsonl" else _values(source, start, number)


def _values(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield the values at the top of a source, or in the array at its top, and what lies between them.

    Only commas, white space and the brackets of the array stand between values. So each can be found from its
    own start on, without what precedes it.
    """
    stream = source.stream
    assert stream is not None
    scanner = _Scanner()
    position = start
    try:
        stream.seek(start)
        while data := stream.read(_STEP):
            for part, is_value, is_whole in scanner.feed(data):
                end = position + len(part)
                if is_value:
                    yield Unit(number, position, end, part, problem=None if is_whole else TOO_LONG)
                    number += 1
                else:
                    yield Unit(number, position, end, part, is_record=False)
                position = end
    except DamagedError as error:
        yield lost(number, stream.position, error)
        return
    rest, is_value = scanner.rest()
    if rest:
        yield Unit(number, position, position + len(rest), rest, is_record=is_value)


class _Scanner:
    """Finds the ends of JSON values in bytes that come piece by piece."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._begun = False
        self._is_long = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool, bool]]:
        """Yield parts in order: bytes, whether they are a value, and whether they are all of it."""
        self._data += data
        while True:
            if not self._begun:
                between = _BETWEEN.match(self._data)
                if between is not None and between[0]:
                    yield self._take(between.end()), False, True
                if not self._data:
                    return
                self._begun = True
            if (end := self._end_of_value()) is None:
                while self._at >= MAX_RECORD_BYTES:  # cut at the same byte wherever reading began
                    yield self._take(MAX_RECORD_BYTES), not self._is_long, False
                    self._at -= MAX_RECORD_BYTES
                    self._is_long = True
                return
            self._at = self._depth = 0
            yield self._take(end), not self._is_long, True
            self._begun = self._is_long = False

    def rest(self) -> tuple[bytes, bool]:
        """Return what is left of a value that does not end, and whether it is not yet rejected."""
        return bytes(self._data).rstrip(), not self._is_long

    def _take(self, n_bytes: int) -> bytes:
        part = bytes(self._data[:n_bytes])
        del self._data[:n_bytes]
        return part

    def _end_of_value(self) -> int | None:
        """Return where the value ends that begins the data; ``None`` if more data are needed."""
        if not self._at and (value := _SHALLOW.match(self._data)):
            return value.end()
        while self._at < len(self._data):
            match = (_IN_STRING if self._in_string else _OUTSIDE).match(self._data, self._at)
            assert match is not None
            sign = match[1]
            if not sign or sign == b"\\":  # the character after a backslash is still to come
                self._at = match.end() - len(sign)
                return None
            self._at = match.end()
            if sign == b'"':
                self._in_string = not self._in_string
            elif sign in b"{[":
                self._depth += 1
            elif sign in b"}]":
                self._depth -= 1
                if self._depth == 0:
                    return self._at
            if self._depth < 0 or (self._depth == 0 and sign == b","):  # after a value that is no object
                return max(1, self._at - 1)
        return None


def content(unit: Unit, source: OpenSource) -> Content:
    """Return an object's text and id."""
    if source.source.format == "jsonl" and source.is_blank(unit):
        return Content("")
    fields = json_object(source.decoded(unit))
    wanted = source.reading.text_field
    text = "" if source.reading.tokens_field else find_field(fields, wanted)
    if text is MISSING:
        raise BadRecordError(f"no field {wanted!r}")
    if not isinstance(text, str):
        raise BadRecordError(f"field {wanted!r} is {_json_type(text)}, not a string")
    doc_id = find_field(fields, source.reading.id_field)
    if doc_id is None or doc_id is MISSING:
        return Content(text, fields=fields)
    return Content(text, doc_id if isinstance(doc_id, str) else json.dumps(doc_id), fields=fields)


def json_object(line: str) -> dict[str, Any]:
    """Parse a line as a JSON object.

    Raises:
        ValueError: It is not one.
    """
    try:
        fields = json.loads(line)
    except RecursionError as error:
        raise BadRecordError("not JSON: nested too deeply") from error
    except ValueError as error:
        # For a number of thousands of digits, Python's message advises changing Python's settings.
        why = "a number has too many digits" if "digits" in str(error) else error
        raise BadRecordError(f"not JSON: {why}") from error
    if not isinstance(fields, dict):
        raise BadRecordError(f"not a JSON object but {_json_type(fields)}")
    return fields


def has_json_field(fields: dict[str, Any], name: str) -> bool:
    """Return True if an object has a field, even if it is null."""
    return find_field(fields, name) is not MISSING


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
