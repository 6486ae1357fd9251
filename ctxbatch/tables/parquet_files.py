"""Writes rows of a store to Parquet files, and compares what was written with the store, bit for bit."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctxbatch.tables.exported_rows import ExportedRows

_BITS = {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}


class Cancelled(Exception):  # noqa: N818 (not an error: another file failed, or a signal came)
    """The export stops; the file is given up."""


def write_rows(sink: Any, table: ExportedRows, groups: Iterable[pa.Table], rows_per_group: int) -> None:  # noqa: ANN401 (a path or a stream)
    """Write rows as Parquet, each table of ``groups`` as one row group.

    Vectors that were half floats are written with dictionaries. Split by bytes they would be smaller and
    faster to write, but Spark's vectorised reader does not read that encoding.
    """
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=table.repeating or False,
        write_statistics=table.without_vectors or False,
    ) as writer:
        for rows in groups:
            writer.write_table(rows, row_group_size=rows_per_group)


def write_file(
    path: Path,
    table: ExportedRows,
    rows: range,
    rows_per_group: int,
    stop: threading.Event,
    advance: Callable[[int], None],
) -> None:
    """Write rows of a table to a file.

    Args:
        path: The file.
        table: The table.
        rows: The numbers of its rows.
        rows_per_group: The rows of a row group.
        stop: When set, this gives up.
        advance: Called with each number of rows written.

    Raises:
        Cancelled: ``stop`` was set.
        OSError: The disk refuses.
    """

    def groups() -> Iterable[pa.Table]:
        for first in rows[::rows_per_group]:
            if stop.is_set():
                raise Cancelled
            yield (read := table.table(first, min(first + rows_per_group, rows.stop)))
            advance(len(read))

    write_rows(path, table, groups(), rows_per_group)


def difference(
    path: Path, table: ExportedRows, rows: range, rows_per_group: int, stop: threading.Event
) -> str | None:
    """Return how a file differs from the rows of the table that it should hold; ``None`` if it does not.

    Arguments and errors are those of `write_file`.
    """
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != len(rows):
                return f"{file.metadata.num_rows:,} rows, not {len(rows):,}"
            for number, first in enumerate(rows[::rows_per_group]):
                if stop.is_set():
                    raise Cancelled
                read = file.read_row_group(number, use_threads=False)
                wanted = table.table(first, min(first + rows_per_group, rows.stop))
                for name in table.schema.names:
                    if not _are_same_bits(read[name], wanted[name]):
                        return f"column {name} differs in row group {number}"
    except pa.ArrowException as error:
        return " ".join(str(error).split())
    return None


def _are_same_bits(read: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    """Return True if two columns are equal, with floats compared by their bits."""
    return bool(_as_bits(read).equals(_as_bits(wanted)))


def _as_bits(column: pa.ChunkedArray) -> pa.Array:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return array.view(_BITS[array.type.bit_width]) if pa.types.is_floating(array.type) else array
