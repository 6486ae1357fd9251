"""Finds the type of each field that is kept: one for the whole corpus."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ctxbatch.corpus.fields import FieldType, kind_of, name_and_type
from ctxbatch.corpus.records import Reader, Record, Segment
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.errors import InputError

# Formats whose values are all strings.
_TEXT_FORMATS = ("csv", "tsv", "xml", "wikiextractor", "conllu", "vertical")


def with_types(reading: Reading, sources: Sequence[Source], segments: Sequence[Segment]) -> Reading:
    """Return the reading with a type for each kept field, found in all records that will be read.

    Raises:
        InputError: The values of a field have no common type, or no record has it.
    """
    named = [name_and_type(each) for each in reading.keep_field]
    if all(kind is not None for _, kind in named):
        return reading
    found = [FieldTypes(name) for name, _ in named]
    reader = Reader(sources, reading)
    try:
        for record in reader.read(segments):
            if not isinstance(record, Record) or record.times > 1:
                continue
            source = sources[record.source]
            for types, value in zip(found, record.kept, strict=False):
                place = f"{source.path}, record {record.record}"
                types.add(value, place, is_text=source.format in _TEXT_FORMATS)
    finally:
        reader.close()
    settled = [kind or types.settle() for (_, kind), types in zip(named, found, strict=True)]
    return replace(
        reading,
        keep_field=tuple(f"{name}:{kind}" for (name, _), kind in zip(named, settled, strict=True)),
    )


@dataclass(slots=True)
class FieldTypes:
    """The types of a field's values, each with the first place where it was seen.

    Values of text formats, such as CSV, have no type of their own: what looks like a number may be a string.
    """

    name: str
    typed: dict[FieldType, str] = field(default_factory=dict)
    looks: dict[FieldType, str] = field(default_factory=dict)

    def add(self, value: Any, place: str, *, is_text: bool) -> None:  # noqa: ANN401 (any value of a field)
        """Take note of a value."""
        if value is None or value == "":
            return
        seen = self.looks if is_text else self.typed
        seen.setdefault(kind_of(value, is_text=is_text)[0], place)

    def settle(self) -> FieldType:
        """Return the type that all values fit.

        Raises:
            InputError: There is none.
        """
        if not self.typed and not self.looks:
            raise InputError(f"--keep-field {self.name}: no record has a value for it")
        if not self.typed:
            return _common({*self.looks}) or "string"
        kinds = {*self.typed}
        if kinds <= {"string", "date", "time"}:
            return _common(kinds | {*self.looks}) or "string"
        if kind := _common(kinds | {*self.looks}):
            return kind
        places = {**self.looks, **self.typed}
        one, other = next(pair for pair in itertools.combinations(places, 2) if _common({*pair}) is None)
        there, here = places[one], places[other]
        raise InputError(
            f"--keep-field {self.name}: it is a {one} in {there}, and a {other} in {here}: keep it as text "
            f"with --keep-field {self.name}:string"
        )


def _common(kinds: set[FieldType]) -> FieldType | None:
    """Return the type to which all of these can be changed, or ``None``."""
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds == {"integer", "number"}:
        return "number"
    if kinds == {"date", "time"}:
        return "time"
    return "string" if kinds <= {"string", "date", "time"} and kinds else None
