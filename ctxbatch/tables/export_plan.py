"""Plans the files of an export, and keeps the plan in the folder, sealed.

The plan is made once, and names the store and the options that it belongs to. So an export that was stopped
goes on with the same files, and no folder ever holds rows of two exports.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ctxbatch.arrays import Ints
from ctxbatch.choices import StoredType
from ctxbatch.errors import StoreError
from ctxbatch.sealed import Count, Positive, Sha256, canonical_json, seal, typed, unseal
from ctxbatch.store.reader import Store
from ctxbatch.tables.destination import PLAN
from ctxbatch.tables.exported_rows import ExportedRows
from ctxbatch.tables.parquet_files import write_rows

DEFAULT_FILE_BYTES = 256 << 20
_VERSION = 1
# The rows of a group are in memory at once, uncompressed; a reader, too, takes a group at a time.
_GROUP_BYTES = 32 << 20
_MOST_ROWS_OF_GROUP = 1 << 17
_SAMPLE_ROWS = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to export, and how: the columns, the condition in SQL, the type of vectors, the size of files."""

    columns: tuple[str, ...] | None = None
    where: str | None = None
    join: bool = False
    dtype: StoredType = "float32"
    file_bytes: Positive = DEFAULT_FILE_BYTES


class PlannedFile(NamedTuple):
    """A file: its name, its first row, and the row after its last one."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """A table: its rows, how they are divided into files and row groups, and about how large they get."""

    name: Literal["words", "sentences"]
    rows: Positive
    rows_per_file: Positive
    rows_per_group: Positive
    bytes_per_row: Positive

    @property
    def files(self) -> Iterator[PlannedFile]:
        """The files, in the order of the rows."""
        n_files = -(-self.rows // self.rows_per_file)
        for number in range(n_files):
            first = number * self.rows_per_file
            name = f"{self.name}/{self.name}-{number:05d}-of-{n_files:05d}.parquet"
            yield PlannedFile(name, first, min(first + self.rows_per_file, self.rows))

    def size(self, file: PlannedFile) -> int:
        """Return about how many bytes a file has."""
        return (file.last - file.first) * self.bytes_per_row


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """An export: the checksum of its store, its options, its tables.

    ``selected`` is the checksum of the positions of the rows that a condition selects.
    """

    format_version: Count
    store: Sha256
    options: ExportOptions
    selected: Sha256 | None
    tables: tuple[PlannedTable, ...]

    def as_bytes(self) -> bytes:
        """Return the content of its file."""
        return seal({"format": "ctxbatch export", **msgspec.to_builtins(self)})


def make_plan(
    store: Store, options: ExportOptions, positions: Ints | None, tables: Sequence[ExportedRows]
) -> ExportPlan:
    """Plan the files of an export.

    Args:
        store: The store.
        options: The options.
        positions: The positions of the rows that the options select (N,); ``None`` for all.
        tables: The tables to write.
    """
    planned = tuple(_planned(table, options.file_bytes) for table in tables)
    return ExportPlan(_VERSION, _digest(store), options, _digest_of(positions), planned)


def read_plan(raw: bytes, dest: object) -> ExportPlan:
    """Return the plan in a folder.

    Raises:
        StoreError: It is damaged, or of another version.
    """
    name = f"{dest}/{PLAN}"
    try:
        plan = typed(unseal(raw, name), ExportPlan, name)
    except StoreError as error:
        raise StoreError(f"{error}: name a new folder") from error
    if plan.format_version != _VERSION:
        raise StoreError(f"{name} is of another version of ctxbatch: name a new folder")
    return plan


def check_same(
    plan: ExportPlan, store: Store, options: ExportOptions, positions: Ints | None, dest: object
) -> None:
    """Check that the plan in a folder is that of this store with these options.

    Raises:
        StoreError: It is another; the message says what differs.
    """
    if plan.store != _digest(store):
        raise StoreError(
            f"{dest} is an export of another store, or of {store.path} before it changed: name a new folder"
        )
    wanted = asdict(options)
    for name, before in asdict(plan.options).items():
        if before != wanted[name]:
            raise StoreError(
                f"{dest} is an export {_shown(name, before)}, not {_shown(name, wanted[name])}: give the "
                "options that it was begun with, or name a new folder"
            )
    if plan.selected != _digest_of(positions):
        raise StoreError(
            f"{dest}: --where selects other rows than when the export was begun: name a new folder, and a "
            "condition that always selects the same"
        )


def check_tables(plan: ExportPlan, tables: Sequence[ExportedRows], dest: object) -> None:
    """Check that the plan in a folder is of tables of this size; whoever made it may have written anything.

    Raises:
        StoreError: It is not.
    """
    if [(each.name, each.rows) for each in plan.tables] != [(each.name, len(each)) for each in tables]:
        raise StoreError(f"{dest}/{PLAN} is damaged: it plans other tables: name a new folder")


def _shown(name: str, value: Any) -> str:  # noqa: ANN401 (the value of any option)
    option = {"file_bytes": "--file-size"}.get(name, f"--{name}")
    if value is None or value is False:
        return f"without {option}"
    if value is True:
        return f"with {option}"
    return f"with {option} {','.join(value) if isinstance(value, tuple) else value}"


def _digest(store: Store) -> str:
    """Return the checksum of what a store holds."""
    files: Mapping[str, Any] = {
        str(shard): {name: facts.sha256 for name, facts in commit.files.items()}
        for shard, commit in store.commits.items()
    }
    manifest = hashlib.sha256(b"".join(store.manifest.files().values())).hexdigest()
    return hashlib.sha256(canonical_json({"manifest": manifest, "files": files}).encode()).hexdigest()


def _digest_of(positions: Ints | None) -> str | None:
    if positions is None:
        return None
    return hashlib.sha256(positions.astype(np.int64).tobytes()).hexdigest()


def _planned(table: ExportedRows, file_bytes: int) -> PlannedTable:
    """Plan a table from rows in its middle: how large they are, in memory and as Parquet."""
    first = max((len(table) - _SAMPLE_ROWS) // 2, 0)
    rows = table.table(first, min(first + _SAMPLE_ROWS, len(table)))
    sink = pa.BufferOutputStream()
    write_rows(sink, table, [rows], len(rows))
    bytes_per_row = -(-sink.getvalue().size // len(rows))
    rows_per_file = max(file_bytes // bytes_per_row, 1)
    rows_per_group = min(max(_GROUP_BYTES * len(rows) // max(rows.nbytes, 1), 1), _MOST_ROWS_OF_GROUP)
    n_files = -(-len(table) // rows_per_file)
    rows_per_file = -(-len(table) // n_files)  # files of about equal size
    rows_per_group = min(rows_per_group, rows_per_file)
    if rows_per_file > rows_per_group:  # no small group at the end of each
        rows_per_group = -(-rows_per_file // -(-rows_per_file // rows_per_group))
    assert table.name in ("words", "sentences")
    name: Literal["words", "sentences"] = "words" if table.name == "words" else "sentences"
    return PlannedTable(name, len(table), rows_per_file, rows_per_group, bytes_per_row)
