"""Reads further fields of records: words that are given, marked spans, and fields that are kept."""

import contextlib
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ctxbatch.corpus.sources import Reading
from ctxbatch.corpus.units import BadRecordError, Content, Tokens, trimmed

FieldType = Literal["string", "integer", "number", "boolean", "date", "time"]
MISSING = object()
_SPAN = re.compile(r"\s*(\d+)\s*[:,-]\s*(\d+)\s*")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?")
_MAX_INTEGER = 1 << 63


def further_fields(reading: Reading) -> tuple[str, ...]:
    """Return the names of all fields that are read besides text and id."""
    tokens = () if reading.tokens_field is None else (reading.tokens_field,)
    kept = tuple(name_and_type(each)[0] for each in reading.keep_field)
    return (*tokens, *(reading.span_field or ()), *kept)


def find_field(fields: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (any value of a field)
    """Return a field by its name, or by a path with dots; `MISSING` if there is none."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def complete(content: Content, reading: Reading) -> Content:
    """Return a record's content with what its further fields say.

    Raises:
        BadRecordError: The words or spans in a field do not fit the text.
    """

    def value_of(name: str) -> Any:  # noqa: ANN401 (any value of a field)
        value = find_field(content.fields, name)
        return None if value is MISSING else value

    if reading.tokens_field is not None:
        content = _with_words(content, reading.tokens_field, value_of(reading.tokens_field))
    if reading.span_field:
        content = _with_spans(content, reading.span_field, [value_of(name) for name in reading.span_field])
    if reading.keep_field:
        kept = [(value_of(name), name, kind) for name, kind in map(name_and_type, reading.keep_field)]
        values = tuple(value if kind is None else cast(value, name, kind) for value, name, kind in kept)
        content = content._replace(kept=values)
    return content._replace(fields={})


# --- words and spans ------------------------------------------------------------------------------


def _with_words(content: Content, name: str, words: Any) -> Content:  # noqa: ANN401 (any value of a field)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadRecordError(f"field {name!r} is not a list of strings")
    if not all(word.strip() for word in words):
        raise BadRecordError(f"field {name!r} holds an empty word")
    places, position = [], 0
    for word in words:
        places.append((position, position + len(word)))
        position += len(word) + 1
    text = " ".join(words)
    return content._replace(text=text, tokens=Tokens(tuple(trimmed(text, *place) for place in places)))


def _with_spans(content: Content, names: Sequence[str], values: Sequence[Any]) -> Content:
    text = content.text
    shown = " and ".join(map(repr, names))
    places = []
    for start, end in _pairs(values, shown):
        if not 0 <= start < end <= len(text):
            raise BadRecordError(
                f"field {shown} marks {start}:{end}, which is not in the {len(text)} characters of the text"
            )
        start, end = trimmed(text, start, end)
        if start == end:
            raise BadRecordError(f"field {shown} marks only white space")
        places.append((start, end))
    return content._replace(tokens=Tokens(tuple(sorted(places)), marked=True))


def _pairs(values: Sequence[Any], shown: str) -> list[tuple[int, int]]:
    """Return the spans in a field, or in two: ``start:end``, a pair of numbers, or a list of either."""
    try:
        if len(values) == 2:
            starts, ends = (value if isinstance(value, list) else [value] for value in values)
            return [(_number(start), _number(end)) for start, end in zip(starts, ends, strict=True)]
        (value,) = values
        if isinstance(value, list) and not (
            len(value) == 2 and all(isinstance(v, int | float) for v in value)
        ):
            return [_pair(each) for each in value]
        return [_pair(value)]
    except (TypeError, ValueError, OverflowError):
        found = ", ".join(map(repr, values))
        raise BadRecordError(f"field {shown} holds no span such as 12:17: {found:.80}") from None


def _pair(value: Any) -> tuple[int, int]:  # noqa: ANN401 (any value of a field)
    if isinstance(value, str):
        if (match := _SPAN.fullmatch(value)) is None:
            raise ValueError(value)
        return int(match[1]), int(match[2])
    start, end = value
    return _number(start), _number(end)


def _number(value: Any) -> int:  # noqa: ANN401 (any value of a field)
    is_written = isinstance(value, str) and value.strip().isdecimal()
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    if not is_written and not is_whole:
        raise TypeError(value)
    return int(value)


# --- kept fields ----------------------------------------------------------------------------------


def name_and_type(option: str) -> tuple[str, FieldType | None]:
    """Return the name and the type in ``NAME`` or ``NAME:TYPE``."""
    name, _, kind = option.rpartition(":")
    for each in get_args(FieldType):
        if name and kind == each:
            return name, each
    return option, None


def same_fields(asked: Sequence[str], stored: Sequence[str]) -> bool:
    """Return True if the fields of a store are those asked for, whose types may be left open."""
    pairs = zip(map(name_and_type, asked), map(name_and_type, stored), strict=False)
    return len(asked) == len(stored) and all(
        name == other and kind in (None, as_stored) for (name, kind), (other, as_stored) in pairs
    )


def cast(value: Any, name: str, kind: FieldType) -> Any:  # noqa: ANN401 (any value of a field)
    """Return a value of a field as its type, ``None`` if it is empty.

    Raises:
        BadRecordError: It is not of this type.
    """
    if value is None or (value == "" and kind != "string"):
        return None
    if kind == "string":
        return value if isinstance(value, str) else _as_text(value)
    found, value = kind_of(value, is_text=True)
    if found == kind:
        return value
    if kind == "number" and found == "integer":
        return float(value)
    if kind == "time" and found == "date":
        return datetime.datetime.combine(value, datetime.time())
    raise BadRecordError(f"field {name!r} is {value!r:.60}, not of type {kind}")


def _as_text(value: Any) -> str:  # noqa: ANN401 (any value of a field)
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, default=str)


# A bool is an int, and a time is a date, so these come first.
_TYPES: tuple[tuple[type, FieldType], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (datetime.datetime, "time"),
    (datetime.date, "date"),
)


def kind_of(value: Any, *, is_text: bool) -> tuple[FieldType, Any]:  # noqa: ANN401 (any value of a field)
    """Return the type of a value, and the value as that type; in text formats, strings may be numbers."""
    if isinstance(value, str):
        return _kind_of_string(value, is_text=is_text)
    kind = next((kind for each, kind in _TYPES if isinstance(value, each)), None)
    if kind is None or (kind == "integer" and not -_MAX_INTEGER <= value < _MAX_INTEGER):
        return "string", _as_text(value)
    with contextlib.suppress(OverflowError):  # a time whose zone leads out of the calendar
        return kind, _plain(value) if kind == "time" else value
    return "string", _as_text(value)


def _kind_of_string(value: str, *, is_text: bool) -> tuple[FieldType, Any]:
    if is_text and _INTEGER.fullmatch(value):
        return "integer", int(value)
    if is_text and _NUMBER.fullmatch(value) and math.isfinite(float(value)):
        return "number", float(value)
    with contextlib.suppress(ValueError, OverflowError):  # such as a 30th of February
        if _DATE.fullmatch(value):
            return "date", datetime.date.fromisoformat(value)
        if _TIME.fullmatch(value):
            return "time", _plain(datetime.datetime.fromisoformat(value))
    return "string", value


def _plain(time: datetime.datetime) -> datetime.datetime:
    """Return a time in UTC, without its zone; one without a zone as it is."""
    return time if time.tzinfo is None else time.astimezone(datetime.UTC).replace(tzinfo=None)
