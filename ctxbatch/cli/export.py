"""Runs the export command."""

import logging
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.choices import StoredType
from ctxbatch.cli.options import AsJson, Quiet, StoreHere
from ctxbatch.errors import InputError, resumable
from ctxbatch.option_values import check_positive, names
from ctxbatch.option_values import size as size_of

log = logging.getLogger("ctxbatch")


def export(
    out: StoreHere,
    dest: Annotated[
        str, Parameter(help="The folder to write to, or its URL; created, or completed if it was begun.")
    ],
    /,
    *,
    columns: Annotated[
        str | None,
        Parameter(
            metavar="A,B,...",
            show_default="all that are stored",
            help="The columns to export, also shifts to compute, such as word,text,difference_4.",
        ),
    ] = None,
    where: Annotated[
        str | None,
        Parameter(metavar="SQL", help="Export only the rows for which this condition in SQL is true."),
    ] = None,
    join: Annotated[
        bool,
        Parameter(
            help="Write one table, whose rows carry text, source and further fields of their sentence."
        ),
    ] = False,
    dtype: Annotated[
        StoredType,
        Parameter(help="Type of the vectors; not all programs read float16; int8 has columns of scales."),
    ] = "float32",
    file_size: Annotated[
        str, Parameter(metavar="BYTES", help="About how large a file gets (1 MB is 1024 x 1024 bytes).")
    ] = "256MB",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export a store as Parquet files, with a card that says how to read them.

    The same command again finishes an export that was stopped. Every file is compared with the store.
    """
    from ctxbatch.tables.export import export
    from ctxbatch.tables.export_plan import ExportOptions

    file_bytes = size_of("--file-size", file_size)
    check_positive("--file-size", file_bytes)
    chosen = None if columns is None else tuple(name.strip() for name in names("--columns", columns))
    if chosen is not None and "" in chosen:
        raise InputError(f"--columns {columns!r} has an empty name: write names with commas between them")
    options = ExportOptions(columns=chosen, where=where, join=join, dtype=dtype, file_bytes=file_bytes)
    with resumable("finished files are kept; to go on, run the same command again"):
        report = export(ctxbatch.open(out), dest, options, quiet=quiet)
    if dtype == "int8":
        log.info("int8: a vector is its values times the row's <column>_scale")
    if dtype == "float16":
        log.info("half floats: DuckDB before 1.3 and Spark cannot read them; Polars, pandas and datasets do")
    if as_json:
        terminal.show([terminal.json_line({**asdict(report), "dest": str(report.dest)})])
    elif not quiet:
        terminal.show([str(report)])
