"""Exports a store as a folder of Parquet files: plans them, writes the missing ones, compares each."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ctxbatch.arrays import Ints
from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError
from ctxbatch.store.checks import check_finished, check_has_rows
from ctxbatch.store.reader import Store
from ctxbatch.tables.card import card_of
from ctxbatch.tables.destination import CARD, PLAN, Destination, FileFound, destination_of, written_wrong
from ctxbatch.tables.export_plan import (
    ExportOptions,
    ExportPlan,
    PlannedFile,
    PlannedTable,
    check_same,
    check_tables,
    make_plan,
    read_plan,
)
from ctxbatch.tables.exported_rows import (
    ExportedRows,
    ExportedSentences,
    ExportedWords,
    chosen_columns,
)
from ctxbatch.tables.parquet_files import Cancelled, difference, write_file
from ctxbatch.tables.where import matching_rows
from ctxbatch.terminal import bar_of_bytes, readable_size

# Each file on the way takes the memory of about three row groups.
_MOST_AT_ONCE = 8
# How many rows' sentences are looked up at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What a folder holds, and what this call has added.

    ``rows`` counts rows of words, ``sentences`` those of the table of sentences (``None`` without one),
    ``size`` the bytes of all ``files``; ``written`` of them were written by this call.
    """

    dest: Path | str
    rows: int
    sentences: int | None
    files: int
    size: int
    written: int
    seconds: float

    def __str__(self) -> str:
        sentences = "" if self.sentences is None else f" and {self.sentences:,} sentences"
        files = f"{self.files} file{'s' * (self.files > 1)}"
        there = self.files - self.written
        before = f", {there} of them there before" if there else ""
        return (
            f"{self.dest}: {self.rows:,} rows{sentences} in {files}, {readable_size(self.size)}, equal to "
            f"the store{before}"
        )


def export(
    store: Store, dest: str | Path, options: ExportOptions | None = None, *, quiet: bool = True
) -> ExportReport:
    """Export a store as a folder of Parquet files, or finish an export that was stopped.

    Every file is compared with the store, bit for bit, before it is put in its place.

    Args:
        store: The store.
        dest: The folder, or its URL.
        options: What to export.
        quiet: Show no progress on standard error.

    Raises:
        InputError: There is no such column; the condition is wrong, or selects nothing.
        StoreError: The store is unfinished, empty or damaged; the folder holds other things or another
            export.
        ResourceError: The disk, the network, a permission or another export stands in the way.
    """
    started = time.monotonic()
    options = options or ExportOptions()
    store.check_is_here()
    check_finished(store)
    check_has_rows(store)
    destination = destination_of(dest)
    if isinstance(destination.dest, Path) and destination.dest.resolve().is_relative_to(store.path.resolve()):
        raise InputError(f"{dest} is in the store {store.path}: name a folder outside it")
    destination.check()
    positions = _selected(store, options.where)
    tables = _tables(store, options, positions)
    with destination.held():
        plan = _settled_plan(destination, store, options, positions, tables)
        written = _write_missing(destination, plan, tables, quiet)
        found = {file.name: destination.found(file.name) for table in plan.tables for file in table.files}
        sizes = [_checked(destination, table, found) for table in plan.tables]
        if written == len(found) or destination.read(CARD) is None:  # an older one may have been edited
            destination.write(CARD, card_of(store, plan, tables).encode())
    rows = {table.name: table.rows for table in plan.tables}
    seconds = time.monotonic() - started
    return ExportReport(
        destination.dest, rows["words"], rows.get("sentences"), len(found), sum(sizes), written, seconds
    )


def _selected(store: Store, where: str | None) -> Ints | None:
    """Return the positions of the rows that a condition selects; ``None`` for all.

    Raises:
        InputError: The condition is wrong, or selects nothing.
    """
    if where is None:
        return None
    positions = np.flatnonzero(matching_rows(store, where))
    if not len(positions):
        raise InputError(f"--where {where!r} selects no row of {store.path}: nothing is exported")
    return positions


