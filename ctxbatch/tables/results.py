"""Turns rows that a query finds into values of JSON, and writes them to Parquet files."""

import math
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ctxbatch.errors import InputError, one_line
from ctxbatch.files import replacing


def json_rows(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """Yield each row as values of JSON.

    A float has the fewest digits that tell it from others of its type; if it is not finite, it is ``None``.
    """
    columns = [[_plain(value, column.type) for value in column.to_pylist()] for column in batch.columns]
    yield from map(list, zip(*columns, strict=True))


def _plain(value: Any, kind: pa.DataType) -> Any:  # noqa: ANN401 (a value of Arrow; one of JSON)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(str(np.float32(value))) if pa.types.is_float32(kind) else value
    if isinstance(value, dict):
        return {field.name: _plain(value[field.name], field.type) for field in kind}
    if isinstance(value, list):
        if pa.types.is_map(kind):
            return {str(key): _plain(each, kind.item_type) for key, each in value}
        return [_plain(each, kind.value_type) for each in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_parquet(path: Path, batches: Iterator[pa.RecordBatch]) -> int:
    """Write rows to a Parquet file, whole or not at all; return their number.

    Args:
        path: The file, which is replaced if it exists.
        batches: The rows; the first batch, which may be empty, tells the columns.

    Raises:
        InputError: A column has a type that Parquet does not have.
        OSError: The disk refuses.
    """
    import pyarrow.parquet as pq

    n_rows = 0
    first = next(batches)
    with replacing(path) as beside:
        try:
            with pq.ParquetWriter(beside, first.schema, compression="zstd") as writer:
                for batch in batches:
                    n_rows += len(batch)
                    writer.write_batch(batch)
        except pa.ArrowNotImplementedError as error:
            raise InputError(
                f"{path} cannot hold a column of this type: CAST it ({one_line(error)})"
            ) from error
    return n_rows
