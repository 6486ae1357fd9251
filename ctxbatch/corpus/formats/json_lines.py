"""Reads JSON: a record is a JSON object on a line of its own."""

import json
from collections.abc import Iterator
from typing import Any

from ctxbatch.corpus.units import BadRecordError, Content, OpenSource, Unit


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per line."""
    return source.lines(start, number)


def content(unit: Unit, source: OpenSource) -> Content:
    """Return an object's text and id."""
    if source.is_blank(unit):
        return Content("")
    fields = json_object(source.decoded(unit))
    wanted = source.reading.text_field
    text = json_field(fields, wanted)
    if text is _MISSING:
        raise BadRecordError(f"no field {wanted!r}")
    if not isinstance(text, str):
        raise BadRecordError(f"field {wanted!r} is {_json_type(text)}, not a string")
    doc_id = json_field(fields, source.reading.id_field)
    if doc_id is None or doc_id is _MISSING:
        return Content(text)
    return Content(text, doc_id if isinstance(doc_id, str) else json.dumps(doc_id))


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
