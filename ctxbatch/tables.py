"""Rows of Arrow and Parquet files: the text and the id of each, from any row on, a few at a time.

Owns how a column is named and which columns hold text. Every Arrow file is mapped, not loaded.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctxbatch.errors import InputError
from ctxbatch.streams import DamagedError

_IPC_FILE = b"ARROW1"
_FEATHER_1 = b"FEA1"
_ROWS = 1024

# Number, text as bytes (None: null) and id of a row.
Row = tuple[int, bytes | None, str | None]


class Table:
    """A Parquet file, an Arrow IPC file (Feather is one) or an Arrow IPC stream.

    Raises:
        DamagedError: It is not what its name says, or cut off.
        InputError: It cannot be opened.
    """

    def __init__(self, path: str, format_name: str) -> None:
        self._path = path
        self._is_parquet = format_name == "parquet"
        try:
            if self._is_parquet:
                self._file: Any = pq.ParquetFile(path, memory_map=True)
                self.schema: pa.Schema = self._file.schema_arrow
            else:
                self.schema = self._open_arrow().schema
        except (pa.ArrowException, OSError) as error:
            raise self._damage(error) from error

    def _open_arrow(self) -> Any:  # noqa: ANN401 (a reader of a file or of a stream)
        mapped = pa.memory_map(self._path)
        head = mapped.read(len(_IPC_FILE))
        mapped.seek(0)
        if head == _IPC_FILE:
            return pa.ipc.open_file(mapped)
        if head.startswith(_FEATHER_1):
            raise DamagedError("Feather version 1, which pyarrow no longer reads: write it as version 2")
        return pa.ipc.open_stream(mapped)

    def _damage(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is not None:
            return InputError(f"{self._path} cannot be read: {error.strerror}")
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

    def rows(self, start: int, text: str, identifier: str) -> Iterator[Row]:
        """Yield rows from row ``start`` on.

        Args:
            start: The first row's number, from 0.
            text: The column with the text, nested ones with dots.
            identifier: The column with the id; it need not exist.

        Raises:
            DamagedError: The file is damaged from the row on that would come next.
        """
        paths = find_column(self.schema, text), find_column(self.schema, identifier)
        first: int
        batches = self._parquet_batches(start, paths) if self._is_parquet else self._arrow_batches(start)
        for first, batch in batches:
            for begin in range(max(0, start - first), batch.num_rows, _ROWS):
                part = batch.slice(begin, _ROWS)
                texts = _texts(part, paths[0])
                ids = _ids(part, paths[1])
                for offset, (each, name) in enumerate(zip(texts, ids, strict=True)):
                    yield first + begin + offset, each, name

    def _parquet_batches(
        self, start: int, paths: tuple[list[str] | None, ...]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of the wanted columns, beginning with the row group that holds row ``start``."""
        columns = [".".join(path) for path in paths if path]
        first = 0
        groups: list[int] = []
        for group in range(self._file.metadata.num_row_groups):
            size = self._file.metadata.row_group(group).num_rows
            if not groups and first + size <= start:
                first += size
            else:
                groups.append(group)
        if not groups:
            return
        try:
            for batch in self._file.iter_batches(_ROWS, row_groups=groups, columns=columns):
                yield first, batch
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._damage(error) from error

    def _arrow_batches(self, start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of all columns, as they lie in the file; what is mapped and not looked at costs nothing."""
        first = 0
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
        except (pa.ArrowException, OSError) as error:
            raise self._damage(error) from error


# --- columns --------------------------------------------------------------------------------------


def find_column(schema: pa.Schema, name: str) -> list[str] | None:
    """The way to a column: a name as it stands, or through structs, with dots; ``None`` if there is none."""
    if name in schema.names:
        return [name]
    parts = name.split(".")
    if parts[0] not in schema.names:
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
    column = batch.column(path[0])
    for part in path[1:]:
        column = pc.struct_field(column, part)
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _texts(batch: pa.RecordBatch, path: list[str] | None) -> list[bytes | None]:
    if path is None:
        return [None] * batch.num_rows
    column = _column(batch, path)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    # As bytes: whether they are UTF-8 is for the one who makes records of them to say.
    found: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return found


def _ids(batch: pa.RecordBatch, path: list[str] | None) -> list[str | None]:
    if path is None:
        return [None] * batch.num_rows
    try:
        values = _column(batch, path).to_pylist()
    except UnicodeDecodeError:
        return [None] * batch.num_rows
    return [v if v is None or isinstance(v, str) else json.dumps(v, default=str) for v in values]
