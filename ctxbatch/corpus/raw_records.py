"""Splits a source into units: records as they lie there, and what lies between them.

Owns where a record begins and ends in every format. The plan and the workers walk over the same units, so
they agree. To add a format, add its suffix to `ctxbatch.corpus.sources.FORMATS`, a function to `_UNITS`, and
one to `_CONTENT` of `ctxbatch.corpus.records`.
"""

import csv
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ctxbatch.corpus.encoding import decode, newline_of
from ctxbatch.corpus.read_errors import DamagedError, telling_of_memory
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.streams import MAX_RECORD_BYTES, ByteStream
from ctxbatch.corpus.tables import Row, Table

# A quoted CSV field may hold line ends; a longer one has lost its closing quote.
_MAX_QUOTED_BYTES = 16 << 20
_MAX_QUOTED_LINES = 100_000
# After this many empty lines the next ones form one unit: one each would cost minutes per gigabyte.
_MANY_EMPTY = 64
_MERGED = ("txt", "jsonl")
# The most rows that may fail among lines that are read again, per window of this many bytes.
_MAX_FAILURES = 8
_WINDOW_BYTES = 1 << 20
_TOO_LONG = f"longer than {MAX_RECORD_BYTES >> 20} MiB"
_field_limit = threading.Lock()


class Unit(NamedTuple):
    """A record as it lies in its source or, if ``is_record`` is false, what lies between two.

    ``problem`` says why it is rejected, if that is known without its text. With ``is_lost`` it stands for the
    rest of a damaged source, and its position is one behind the last readable byte. No segment begins where
    ``may_begin`` is false: what begins there depends on what precedes it. ``times`` is the number of
    consecutive empty lines, of one byte each, that it stands for.
    """

    number: int
    start: int
    end: int
    data: bytes
    is_record: bool = True
    problem: str | None = None
    value: Any = None
    is_lost: bool = False
    may_begin: bool = True
    times: int = 1

    def split(self, n: int) -> "tuple[Unit, Unit]":
        """Return the first ``n`` of many empty lines, and the others."""
        middle = self.start + n
        return (
            self._replace(end=middle, data=self.data[:n], times=n),
            self._replace(number=self.number + n, start=middle, data=self.data[n:], times=self.times - n),
        )

    @property
    def content(self) -> bytes:
        """The bytes that checksums cover."""
        return self.data if self.problem is None else self.data + self.problem.encode()


def _lost(number: int, position: int, error: DamagedError) -> Unit:
    return Unit(number, position, position + 1, b"", problem=f"{error}: the rest is lost", is_lost=True)


