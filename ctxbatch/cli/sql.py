"""Runs the sql command, and shows the rows that a query finds."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson
from ctxbatch.cli.search import is_store
from ctxbatch.errors import InputError
from ctxbatch.option_values import not_a_text, size

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

log = logging.getLogger("ctxbatch")
_SHOWN_ROWS = 40
_SHOWN_NUMBERS = 3
_NARROWEST = 10  # of a column on a terminal, with the space between columns


def sql(
    *out_and_query: Annotated[
        str,
        Parameter(
            name="OUT... [QUERY]",
            required=True,
            help="Stores made with the same model and vectors, then a SELECT over the views words, sentences "
            "and occurrences. DESCRIBE words lists columns.",
        ),
    ],
    file: Annotated[
        str | None, Parameter(metavar="FILE", help="Read the query from a file; - is standard input.")
    ] = None,
    as_csv: Annotated[bool, Parameter(name="--csv", help="Print all rows as CSV.")] = False,
    as_json: AsJson = False,
    parquet: Annotated[
        Path | None, Parameter(metavar="FILE", help="Write all rows to a Parquet file, which is replaced.")
    ] = None,
    memory: Annotated[
        str,
        Parameter(metavar="BYTES", help="Memory that DuckDB may take; it then uses the temporary folder."),
    ] = "1GB",
) -> int:
    """Query the tables of stores with SQL.

    The query can read the stores, and nothing else.
    """
    from ctxbatch.store.checks import check_finished, check_has_rows
    from ctxbatch.tables.database import opened
    from ctxbatch.tables.engine import QueryError, batches

    n_bytes = size("--memory", memory)
    if sum([as_csv, as_json, parquet is not None]) > 1:
        raise InputError("--csv, --json and --parquet exclude each other: give one")
    folders, query = _split(list(out_and_query), file)
    stores = [ctxbatch.open(folder) for folder in folders]
    for store in stores:
        store.check_is_here()
        check_finished(store)
        check_has_rows(store)
    if parquet is not None:
        _check_target(parquet, [store.path for store in stores])
    try:
        with opened(stores, n_bytes) as connected, closing(batches(connected, query)) as found:
            _show(found, parquet, as_csv=as_csv, as_json=as_json)
    except QueryError as error:
        terminal.tell(f"ctxbatch: {error}")
        for line in error.place:
            terminal.tell(line)
        return error.exit_status
    return 0


def _split(arguments: list[str], file: str | None) -> tuple[list[str], str]:
    """Return the stores and the query."""
    if file is not None:
        return arguments, _read(file)
    if len(arguments) < 2 or is_store(arguments[-1]):
        raise InputError('a query is missing: add one, such as "FROM words LIMIT 10", or --file')
    return arguments[:-1], arguments[-1]


def _read(file: str) -> str:
    import sys

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise not_a_text("--file", file, error) from None


def _check_target(path: Path, stores: Sequence[Path]) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"--parquet {path} exists and is not a file: name another")
    if not path.parent.is_dir():
        raise InputError(f"--parquet {path} is in no folder: make {path.parent}")
    for store in stores:
        if path.resolve().is_relative_to(store.resolve()):
            raise InputError(f"--parquet {path} is inside the store {store}: name a file outside it")


def _show(found: "Iterator[pa.RecordBatch]", parquet: Path | None, *, as_csv: bool, as_json: bool) -> None:
    from ctxbatch.tables.csv_cells import csv_row
    from ctxbatch.tables.results import json_rows, write_parquet

    if parquet is not None:
        n_rows = write_parquet(parquet, found)
        log.info("%s: %s row%s", parquet, f"{n_rows:,}", "" if n_rows == 1 else "s")
        return
    names = next(found).schema.names
    if as_json:
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            raise InputError(f"--json: two columns are named {twice!r}: name one with AS")
        rows = (row for batch in found for row in json_rows(batch))
        terminal.show(terminal.json_line(dict(zip(names, row, strict=True))) for row in rows)
    elif as_csv:
        terminal.show_data([csv_row(names)])
        terminal.show_data(csv_row(row) for batch in found for row in json_rows(batch))
    else:
        _show_table(names, found)


# --- a table on the terminal ----------------------------------------------------------------------


def _show_table(names: list[str], found: "Iterator[pa.RecordBatch]") -> None:
    from ctxbatch.tables.results import json_rows

    rows: list[list[Any]] = []
    for batch in found:
        rows += json_rows(batch.slice(0, _SHOWN_ROWS + 1))
        if len(rows) > _SHOWN_ROWS:
            break
    if names == ["explain_key", "explain_value"]:  # a drawing of DuckDB's, with lines of its own
        terminal.show(line for row in rows for line in str(row[1]).splitlines())
        return
    width = terminal.columns()
    n_shown = max(1, width // _NARROWEST)
    terminal.show(_drawn(names[:n_shown], [row[:n_shown] for row in rows[:_SHOWN_ROWS]], width))
    if len(names) > n_shown:
        log.warning("not shown: %s: select fewer columns, or add --json", ", ".join(names[n_shown:]))
    if len(rows) > _SHOWN_ROWS:
        log.warning("only the first %d rows: all with --csv, --json or --parquet FILE", _SHOWN_ROWS)


def _drawn(names: list[str], rows: list[list[Any]], width: int) -> "list[terminal.Styled]":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def draw(console: "Console") -> None:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for number, name in enumerate(names):
            values = [row[number] for row in rows if row[number] is not None]
            are_numbers = bool(values) and all(
                isinstance(value, int | float) and not isinstance(value, bool) for value in values
            )
            table.add_column(
                Text(terminal.printable(name)),
                justify="right" if are_numbers else "left",
                no_wrap=True,
                overflow="ellipsis",
            )
        for row in rows:
            table.add_row(*(Text(terminal.printable(_cell(value))) for value in row))
        console.print(table)

    return terminal.drawn(draw, width)


def _cell(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > _SHOWN_NUMBERS:
        shown = ", ".join(map(_cell, value[:_SHOWN_NUMBERS]))
        return f"[{shown}, … {len(value) - _SHOWN_NUMBERS:,} more]"
    if isinstance(value, list | dict):
        return terminal.json_line(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
