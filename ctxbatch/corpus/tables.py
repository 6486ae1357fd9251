"""Reads rows of Arrow and Parquet files: the text and the id of each, from any row on, a few at a time.

Owns that few rows are in memory at once, however many a file stores as one piece. Local files are read, not
mapped: if somebody truncates a mapped file, SIGBUS ends the process.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctxbatch.corpus.read_errors import DamagedError, classify_error
from ctxbatch.corpus.source_files import refuse_special, size_and_time
from ctxbatch.corpus.table_columns import (
    DECODE_ERRORS,
    DECODED_BYTES,
    column_names,
    find_column,
    ids,
    other_values,
    texts,
)
from ctxbatch.errors import InputError
from ctxbatch.filesystem import is_remote, open_file

_IPC_FILE = b"ARROW1"
_FEATHER_1 = b"FEA1"
_ROWS = 1024
# Bytes of a Parquet column that are read ahead.
_AHEAD = 1 << 20
# A larger row group is not fetched whole from a remote file.
_FETCHED = 64 << 20
_ROWS_OF_DIFFERENCES = 16
_PAGE_HEAD = 16
_LENGTH_BYTES = 4

# A row's number, its text (None: null), its id (None: null, or no such column), and values of other columns.
Row = tuple[int, bytes | None, bytes | None, tuple[Any, ...]]
# The number of a batch's first row, and the batch.
_Batch = tuple[int, pa.RecordBatch]


class Table:
    """A Parquet file, an Arrow IPC file (such as Feather) or an Arrow IPC stream.

    Raises:
        DamagedError: It is not of this format, or truncated.
        InputError: It cannot be opened.
        ResourceError: The network fails.
    """

    def __init__(self, path: str, format_name: str) -> None:
        self._path = path
        self._is_parquet = format_name == "parquet"
        self._batches: Iterator[_Batch] | None = None
        self._batch: _Batch | None = None
        self._ahead_to = 0.0
        self._parquet: Any = None
        self._rows: dict[int, int] = {}
        self._state: tuple[int, int] | None = None
        self._size = 0
        try:
            if self._is_parquet:
                self._metadata = pq.read_metadata(self._opened())
                self.schema: pa.Schema = self._open_parquet().schema_arrow
            else:
                self.schema = self._open_arrow().schema
            self.columns = column_names(self.schema)
        except DECODE_ERRORS as error:
            raise self._damage(error) from error

    def _opened(self) -> Any:  # noqa: ANN401 (a file of pyarrow's)
        if is_remote(self._path):
            file = pa.PythonFile(open_file(self._path), "r")
        else:
            refuse_special(self._path)
            file = pa.OSFile(self._path)
            self._state = self._state or _state_of(self._path)
        self._size = file.size()
        return file

    def _open_parquet(self, few: bool = False, dictionaries: Sequence[str] = ()) -> Any:  # noqa: ANN401 (a ParquetFile)
        """Open a Parquet file, maybe for ``few`` rows; keep columns in ``dictionaries`` encoded."""
        groups = range(self._metadata.num_row_groups)
        largest = max((self._metadata.row_group(group).total_byte_size for group in groups), default=0)
        whole = is_remote(self._path) and largest <= _FETCHED and not few
        return pq.ParquetFile(
            self._opened(),
            metadata=self._metadata,
            pre_buffer=whole,
            buffer_size=0 if whole else _AHEAD,
            read_dictionary=list(dictionaries) or None,
        )

    def _open_arrow(self, columns: Sequence[int] = ()) -> Any:  # noqa: ANN401 (a reader of a file or of a stream)
        """Open an Arrow file or stream to read some columns, or all."""
        options = pa.ipc.IpcReadOptions(included_fields=list(columns))
        file = self._opened()
        head = file.read(len(_IPC_FILE))
        file.seek(0)
        if head == _IPC_FILE:
            return pa.ipc.open_file(file, options=options)
        if head.startswith(_FEATHER_1):
            raise DamagedError("Feather version 1, which pyarrow no longer reads: write it as version 2")
        return pa.ipc.open_stream(file, options=options)

    def _damage(self, error: Exception) -> Exception:
        if self._state is not None and _state_of(self._path) != self._state:
            return InputError(f"{self._path} changed while it was read: run again when it is complete")
        return classify_error(error, self._path, "Parquet" if self._is_parquet else "Arrow", self._size)

    @property
    def n_rows(self) -> int:
        """The number of rows; in a damaged stream, of those before the damage."""
        if self._is_parquet:
            return int(self._metadata.num_rows)
        count = 0
        with contextlib.suppress(DamagedError):
            for _, batch in self._arrow_batches(0, self._smallest_column()):
                count += batch.num_rows
        return count

    def _smallest_column(self) -> list[int]:
        """Return the smallest column of an Arrow file, by which its rows are counted fastest."""
        for _, batch in self._arrow_batches(0, []):
            return sorted(range(batch.num_columns), key=lambda column: batch.column(column).nbytes)[:1]
        return []

    def rows(self, start: int, text_column: str, id_column: str, others: Sequence[str] = ()) -> Iterator[Row]:
        """Yield rows from row ``start`` on.

        Args:
            start: The first row's number, from 0.
            text_column: The column with the text, with dots into structs.
            id_column: The column with the id; it need not exist.
            others: Further columns, whose values are read as Python values; they need not exist.

        Raises:
            DamagedError: The file is damaged at the next row.
        """
        paths = tuple(find_column(self.schema, name) for name in (text_column, id_column, *others))
        for first, batch in self._batches_from(start, paths):
            before = max(0, start - first)
            # Slices count from the batch's first row, so that damage does not depend on ``start``.
            for begin in range(before // _ROWS * _ROWS, batch.num_rows, _ROWS):
                part, skipped = batch.slice(begin, _ROWS), max(0, before - begin)
                try:
                    yield from zip(
                        itertools.count(first + begin + skipped),
                        texts(part, paths[0], skipped),
                        ids(part, paths[1], skipped),
                        other_values(part, paths[2:], skipped),
                        strict=False,
                    )
                except DECODE_ERRORS as error:
                    raise self._damage(error) from error

    def _batches_from(self, start: int, paths: tuple[list[str] | None, ...]) -> Iterator[_Batch]:
        """Yield batches from the one that holds row ``start``.

        If reading stopped shortly before that row, it continues: nothing else leads to a row inside a Parquet
        row group, and remote files are not fetched again. Local Arrow files are opened again.
        """
        first = self._batch[0] if self._batch is not None else 0
        goes_on = self._is_parquet or is_remote(self._path)
        if self._batches is None or not goes_on or not first <= start < self._ahead_to:
            self._batch = None
            self._batches = (
                self._parquet_batches(start, paths)
                if self._is_parquet
                else self._arrow_batches(start, self._numbers_of(paths))
            )
        elif self._batch is not None and start < first + self._batch[1].num_rows:
            yield self._batch
        try:
            for batch in self._batches:
                self._batch = batch
                if start < batch[0] + batch[1].num_rows:
                    yield batch
        except Exception:
            self._batches = None
            raise

    def _numbers_of(self, paths: tuple[list[str] | None, ...]) -> list[int]:
        return sorted({self.schema.get_field_index(path[0]) for path in paths if path})

    def _parquet_batches(self, start: int, paths: tuple[list[str] | None, ...]) -> Iterator[_Batch]:
        """Yield batches of the wanted columns, from the row group that holds row ``start``.

        Row groups are read one by one, so that the edges of batches do not depend on ``start``.
        """
        columns = [".".join(path) for path in paths if path]
        first = 0
        for group in range(self._metadata.num_row_groups):
            size = self._metadata.row_group(group).num_rows
            if first + size <= start:
                first += size
                continue
            self._ahead_to = first + size
            try:
                self._parquet = self._parquet or self._open_parquet()
                rows = self._rows_at_once(group, columns)
                for batch in self._parquet.iter_batches(rows, row_groups=[group], columns=columns):
                    yield first, batch
                    first += batch.num_rows
            except DECODE_ERRORS as error:
                raise self._damage(error) from error

    def _rows_at_once(self, group: int, columns: Sequence[str]) -> int:
        """Return how many rows of a row group to decode at once, so that they take few bytes.

        If values share bytes in the file, its size says nothing: every row may hold the same value of a
        dictionary, and a value stored as a difference repeats the one before.
        """
        if group in self._rows:
            return self._rows[group]
        # Read a row first: on damaged metadata pyarrow's reader raises an error, while the metadata objects
        # below end the process.
        next(self._open_parquet(few=True).iter_batches(1, row_groups=[group], columns=columns), None)
        facts, rows = self._metadata.row_group(group), _ROWS
        for number in range(facts.num_columns):
            path = self._metadata.schema.column(number).path
            if not any(path == name or path.startswith(f"{name}.") for name in columns):
                continue
            chunk = facts.column(number)
            rows = min(rows, DECODED_BYTES * facts.num_rows // max(1, chunk.total_uncompressed_size))
            if "DELTA_BYTE_ARRAY" in chunk.encodings:
                rows = min(rows, _ROWS_OF_DIFFERENCES)
            if chunk.has_dictionary_page and chunk.physical_type == "BYTE_ARRAY":
                rows = min(rows, DECODED_BYTES // max(1, self._longest_in_dictionary(group, chunk)))
        self._rows[group] = max(1, rows)
        return self._rows[group]

    def _longest_in_dictionary(self, group: int, chunk: Any) -> int:  # noqa: ANN401 (metadata of pyarrow's)
        """Return the size of the longest value in a chunk's dictionary, or of the whole dictionary."""
        name = chunk.path_in_schema
        size = _page_bytes(self._opened().read_at(_PAGE_HEAD, chunk.dictionary_page_offset))
        if size * _ROWS <= DECODED_BYTES:
            return size
        file = self._open_parquet(few=True, dictionaries=[name])
        batch = next(file.iter_batches(1, row_groups=[group], columns=[name]), None)
        column = None if batch is None else batch.column(0)
        while isinstance(column, pa.StructArray):  # only this column of it was read
            column = column.field(0)
        if not isinstance(column, pa.DictionaryArray):
            return size
        lengths = pc.binary_length(column.dictionary)
        whole = (pc.sum(lengths).as_py() or 0) + _LENGTH_BYTES * len(lengths)
        return pc.max(lengths).as_py() if whole == size else size  # else it is not the whole dictionary

    def _arrow_batches(self, start: int, columns: Sequence[int]) -> Iterator[_Batch]:
        """Yield batches of some columns, as they lie in the file."""
        first = 0
        self._ahead_to = math.inf
        try:
            reader = self._open_arrow(columns)
            is_file = hasattr(reader, "num_record_batches")
            batches = (
                (reader.get_batch(number) for number in range(reader.num_record_batches))
                if is_file
                else iter(reader)
            )
            for batch in batches:
                if first + batch.num_rows > start:
                    yield first, batch
                first += batch.num_rows
        except DECODE_ERRORS as error:
            raise self._damage(error) from error


def _state_of(path: str) -> tuple[int, int] | None:
    """Return the current size and time of a local file, or ``None`` if it is gone."""
    with contextlib.suppress(OSError):
        return size_and_time(path)
    return None


def _page_bytes(head: bytes) -> int:
    """Return the decompressed size of a Parquet page; 0 if its header is damaged, as pyarrow will report.

    The header begins with two 32-bit fields: the type, and this size. Each is one byte, then a varint.
    """
    numbers = []
    position = 0
    for _ in range(2):
        if head[position : position + 1] != b"\x15":
            return 0
        number = shift = 0
        for byte in head[position + 1 : position + 6]:
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        position += 1
        numbers.append(number >> 1)  # its lowest bit is the sign
    return numbers[1]
