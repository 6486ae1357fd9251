"""Reads the rows of Arrow and Parquet files as units."""

from collections.abc import Iterator

from ctxbatch.corpus.fields import further_fields
from ctxbatch.corpus.read_errors import DamagedError
from ctxbatch.corpus.streams import MAX_RECORD_BYTES
from ctxbatch.corpus.tables import Row, Table
from ctxbatch.corpus.units import TOO_LONG, BadRecordError, Content, OpenSource, Unit, lost


def units(source: OpenSource, start: int, _number: int) -> Iterator[Unit]:
    """Yield a unit per row, with the row in its value."""
    row = start
    try:
        reading = source.reading
        others = further_fields(reading)
        for each in _table(source).rows(start, reading.text_field, reading.id_field, others):
            row = each[0] + 1
            too_long = each[1] is not None and len(each[1]) >= MAX_RECORD_BYTES
            yield Unit(
                each[0], each[0], row, _row_content(each), problem=TOO_LONG if too_long else None, value=each
            )
    except DamagedError as error:
        yield lost(row, row, error)


def _row_content(row: Row) -> bytes:
    _, text, name, others = row
    content = b"null" if text is None else b"%d:%b%b\n" % (len(text), text, name or b"")
    return content + repr(others).encode() if others else content


def _table(source: OpenSource) -> Table:
    if source.kept is None:
        source.kept = Table(source.source.path, source.source.format)
    table: Table = source.kept
    return table


def content(unit: Unit, source: OpenSource) -> Content:
    """Return a row's text and id."""
    _, data, name, others = unit.value
    reading = source.reading
    if reading.tokens_field is not None:
        data = b""
    if data is None:
        raise BadRecordError(f"field {reading.text_field!r} is null, not a string")
    errors = reading.errors
    try:
        text = data.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8 at byte {error.start} of the text") from error
    try:
        doc_id = None if name is None else name.decode(errors=errors)
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not UTF-8 at byte {error.start} of the id") from error
    return Content(text, doc_id, fields=dict(zip(further_fields(reading), others, strict=True)))
