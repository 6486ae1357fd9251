"""Reads files of the Leipzig Corpora Collection: a record is a line with a number, a tab and a sentence."""

from collections.abc import Iterator

from ctxbatch.corpus.sniff import LEIPZIG_LINE
from ctxbatch.corpus.units import BadRecordError, Content, OpenSource, Unit


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per line."""
    return source.lines(start, number)


def content(unit: Unit, source: OpenSource) -> Content:
    """Return a line's sentence and number."""
    text = source.decoded(unit)
    if not text.strip():
        return Content("")
    if (match := LEIPZIG_LINE.fullmatch(text)) is None:
        raise BadRecordError("not a number, a tab and a sentence")
    return Content(match[2], match[1])
