"""Writes a table of results into a CSV or a Parquet file, whole or not at all."""

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctxbatch.errors import InputError, one_line
from ctxbatch.files import as_resource_error, replacing

log = logging.getLogger("ctxbatch")
# A spreadsheet runs a cell that begins so as a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class TableFiles:
    """Files that a table of results goes to, beside what is shown.

    Args:
        files: The path that each option names, ``--csv`` or ``--parquet``; ``None`` if it is not given.

    Raises:
        InputError: A path cannot be that of a new file; told before anything is computed.
    """

    def __init__(self, files: Mapping[str, str | None]) -> None:
        self._paths = {option: Path(path) for option, path in files.items() if path is not None}
        for option, path in self._paths.items():
            if path.is_dir():
                raise InputError(f"{option} {path} is a folder: name a file")
            if not path.parent.is_dir():
                raise InputError(f"{option} {path}: there is no folder {path.parent}: make it first")

    def write(self, make: Callable[[], pa.Table]) -> None:
        """Write the table that ``make`` returns into all files, replacing what is there; do nothing for none.

        Raises:
            ResourceError: A disk refuses.
        """
        if not self._paths:
            return
        table = make()
        for option, path in self._paths.items():
            try:
                with replacing(path) as beside:
                    if option == "--csv":
                        beside.write_text(csv_of(table), "utf-8", newline="")
                    else:
                        pq.write_table(table, beside, compression="zstd")
            except OSError as error:
                raise as_resource_error(error, path) from error
            log.info("wrote %s rows to %s", f"{table.num_rows:,}", path)

    def write_batches(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Write record batches into the Parquet file.

        Raises:
            ResourceError: The disk refuses.
        """
        path, n_rows = self._paths["--parquet"], 0
        try:
            with (
                replacing(path) as beside,
                pq.ParquetWriter(beside, schema, compression="zstd") as writer,
            ):
                for batch in batches:
                    writer.write_batch(batch)
                    n_rows += len(batch)
        except pa.ArrowNotImplementedError as error:
            raise InputError(f"--parquet {path}: {one_line(error)}: cast the column to VARCHAR") from None
        except OSError as error:
            raise as_resource_error(error, path) from error
        log.info("wrote %s rows to %s", f"{n_rows:,}", path)


def csv_of(table: pa.Table) -> str:
    """Return a table as CSV with a header, as in RFC 4180; the texts of a list are joined by spaces.

    An apostrophe stands before a text that a spreadsheet would run as a formula.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([csv_cell(name) for name in table.column_names])
    for batch in table.to_batches(max_chunksize=10_000):
        writer.writerows([csv_cell(value) for value in row.values()] for row in batch.to_pylist())
    return out.getvalue()


def csv_cell(value: Any) -> Any:  # noqa: ANN401 (a value of any column)
    """Return a value as a cell that no spreadsheet runs."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