class OpenSource:
    """A source that is open for walking over its units, best forward.

    Raises:
        InputError: It cannot be opened.
    """

    def __init__(self, source: Source, reading: Reading) -> None:
        self.source = source
        self.reading = reading
        self._stream = None if source.is_table else ByteStream(source.path, source.compression)
        self._table: Table | None = None
        self._until = math.inf
        self.encoding = source.encoding or reading.encoding
        self.newline = newline_of(self.encoding)
        self.mark = "\ufeff".encode(self.encoding) if self.encoding.startswith("utf") else b""

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def units(self, start: int = 0, number: int = 0, until: float = math.inf) -> Iterator[Unit]:
        """Yield the units from a position on, where a unit must begin.

        Args:
            start: A byte of the decompressed source, or a row.
            number: The number of the line or row that begins there.
            until: Where the caller stops reading; no unit of many lines extends beyond it.

        Raises:
            InputError: The source cannot be read.
            ResourceError: The network fails.
        """
        self._until = until
        with telling_of_memory(self.source.path):
            yield from _UNITS[self.source.format](self, start, number)

    def table(self) -> Table:
        """Return the source as a table.

        Raises:
            DamagedError: It is not a table.
        """
        if self._table is None:
            self._table = Table(self.source.path, self.source.format)
        return self._table

    def lines(self, start: int, number: int) -> Iterator[Unit]:
        """Yield a unit per line, with its line end. A long run of empty lines is one unit."""
        stream = self._stream
        assert stream is not None
        n_empty = 0
        merges = self.source.format in _MERGED and self.newline == b"\n"
        try:
            stream.seek(start)
            while line := stream.readline(self.newline):
                begin, end = stream.position - len(line), stream.position
                number += 1
                n_empty = n_empty + 1 if line == b"\n" else 0
                if n_empty > _MANY_EMPTY and merges and (more := stream.empty_lines(self._until)):
                    number += len(more)
                    yield Unit(
                        number - 1 - len(more), begin, stream.position, line + more, times=1 + len(more)
                    )
                    continue
                if len(line) < MAX_RECORD_BYTES:
                    yield Unit(number - 1, begin, end, line)
                    continue
                yield Unit(number - 1, begin, end, line, problem=_TOO_LONG)
                while line and not line.endswith(self.newline):
                    begin, line = stream.position, stream.readline(self.newline)
                    yield Unit(number, begin, stream.position, line, is_record=False)
        except DamagedError as error:
            yield _lost(number, stream.position, error)

    def without_mark(self, unit: Unit) -> bytes:
        """Return a unit's bytes without the source's byte order mark."""
        return unit.data.removeprefix(self.mark) if unit.start == 0 and self.mark else unit.data

    def byte_start(self, unit: Unit) -> int | None:
        """Return the byte where a unit's text begins; ``None`` for rows of a table."""
        return None if self.source.is_table else unit.start + len(unit.data) - len(self.without_mark(unit))

    def text_of(self, unit: Unit) -> tuple[str, str | None]:
        """Return a unit's text with its line end, and ``None`` or why it cannot be decoded."""
        data = self.without_mark(unit)
        start = unit.end - len(data)
        return decode(data, self.encoding, self.reading.errors, start)

    def is_blank(self, unit: Unit) -> bool:
        """Return True if a line holds only ASCII white space."""
        data = self.without_mark(unit)
        if len(self.newline) > 1:
            data = data.decode(self.encoding, "replace").encode()
        return not data.strip()


def _text_units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
    lines = source.lines(start, number)
    if source.reading.record == "line":
        return lines
    by_paragraph = source.reading.record == "paragraph"
    return _groups(lines, source.is_blank if by_paragraph else lambda _: False)


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
                yield Unit(first.number, first.start, end, bytes(data), problem=_TOO_LONG)
                first, rejected = None, True
    if first is not None:
        yield Unit(first.number, first.start, end, bytes(data))


def _joined(units: Sequence[Unit], problem: str | None = None, value: object = None) -> Unit:
    data = units[0].data if len(units) == 1 else b"".join(unit.data for unit in units)
    return Unit(units[0].number, units[0].start, units[-1].end, data, problem=problem, value=value)


class _RowEndMissingError(csv.Error):
    """A quoted field does not end."""


def _csv_units(source: OpenSource, start: int, number: int) -> Iterator[Unit]:
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
                unit = self._literal(first) or _joined([first], f"not CSV: {error}")
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
            return _joined(self._taken, self._problem or problem)
        return _joined(self._taken, self._problem, fields)

    def _literal(self, line: Unit) -> Unit | None:
        columns = self._source.source.columns
        text, problem = self._source.text_of(line)
        fields = without_line_end(text).split(self._delimiter)
        if not self._tabs or problem or (columns is not None and len(fields) != len(columns)):
            return None
        return _joined([line], None, fields)


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


def _table_units(source: OpenSource, start: int, _number: int) -> Iterator[Unit]:
    row = start
    try:
        for each in source.table().rows(start, source.reading.text_field, source.reading.id_field):
            row = each[0] + 1
            too_long = each[1] is not None and len(each[1]) >= MAX_RECORD_BYTES
            yield Unit(
                each[0], each[0], row, _row_content(each), problem=_TOO_LONG if too_long else None, value=each
            )
    except DamagedError as error:
        yield _lost(row, row, error)


def _row_content(row: Row) -> bytes:
    _, text, name = row
    return b"null" if text is None else b"%d:%b%b\n" % (len(text), text, name or b"")


_UNITS: dict[str, Callable[[OpenSource, int, int], Iterator[Unit]]] = {
    "txt": _text_units,
    "jsonl": OpenSource.lines,
    "csv": _csv_units,
    "tsv": _csv_units,
    "parquet": _table_units,
    "arrow": _table_units,
}


def without_line_end(text: str) -> str:
    """Return a text without the LF or CRLF at its end."""
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text
