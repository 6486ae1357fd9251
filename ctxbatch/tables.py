"""Rows of Arrow and Parquet files: the text and the id of each, from any row on, a few at a time.

Owns how a column is named and which columns hold text. Every local file is mapped, not loaded.
"""

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctxbatch.remote import is_remote, open_file
from ctxbatch.streams import DamagedError, unreadable

_IPC_FILE = b"ARROW1"
_FEATHER_1 = b"FEA1"
_ROWS = 1024
_BAD_ID = b"\xff"  # no UTF-8, so the row is rejected
# What pyarrow raises on a file that was damaged; much of it says nothing of files.
_BROKEN = (pa.ArrowException, OSError, SystemError, ValueError, OverflowError, KeyError)

# Number of a row, its text (None: null) and its id (None: null, or no such column).
Row = tuple[int, bytes | None, bytes | None]
# Number of a batch's first row, and the batch.
_Batch = tuple[int, pa.RecordBatch]


class Table:
    """A Parquet file, an Arrow IPC file (Feather is one) or an Arrow IPC stream.

    Raises:
        DamagedError: It is not what its name says, or cut off.
        InputError: It cannot be opened.
        ResourceError: The network fails.
    """

    def __init__(self, path: str, format_name: str) -> None:
        self._path = path
        self._is_parquet = format_name == "parquet"
        self._batches: Iterator[_Batch] | None = None
        self._batch: _Batch | None = None
        self._ahead_to = 0.0
        try:
            if self._is_parquet:
                self._file: Any = pq.ParquetFile(_opened(path), pre_buffer=is_remote(path))
                self.schema: pa.Schema = self._file.schema_arrow
            else:
                self.schema = self._open_arrow().schema
            self.columns = column_names(self.schema)
        except _BROKEN as error:
            raise self._damage(error) from error

    def _open_arrow(self) -> Any:  # noqa: ANN401 (a reader of a file or of a stream)
        file = _opened(self._path)
        head = file.read(len(_IPC_FILE))
        file.seek(0)
        if head == _IPC_FILE:
            return pa.ipc.open_file(file)
        if head.startswith(_FEATHER_1):
            raise DamagedError("Feather version 1, which pyarrow no longer reads: write it as version 2")
        return pa.ipc.open_stream(file)

    def _damage(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is not None:
            return unreadable(self._path, error)
        what = "Parquet" if self._is_parquet else "Arrow"
        return DamagedError(f"the {what} data are damaged ({' '.join(str(error).split())[:200]})")

    @property
    def n_rows(self) -> int:
        """Rows in all; of a damaged stream those before the damage."""
        if self._is_parquet:
            return int(self._file.metadata.num_rows)
        count = 0
        try:
            for _, batch in self._arrow_batches(0):
                count += batch.num_rows
        except DamagedError:
            pass
        return count

    def rows(self, start: int, text_column: str, id_column: str) -> Iterator[Row]:
        """Yield rows from row ``start`` on.

        Args:
            start: The first row's number, from 0.
            text_column: The column with the text, nested ones with dots.
            id_column: The column with the id; it need not exist.

        Raises:
            DamagedError: The file is damaged from the row on that would come next.
        """
        paths = find_column(self.schema, text_column), find_column(self.schema, id_column)
        for first, batch in self._batches_from(start, paths):
            # Slices count from the batch's first row, so that what is damaged does not depend on ``start``.
            for begin in range(max(0, start - first) // _ROWS * _ROWS, batch.num_rows, _ROWS):
                part = batch.slice(begin, _ROWS)
                try:
                    texts, ids = _texts(part, paths[0]), _ids(part, paths[1])
                except _BROKEN as error:
                    raise self._damage(error) from error
                for row, text, name in zip(itertools.count(first + begin), texts, ids, strict=False):
                    if row >= start:
                        yield row, text, name

    def _batches_from(self, start: int, paths: tuple[list[str] | None, ...]) -> Iterator[_Batch]:
        """Batches from the one on that holds row ``start``.

        Where a remote file is being read a little before it, reading goes on; what lies mapped is begun anew.
        """
        first = self._batch[0] if self._batch is not None else 0
        if self._batches is None or not is_remote(self._path) or not first <= start < self._ahead_to:
            self._batch = None
            self._batches = (
                self._parquet_batches(start, paths) if self._is_parquet else self._arrow_batches(start)
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

    def _parquet_batches(self, start: int, paths: tuple[list[str] | None, ...]) -> Iterator[_Batch]:
        """Batches of the wanted columns, beginning with the row group that holds row ``start``.

        One row group after another, so that where batches begin does not depend on ``start``.
        """
        columns = [".".join(path) for path in paths if path]
        first = 0
        for group in range(self._file.metadata.num_row_groups):
            size = self._file.metadata.row_group(group).num_rows
            if first + size <= start:
                first += size
                continue
            self._ahead_to = first + size
            try:
                for batch in self._file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                    yield first, batch
                    first += batch.num_rows
            except _BROKEN as error:
                raise self._damage(error) from error

    def _arrow_batches(self, start: int) -> Iterator[_Batch]:
        """Batches of all columns, as they lie in the file; what is mapped and not looked at costs nothing."""
        first = 0
        self._ahead_to = math.inf
        try:
            reader = self._open_arrow()
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
        except _BROKEN as error:
            raise self._damage(error) from error


def _opened(path: str) -> Any:  # noqa: ANN401 (a file of pyarrow's)
    return pa.PythonFile(open_file(path), "r") if is_remote(path) else pa.memory_map(path)


# --- columns --------------------------------------------------------------------------------------


def find_column(schema: pa.Schema, name: str) -> list[str] | None:
    """The way to a column: a name as it stands, or through structs, with dots; ``None`` if there is none.

    There is none either where several columns have the name.
    """
    if schema.get_field_index(name) >= 0:
        return [name]
    parts = name.split(".")
    if schema.get_field_index(parts[0]) < 0:
        return None
    kind = schema.field(parts[0]).type
    for part in parts[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return parts


def column_type(schema: pa.Schema, path: list[str]) -> pa.DataType:
    """The type at the end of a way that `find_column` has found."""
    kind = schema.field(path[0]).type
    for part in path[1:]:
        kind = kind.field(part).type
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's values are strings, or bytes that may be such."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        if pa.types.is_string_view(kind):  # which pyarrow cannot decode
            return False
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_null(kind)
    )


def column_names(schema: pa.Schema) -> list[str]:
    """The names of all columns, those inside structs with dots."""
    names: list[str] = []

    def add(prefix: str, fields: Any) -> None:  # noqa: ANN401 (fields of a schema or of a struct)
        for field in fields:
            if pa.types.is_struct(field.type):
                add(f"{prefix}{field.name}.", field.type)
            else:
                names.append(prefix + field.name)

    add("", schema)
    return names


def _column(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
    """A column, checked for offsets and indices that would lead out of its buffers."""
    column = batch.column(path[0])
    column.validate()
    for part in path[1:]:
        column = pc.struct_field(column, part)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if isinstance(column, pa.DictionaryArray):
        values = column.dictionary
        if is_text(values.type):
            values = values.cast(pa.large_binary())  # as below
        column = pa.DictionaryArray.from_arrays(column.indices, values, safe=False)
        column.validate(full=True)
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column.validate(full=True)
        column = column.cast(pa.large_string())
    if is_text(column.type):
        # As bytes: whether they are UTF-8 is for the one who makes records of them to say.
        column = column.cast(pa.large_binary())
    if pa.types.is_large_binary(column.type) or pa.types.is_nested(column.type):
        column.validate(full=True)  # only what has offsets can lead out of its buffers
    return column


def _texts(batch: pa.RecordBatch, path: list[str] | None) -> list[bytes | None]:
    if path is None:
        return [None] * batch.num_rows
    found: list[bytes | None] = _column(batch, path).to_pylist()
    return found


def _ids(batch: pa.RecordBatch, path: list[str] | None) -> list[bytes | None]:
    if path is None:
        return [None] * batch.num_rows
    column = _column(batch, path)
    try:
        return _id_values(column)
    except _BROKEN:  # a value that no one can show rejects its row, not the file
        return [_id_value(column.slice(row, 1)) for row in range(len(column))]


def _id_value(column: pa.Array) -> bytes | None:
    try:
        return _id_values(column)[0]
    except _BROKEN:
        return _BAD_ID


def _id_values(column: pa.Array) -> list[bytes | None]:
    if pa.types.is_fixed_size_binary(column.type):
        return [None if v is None else v.hex().encode() for v in column.to_pylist()]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp(column.type.unit))
    if pa.types.is_nested(column.type):
        values = column.to_pylist()
        return [None if v is None else json.dumps(v, default=str).encode() for v in values]
    if not pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_string()).cast(pa.large_binary())
    found: list[bytes | None] = column.to_pylist()
    return found
