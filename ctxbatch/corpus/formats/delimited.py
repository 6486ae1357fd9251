"""Cuts CSV and TSV into rows, whose quoted fields may hold line ends."""

import csv
import threading
from collections import deque
from collections.abc import Iterator

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
    """Yield rows of CSV or TSV, with their fields in ``value``. The header is not a record.

    A row may span lines. The header is the first row that is not blank.
    """
    header = start == 0
    for row in _CsvRows(source, start):
        if header and row.is_record and row.problem is None:
            header = not row.value
            yield row._replace(number=number, is_record=False)
        else:
            header = header and not row.is_record
            yield row._replace(number=number)
            number += row.is_record


class _CsvRows:
    """Joins lines to rows. After an invalid row, reading continues with its second line.

    In TSV, a quote that makes a row invalid is an ordinary character. After a row that does not end, its
    lines are read again. This must not repeat for each of them, so after a few failures every line is a row.
    """

    def __init__(self, source: OpenSource, start: int) -> None:
        self._source = source
        self._lines = source.lines(start, 0)
        self._tabs = source.source.format == "tsv"
        self._delimiter = source.reading.delimiter or ("\t" if self._tabs else ",")
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
            reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
            try:
                while (fields := _next_row(reader)) is not None:
                    yield self._marked(self._row(fields))
                    self._taken, self._problem = [], None
            except csv.Error as error:
                first, *rest = self._taken
                self._put_back(rest)
                self._taken, self._problem = [], None
                unit = self._literal(first) or joined([first], f"not CSV: {error}")
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
            problem = f"the header has {len(columns)} columns, the row {len(fields)}"
            return joined(self._taken, self._problem or problem)
        return joined(self._taken, self._problem, fields)

    def _literal(self, line: Unit) -> Unit | None:
        columns = self._source.source.columns
        text, problem = self._source.text_of(line)
        fields = without_line_end(text).split(self._delimiter)
        if not self._tabs or problem or (columns is not None and len(fields) != len(columns)):
            return None
        return joined([line], None, fields)


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
    )
