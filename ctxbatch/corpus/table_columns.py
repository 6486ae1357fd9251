"""Finds a table's columns by name, and decodes their texts and ids.

Owns which columns hold text. pyarrow trusts what a file says of itself, so a column's offsets and indices
are checked before they are used.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BAD_ID = b"\xff"  # not UTF-8, so the row is rejected
# What pyarrow raises on a damaged file; some of these classes have nothing to do with files.
DECODE_ERRORS = (pa.ArrowException, MemoryError, OSError, SystemError, ValueError, OverflowError, KeyError)
# Rows are decoded together if their values take no more bytes than this, else one by one.
DECODED_BYTES = 64 << 20


def find_column(schema: pa.Schema, name: str) -> list[str] | None:
    """Return the path to a column: its name as it stands, or the parts of a name with dots, through structs.

    Return ``None`` if no column has the name, or several have.
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
    """Return the type of the column at a path from `find_column`."""
    kind = schema.field(path[0]).type
    for part in path[1:]:
        kind = kind.field(part).type
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Return True if a column's values are strings, or bytes that may be text."""
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
    """Return the names of all columns, with dots for those inside structs."""
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
    """Return a column after checking that no offset or index leads out of its buffers."""
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
    elif pa.types.is_string_view(column.type):
        column.validate(full=True)
    elif is_text(column.type):
        # As bytes: `records` decides whether they are UTF-8.
        column = column.cast(pa.large_binary())
    if pa.types.is_large_binary(column.type) or pa.types.is_nested(column.type):
        column.validate(full=True)  # only offsets can lead out of the buffers
    return column


def _pieces(column: pa.Array, skipped: int) -> Iterator[pa.Array]:
    """Yield a checked column decoded, without its first rows: whole, or row by row if it takes many bytes."""
    step = len(column) if _decoded_bytes(column) <= DECODED_BYTES else 1
    for begin in range(skipped, len(column), max(1, step)):
        piece = column.slice(begin, step)
        if isinstance(piece, pa.DictionaryArray):
            piece = piece.dictionary_decode()
        elif pa.types.is_string_view(piece.type):
            piece = piece.cast(pa.large_string()).cast(pa.large_binary())
        yield piece


def _decoded_bytes(column: pa.Array) -> int:
    """Return the bytes that the values of a checked column take when decoded, repeated ones included."""
    if pa.types.is_string_view(column.type):
        views = np.frombuffer(column.buffers()[1], np.int32).reshape(-1, 4)
        return int(views[column.offset : column.offset + len(column), 0].sum(dtype=np.int64))
    if isinstance(column, pa.DictionaryArray) and pa.types.is_large_binary(column.dictionary.type):
        lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    elif pa.types.is_large_binary(column.type):
        lengths = pc.binary_length(column)
    else:
        return int(column.nbytes)
    return int(pc.sum(lengths).as_py() or 0)


def texts(batch: pa.RecordBatch, path: list[str] | None, skipped: int) -> Iterable[bytes | None]:
    """Return the texts of a batch's rows after the first ``skipped``; ``None`` for null.

    Args:
        batch: The rows.
        path: The path of the column, from `find_column`; without one, every text is ``None``.
        skipped: The number of rows to skip.

    Raises:
        Exception: One of `DECODE_ERRORS`, now or during iteration: the rows are damaged.
    """
    if path is None:
        return itertools.repeat(None, batch.num_rows - skipped)
    pieces = _pieces(_column(batch, path), skipped)
    return itertools.chain.from_iterable(piece.to_pylist() for piece in pieces)


def ids(batch: pa.RecordBatch, path: list[str] | None, skipped: int) -> Iterable[bytes | None]:
    """Return the ids of a batch's rows as `texts` does; an id that cannot be shown is invalid UTF-8."""
    if path is None:
        return itertools.repeat(None, batch.num_rows - skipped)
    return itertools.chain.from_iterable(map(_shown_ids, _pieces(_column(batch, path), skipped)))


def other_values(
    batch: pa.RecordBatch, paths: Sequence[list[str] | None], skipped: int
) -> Iterable[tuple[Any, ...]]:
    """Return a tuple of the Python values of some columns per row after the first ``skipped``.

    Bytes become text, with U+FFFD for what is not UTF-8; a column without a path has only ``None``.
    """
    if not paths:
        return itertools.repeat((), batch.num_rows - skipped)
    columns: list[Iterable[Any]] = [
        itertools.repeat(None) if path is None else map(_as_text, _values(batch, path, skipped))
        for path in paths
    ]
    return itertools.islice(zip(*columns, strict=False), batch.num_rows - skipped)


def _values(batch: pa.RecordBatch, path: list[str], skipped: int) -> Iterable[Any]:
    return itertools.chain.from_iterable(
        piece.to_pylist() for piece in _pieces(_column(batch, path), skipped)
    )


def _as_text(value: Any) -> Any:  # noqa: ANN401 (any value of a column)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shown_ids(column: pa.Array) -> list[bytes | None]:
    try:
        return _id_values(column)
    except MemoryError:
        raise
    except DECODE_ERRORS:  # a value that cannot be shown rejects its row, not the file
        return [_id_value(column.slice(row, 1)) for row in range(len(column))]


def _id_value(column: pa.Array) -> bytes | None:
    try:
        return _id_values(column)[0]
    except MemoryError:
        raise
    except DECODE_ERRORS:
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
