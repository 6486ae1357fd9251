"""Cuts text into records: lines, paragraphs, or the whole file."""

from collections.abc import Callable, Iterator

from ctxbatch.corpus.streams import MAX_RECORD_BYTES
from ctxbatch.corpus.units import TOO_LONG, Content, OpenSource, Unit


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield a unit per line, paragraph or file."""
    lines = source.lines(start, number)
    record = source.source.record or source.reading.record
    if record == "paragraph":
        return _groups(lines, source.is_blank)
    return _groups(lines, lambda _: False) if record == "file" else lines


def _groups(lines: Iterator[Unit], is_blank: Callable[[Unit], bool]) -> Iterator[Unit]:
    """Join lines up to the next blank one. Reject a group that is too long, and skip the rest of it."""
    first: Unit | None = None
    data = bytearray()  # a unit per line of a long group would take many times the memory
    end = 0
    rejected = False
    for line in lines:
        if line.is_lost:
            if first is not None:
                line = Unit(
                    first.number, first.start, line.end, bytes(data), True, line.problem, is_lost=True
                )
            yield line
            return
        if line.is_record and line.problem is None and is_blank(line):
            if first is not None:
                yield Unit(first.number, first.start, end, bytes(data))
            first, rejected = None, False
            yield line._replace(is_record=False)
        elif rejected:
            yield line._replace(is_record=False, problem=None)
        else:
            if first is None:
                first = line
                data.clear()
            data += line.data
            end = line.end
            if len(data) >= MAX_RECORD_BYTES or line.problem is not None:
                yield Unit(first.number, first.start, end, bytes(data), problem=TOO_LONG)
                first, rejected = None, True
    if first is not None:
        yield Unit(first.number, first.start, end, bytes(data))


def content(unit: Unit, source: OpenSource) -> Content:
    """Return a record's text."""
    return Content(source.decoded(unit))
