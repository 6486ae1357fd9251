"""Walks over the units of a source in any format, and parses them.

Owns which module reads which format. The plan and the workers walk over the same units, so they agree. To add
a format, add a module to `ctxbatch.corpus.formats`, an entry to `_READERS`, and its suffix to
`ctxbatch.corpus.sources.FORMATS`.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ctxbatch.choices import FormatName
from ctxbatch.corpus.fields import complete
from ctxbatch.corpus.formats import (
    delimited,
    json_records,
    leipzig,
    plain_text,
    subtitles,
    table_rows,
    treebank,
    wikiextractor,
    xml_text,
)
from ctxbatch.corpus.read_errors import telling_of_memory
from ctxbatch.corpus.units import Content, OpenSource, Unit


class _Reader(NamedTuple):
    """How a format is read: walk over the units from a position on, and parse a unit that is a record."""

    units: Callable[[OpenSource, int, int], Iterator[Unit]]
    content: Callable[[Unit, OpenSource], Content]


_READERS: dict[FormatName, _Reader] = {
    "txt": _Reader(plain_text.units, plain_text.content),
    "jsonl": _Reader(json_records.units, json_records.content),
    "json": _Reader(json_records.units, json_records.content),
    "csv": _Reader(delimited.units, delimited.content),
    "tsv": _Reader(delimited.units, delimited.content),
    "xml": _Reader(xml_text.units, xml_text.content),
    "subtitles": _Reader(subtitles.units, subtitles.content),
    "wikiextractor": _Reader(wikiextractor.units, wikiextractor.content),
    "leipzig": _Reader(leipzig.units, leipzig.content),
    "conllu": _Reader(treebank.conllu_units, treebank.conllu_content),
    "vertical": _Reader(treebank.vertical_units, treebank.vertical_content),
    "parquet": _Reader(table_rows.units, table_rows.content),
    "arrow": _Reader(table_rows.units, table_rows.content),
}


def units(source: OpenSource, start: int = 0, number: int = 0, until: float = math.inf) -> Iterator[Unit]:
    """Yield the units of a source from a position on, where a unit must begin.

    Args:
        source: The open source.
        start: A byte of the decompressed source, or a row.
        number: The number of the line or row that begins there.
        until: Where the caller stops reading; no unit of many lines extends beyond it.

    Raises:
        InputError: The source cannot be read.
        ResourceError: The network fails.
    """
    source.until = until
    with telling_of_memory(source.source.path):
        yield from _READERS[source.source.format].units(source, start, number)


def content_of(unit: Unit, source: OpenSource) -> Content:
    """Parse a unit that is a record.

    Raises:
        BadRecordError: It is not one.
    """
    content = _READERS[source.source.format].content(unit, source)
    return complete(content, source.reading) if source.wants_fields else content