def _tables(store: Store, options: ExportOptions, positions: Ints | None) -> list[ExportedRows]:
    words, sentences = chosen_columns(store, options.columns, join=options.join)
    rows = ExportedWords(store, words, options.dtype, positions)
    if options.join:
        return [rows]
    ids = None
    if positions is not None:
        blocks = [positions[first : first + _BLOCK] for first in range(0, len(positions), _BLOCK)]
        ids = np.unique(np.concatenate([np.unique(store.sentence_ids_at(block)) for block in blocks]))
    return [rows, ExportedSentences(store, sentences, ids)]


def _settled_plan(
    destination: Destination,
    store: Store,
    options: ExportOptions,
    positions: Ints | None,
    tables: list[ExportedRows],
) -> ExportPlan:
    """Return the plan in the folder, which has to be ours; or make one if no file of it is finished yet."""
    if (raw := destination.read(PLAN)) is not None:
        plan = read_plan(raw, destination.dest)
        if any(destination.found(file.name) for table in plan.tables for file in table.files):
            check_same(plan, store, options, positions, destination.dest)
            check_tables(plan, tables, destination.dest)
            return plan
    plan = make_plan(store, options, positions, tables)
    destination.write(PLAN, plan.as_bytes())
    return plan


# --- files ----------------------------------------------------------------------------------------


def _write_missing(
    destination: Destination, plan: ExportPlan, tables: list[ExportedRows], quiet: bool
) -> int:
    """Write the files that are not finished, several at once; return their number."""
    every = [
        (table, planned, file)
        for table, planned in zip(tables, plan.tables, strict=True)
        for file in planned.files
    ]
    todo = [
        each for each in every if _rows_of(destination.found(each[2].name)) != each[2].last - each[2].first
    ]
    needed = sum(planned.size(file) for _, planned, file in todo)
    at_once = max(1, min(count_cores(), _MOST_AT_ONCE))
    destination.make_ready([file.name for *_, file in every], needed, at_once)
    stop = threading.Event()
    with bar_of_bytes(needed, quiet=quiet) as bar, ThreadPoolExecutor(at_once) as threads:
        writer = _Writer(destination, bar, stop)
        futures = [threads.submit(writer.write, *each) for each in todo]
        _wait_for(futures, stop)
    return len(todo)


def _rows_of(found: FileFound | None) -> int | None:
    return None if found is None else found.rows


def _wait_for(futures: list[Future[None]], stop: threading.Event) -> None:
    """Wait for all; if one fails, or a signal comes, stop the others and raise that."""
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        stop.set()
        for future in futures:
            future.cancel()
        raise


class _Writer:
    """Writes files, each in a thread of its own."""

    def __init__(self, destination: Destination, bar: "tqdm[None]", stop: threading.Event) -> None:
        self._destination = destination
        self._bar = bar
        self._stop = stop
        self._lock = threading.Lock()

    def write(self, table: ExportedRows, planned: PlannedTable, file: PlannedFile) -> None:
        """Write a file, compare it with the store, and put it in its place."""

        def advance(n_rows: int) -> None:
            with self._lock:
                self._bar.update(n_rows * planned.bytes_per_row)

        rows = range(file.first, file.last)
        with suppress(Cancelled), self._destination.writing(file.name) as path:
            write_file(path, table, rows, planned.rows_per_group, self._stop, advance)
            if why := difference(path, table, rows, planned.rows_per_group, self._stop):
                raise written_wrong(self._destination.dest, file.name, why)


def _checked(destination: Destination, table: PlannedTable, found: dict[str, FileFound | None]) -> int:
    """Count the rows in the files of a table, which are all there by now; return the bytes of the files."""
    size = rows = 0
    for file in table.files:
        there = found[file.name]
        if there is None:
            raise written_wrong(destination.dest, file.name, "it is gone, or damaged")
        size += there.size
        rows += there.rows
    if rows != table.rows:
        raise written_wrong(destination.dest, table.name, f"{rows:,} rows, not {table.rows:,}")
    return size
