"""Runs the sql command, and shows the rows that a query finds."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
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
    from rich.text import Text

log = logging.getLogger("ctxbatch")
_SHOWN_ROWS = 40
_SHOWN_NUMBERS = 3
_NARROWEST = 12  # of a long text on a terminal: most names of columns have room
_GAP = 3  # between columns, as rich draws them


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
    columns = [
        _Column.of(name, [row[number] for row in rows[:_SHOWN_ROWS]]) for number, name in enumerate(names)
    ]
    shown = list(_fitting(columns, width))
    terminal.show(_drawn(shown, _widths(shown, width), width))
    if len(names) > len(shown):
        log.warning("not shown: %s: select fewer columns, or add --json", ", ".join(names[len(shown) :]))
    if len(rows) > _SHOWN_ROWS:
        log.warning("only the first %d rows: all with --csv, --json or --parquet FILE", _SHOWN_ROWS)


@dataclass(frozen=True)
class _Column:
    """A column as it is printed, and the width that shows all of it."""

    name: "Text"
    cells: "list[Text]"
    are_numbers: bool
    whole: int

    @classmethod
    def of(cls, name: str, values: list[Any]) -> "_Column":
        from rich.text import Text

        known = [value for value in values if value is not None]
        are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
        heading, *cells = (Text(terminal.printable(text)) for text in (name, *map(_cell, values)))
        whole = max(1, *(text.cell_len for text in (heading, *cells)))
        return cls(heading, cells, are_numbers and bool(known), whole)

    @property
    def least(self) -> int:
        # A number is not cut beside others: what is left of it is no number.
        return self.whole if self.are_numbers else min(self.whole, _NARROWEST)


def _fitting(columns: list[_Column], width: int) -> Iterator[_Column]:
    """Yield the first columns, as many as have room; the first in any case."""
    taken = -_GAP
    for number, column in enumerate(columns):
        taken += _GAP + column.least
        if number and taken > width:
            return
        yield column


def _widths(columns: list[_Column], width: int) -> list[int]:
    """Return the widths of columns that have room: all are whole but the widest, which are equally wide."""
    room = width - _GAP * (len(columns) - 1)
    for most in range(room, 0, -1):
        widths = [max(column.least, min(column.whole, most)) for column in columns]
        if sum(widths) <= room:
            return widths
    return [room]  # of a single column that is wider


def _drawn(columns: list[_Column], widths: list[int], width: int) -> "list[terminal.Styled]":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    def draw(console: "Console") -> None:
        # Without widths, rich takes from short columns what long ones lack, down to nothing.
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column, its_width in zip(columns, widths, strict=True):
            table.add_column(
                column.name,
                justify="right" if column.are_numbers else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=its_width,
            )
        for cells in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*cells)
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
