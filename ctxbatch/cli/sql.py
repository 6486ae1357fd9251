"""Runs the sql command: a query over stores, and its result as a table for people or programs."""

import contextlib
import csv
import io
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import ctxbatch
from ctxbatch import terminal
from ctxbatch.cli.options import AsJson, ParquetFile
from ctxbatch.errors import InputError
from ctxbatch.option_values import not_a_text, size

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("ctxbatch")
_SHOWN_ROWS = 40
_SHOWN_VALUES = 3
# Rows that are made into Python's values at a time: of vectors, these take much more memory.
_ROWS_AT_ONCE = 256
# Columns of the terminal between those of a table, and to which these are cut.
_GAP, _NARROW = 3, 8


def sql(
    *out_and_query: Annotated[
        str, Parameter(metavar="OUT... QUERY", help="Folders of stores, and a query in SQL.", required=True)
    ],
    file: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            allow_leading_hyphen=True,
            help="Read the query from a file; - is standard input.",
        ),
    ] = None,
    memory: Annotated[
        str, Parameter(metavar="SIZE", help="Memory for the query; beyond it, DuckDB writes to disk.")
    ] = "1GB",
    rows: Annotated[
        int, Parameter(name=["--rows", "-n"], metavar="N", help="Rows of the table to show at most.")
    ] = _SHOWN_ROWS,
    as_csv: Annotated[bool, Parameter(name="--csv", help="Print all rows as CSV.")] = False,
    as_json: AsJson = False,
    as_parquet: ParquetFile = None,
) -> None:
    """Ask stores a question in SQL; DuckDB answers.

    The tables are words, sentences, and occurrences, which joins both. `DESCRIBE words` lists columns.
    """
    from ctxbatch.store.checks import unfinished
    from ctxbatch.tables.database import open_database
    from ctxbatch.tables.table_files import TableFiles

    if as_csv and as_json:
        raise InputError("--csv and --json exclude each other: give one")
    if rows < 0:
        raise InputError(f"--rows {rows} must be 0 or more")
    files = TableFiles({"--parquet": as_parquet})
    folders, query = _split(list(out_and_query), file)
    stores = [ctxbatch.open(folder) for folder in folders]
    for store in stores:
        store.check_is_here()
        store.tell_damage()
        if not store.complete:
            log.warning("%s", unfinished(store, ", and only these are read"))
    with open_database(stores, size("--memory", memory)) as database:
        reader = database.query(query)
        batches = database.batches(reader)
        if as_parquet is not None:
            files.write_batches(reader.schema, batches)
        elif as_csv:
            _print_csv(reader.schema.names, batches)
        elif as_json:
            keys = _distinct(reader.schema.names)
            terminal.show(_json(dict(zip(keys, row, strict=True))) for row in _rows(batches))
        else:
            terminal.show(_table(reader.schema.names, batches, rows))


def _split(arguments: list[str], file: str | None) -> tuple[list[str], str]:
    """Return the stores and the query."""
    if file is not None:
        return arguments, _read(file)
    if len(arguments) < 2:
        raise InputError('a query is missing: add one, such as "SELECT count(*) FROM words", or --file')
    return arguments[:-1], arguments[-1]


def _read(path: str) -> str:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as stream:
            return stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise not_a_text("--file", path, error) from None


def _json(row: dict[str, Any]) -> str:
    return terminal.json_line({name: _plain(value) for name, value in row.items()})


def _plain(value: Any) -> Any:  # noqa: ANN401 (any value of a column)
    """Return a value as JSON has it; dates, times and the like as text."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None if value != value else str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _print_csv(names: Sequence[str], batches: "Iterable[pa.RecordBatch]") -> None:
    from ctxbatch.tables.table_files import csv_cell

    for row in itertools.chain([names], _rows(batches)):
        out = io.StringIO()
        csv.writer(out).writerow([csv_cell(value) for value in row])
        terminal.write(out.getvalue())


def _rows(batches: "Iterable[pa.RecordBatch]") -> Iterator[Sequence[Any]]:
    for batch in batches:
        for begin in range(0, len(batch), _ROWS_AT_ONCE):
            some = batch.slice(begin, _ROWS_AT_ONCE)
            yield from zip(*map(_values, some.schema.names, some.columns), strict=True)


def _values(name: str, column: "pa.Array") -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError) as error:
        raise InputError(f"the column {name} cannot be shown ({error}): cast it to VARCHAR") from None
    return values


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names of columns, numbered where they repeat, so that JSON keeps all."""
    found: list[str] = []
    for name in names:
        unique = next(each for n in itertools.count() if (each := f"{name}_{n}" if n else name) not in found)
        found.append(unique)
    return found


def _table(names: Sequence[str], batches: "Iterable[pa.RecordBatch]", most: int) -> Iterator[str]:
    """Yield the lines of a table that fits the terminal, and say how many rows there are if not all fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown: list[Sequence[Any]] = []
    n_rows = 0
    for batch in batches:
        shown += _rows([batch.slice(0, most - len(shown))])
        n_rows += len(batch)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    heads = [terminal.flat(name) for name in names]
    cells = [[_cell(value) for value in row] for row in shown]
    for number, width in enumerate(_widths([heads, *cells], terminal.columns())):
        numbers = all(isinstance(row[number], int | float | None) for row in shown)
        table.add_column(
            Text(heads[number]),
            width=width,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if numbers else "left",
        )
    for row in cells:
        table.add_row(*map(Text, row[: len(table.columns)]))
    out = io.StringIO()
    Console(file=out, width=terminal.columns(), color_system=None).print(table)
    yield from (line.rstrip() for line in out.getvalue().splitlines())
    if hidden := len(names) - len(table.columns):
        log.info("%d more columns do not fit the terminal: %s", hidden, ", ".join(heads[-hidden:]))
    if more := n_rows - len(shown):
        log.info("%s more rows: --csv, --json or --parquet gives all, --rows N shows more", f"{more:,}")


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return the widths of the columns that fit, the widest cut first."""
    from wcwidth import wcswidth

    widths = [max(max(0, wcswidth(cell)) for cell in column) for column in zip(*rows, strict=True)]
    widths = [min(width, room) for width in widths]
    while sum(widths) + _GAP * (len(widths) - 1) > room:
        widest = widths.index(max(widths))
        if widths[widest] > _NARROW:
            widths[widest] -= 1
        else:
            widths.pop()
    return widths


def _cell(value: Any) -> str:  # noqa: ANN401 (any value of a column)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        some = ", ".join(_cell(each) for each in value[:_SHOWN_VALUES])
        return f"[{some}, … {len(value)}]" if len(value) > _SHOWN_VALUES else f"[{some}]"
    return terminal.flat(str(value)[: 4 * terminal.columns()])
