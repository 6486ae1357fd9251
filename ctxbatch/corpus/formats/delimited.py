"""Cuts CSV and TSV into rows, whose quoted fields may hold line ends."""

import csv
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ctxbatch.corpus.streams import MAX_RECORD_BYTES
from ctxbatch.corpus.units import Content, OpenSource, Unit, joined, without_line_end

# A quoted field may hold line ends; a longer one has lost its closing quote.
_MAX_QUOTED_BYTES = 16 << 20
_MAX_QUOTED_LINES = 100_000
# The most rows that may fail among lines that are read again, per window of this many bytes.
_MAX_FAILURES = 8
_WINDOW_BYTES = 1 << 20
_field_limit = threading.Lock()


class _RowEndMissingError(csv.Error):
    """A quoted field does not end."""


def units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    """Yield rows of CSV or TSV, with their fields in ``value``. Headers are not records.

    A row may span lines. The header is the first row that is not blank, if the reading has one; where files
    were joined, it comes again.
    """
    columns = source.source.columns
    repeated = list(columns) if columns is not None and len(columns) > 1 and source.reading.header else None
    header = start == 0 and source.reading.header
    for row in _rows(source, start):
        if row.is_record and row.problem is None and (header or row.value == repeated):
            header = header and not row.value
            yield row._replace(number=number, is_record=False)
        else:
            header = header and not row.is_record
            yield row._replace(number=number)
            number += row.is_record


def _rows(source: OpenSource, start: int) -> Iterator[Unit]:
    if source.source.quoting == "none" and source.reading.escape is None:
        return _plain_rows(source, start)
    return iter(_CsvRows(source, start))


def delimiter_of(source: OpenSource) -> str:
    """Return the character between the fields of a source."""
    return source.reading.delimiter or ("\t" if source.source.format == "tsv" else ",")


def _plain_rows(source: OpenSource, start: int) -> Iterator[Unit]:
    """Yield a row per line, in which quotes are characters like others."""
    delimiter, columns = delimiter_of(source), source.source.columns
    for line in source.lines(start, 0):
        if line.problem is not None or not line.is_record:
            yield line
            continue
        text, problem = source.text_of(line)
        fields = without_line_end(text).split(delimiter) if text.strip("\r\n") else []
        if columns is not None and fields and len(fields) != len(columns):
            problem = problem or _wrong_number(columns, fields)
        yield joined([line], problem, fields)


def _wrong_number(columns: Sequence[str], fields: Sequence[str]) -> str:
    return f"the header has {len(columns)} columns, the row {len(fields)}"


