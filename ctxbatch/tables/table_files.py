"""Writes a table of results into a CSV or a Parquet file, whole or not at all."""

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ctxbatch.errors import InputError
from ctxbatch.files import as_resource_error, replacing
from ctxbatch.tables.csv_cells import csv_row
from ctxbatch.tables.results import json_rows

log = logging.getLogger("ctxbatch")


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


def csv_of(table: pa.Table) -> str:
    """Return a table as CSV with a header; an apostrophe keeps text from being run as a formula."""
    rows = (row for batch in table.to_batches(max_chunksize=10_000) for row in json_rows(batch))
    return "".join(f"{csv_row(row)}\r\n" for row in itertools.chain([table.column_names], rows))