class _CsvRows:
    """Joins lines to rows. After an invalid row, reading continues with its second line.

    A quote that makes a row invalid is an ordinary character, if the row has as many fields as the header.
    After a row that does not end, its lines are read again. This must not repeat for each of them, so after a
    few failures every line is a row.
    """

    def __init__(self, source: OpenSource, start: int) -> None:
        self._source = source
        self._lines = source.lines(start, 0)
        # Versions that did not decide on quoting rejected such rows of CSV.
        has_columns = source.source.quoting is not None and source.source.columns is not None
        self._keeps_quotes = source.source.format == "tsv" or has_columns
        self._delimiter = delimiter_of(source)
        self._dialect: dict[str, Any] = {
            "delimiter": self._delimiter,
            "escapechar": source.reading.escape,
            "quoting": csv.QUOTE_NONE if source.source.quoting == "none" else csv.QUOTE_MINIMAL,
            "strict": True,
        }
        self._again: deque[Unit] = deque()
        self._taken: list[Unit] = []
        self._apart: Unit | None = None
        self._problem: str | None = None
        self._failures = 0
        self._scanned = self._scanned_before = start
        self._window = -1

    def __iter__(self) -> Iterator[Unit]:
        while True:
            self._apart = None
            reader = csv.reader(self._texts(), **self._dialect)
            try:
                while (fields := _next_row(reader)) is not None:
                    yield self._marked(self._row(fields))
                    self._taken, self._problem = [], None
            except csv.Error as error:
                first, *rest = self._taken
                self._put_back(rest)
                self._taken, self._problem = [], None
                unit = self._literal(first) or joined([first], f"not CSV: {_reason(error)}")
                yield self._marked(unit)
            else:
                if self._apart is None:
                    return
                yield self._marked(self._apart)

    def _put_back(self, lines: list[Unit]) -> None:
        """Queue lines to be read again after they failed to form a row."""
        if lines:
            self._failures += 1
            self._scanned = max(self._scanned, lines[-1].end)
        if self._apart is not None:
            self._again.appendleft(self._apart)
        self._again.extendleft(reversed(lines))

    def _begin_row(self, start: int) -> None:
        """Forget failures behind all lines that were scanned for them, and in any case every megabyte.

        Otherwise a file in which row after row fails could not be cut into shards.
        """
        if start >= self._scanned or (start // _WINDOW_BYTES != self._window and self._window >= 0):
            self._failures, self._scanned = 0, start
        self._window = start // _WINDOW_BYTES
        self._scanned_before = self._scanned

    def _marked(self, row: Unit) -> Unit:
        """Return a row, marked if what begins there depends on failed rows before it."""
        return row if row.start >= self._scanned_before else row._replace(may_begin=False)

    def _texts(self) -> Iterator[str]:
        """Yield lines as text, up to one that is already rejected."""
        size = 0
        while (line := self._again.popleft() if self._again else next(self._lines, None)) is not None:
            if line.problem is not None or not line.is_record:
                self._apart = line
                return
            if not self._taken:
                self._begin_row(line.start)
            if self._taken and self._failures >= _MAX_FAILURES and line.start < self._scanned:
                self._again.appendleft(line)
                raise _RowEndMissingError("a quoted field does not end in its line")
            size = size + len(line.data) if self._taken else len(line.data)
            self._taken.append(line)
            if len(self._taken) > _MAX_QUOTED_LINES or (size > _MAX_QUOTED_BYTES and len(self._taken) > 1):
                raise _RowEndMissingError("a quoted field does not end")
            text, problem = self._source.text_of(line)
            self._problem = self._problem or problem
            yield text

    def _row(self, fields: list[str]) -> Unit:
        columns = self._source.source.columns
        if columns is not None and fields and len(fields) != len(columns):
            first, *rest = self._taken
            if literal := self._literal(first):
                self._put_back(rest)
                return literal
            return joined(self._taken, self._problem or _wrong_number(columns, fields))
        return joined(self._taken, self._problem, fields)

    def _literal(self, line: Unit) -> Unit | None:
        columns = self._source.source.columns
        text, problem = self._source.text_of(line)
        fields = without_line_end(text).split(self._delimiter)
        if not self._keeps_quotes or problem or (columns is not None and len(fields) != len(columns)):
            return None
        return joined([line], None, fields)


def _reason(error: csv.Error) -> str:
    """Return why a row is not CSV, without Python's advice on how to open a file."""
    return "a carriage return outside quotes" if "new-line character" in str(error) else str(error)


def _next_row(reader: Iterator[list[str]]) -> list[str] | None:
    """Return the fields of the next row, each as long as a record may be; ``None`` after the last row.

    How long a field may be is a setting of the whole process, whose other parts have it as they left it.
    """
    with _field_limit:
        usual = csv.field_size_limit(MAX_RECORD_BYTES)
        try:
            return next(reader, None)
        finally:
            csv.field_size_limit(usual)


def content(unit: Unit, source: OpenSource) -> Content:
    """Return a row's text and id."""
    columns, fields = source.source.columns, unit.value
    assert columns is not None
    if not fields:
        return Content("")
    name = source.reading.id_field
    return Content(
        fields[columns.index(source.reading.text_field)],
        fields[columns.index(name)] if name in columns else None,
        fields=dict(zip(columns, fields, strict=True)) if source.wants_fields else {},
    )
