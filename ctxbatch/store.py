"""Reading a store: which shards are committed, memory-mapped vectors, datasets, totals.

Nothing here writes. Vectors are numpy views on the mapped files: they cost address space, not memory.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import StoreError
from ctxbatch.layout import Manifest, read_json
from ctxbatch.writer import (
    COMMIT,
    REJECTS,
    SENTENCES,
    WORDS,
    sentences_schema,
    shard_folder,
    words_schema,
)

if TYPE_CHECKING:
    from ctxbatch.search import Searcher

Vectors = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class Store:
    """A store on disk, as far as it is finished.

    Args:
        out: Its folder.

    Raises:
        StoreError: The folder is no store, or its manifest is damaged.
    """

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out)
        self.manifest = Manifest.read(self.path)
        self.commits = committed_shards(self.path, self.manifest)
        self._tables: dict[tuple[int, str], pa.Table] = {}

    @property
    def config(self) -> ResolvedConfig:
        """The resolved configuration."""
        return self.manifest.config

    @property
    def complete(self) -> bool:
        """Whether every planned shard is committed."""
        return len(self.commits) == len(self.manifest.shards)

    @property
    def n_rows(self) -> int:
        """Rows of all committed shards."""
        return sum(commit["counts"]["rows"] for commit in self.commits.values())

    @cached_property
    def words(self) -> ds.Dataset:
        """All words.arrow files as one dataset, rows in source order."""
        return self._dataset(WORDS, words_schema(self.config))

    @cached_property
    def sentences(self) -> ds.Dataset:
        """All sentences.arrow files as one dataset, in source order."""
        return self._dataset(SENTENCES, sentences_schema(self.config))

    def _dataset(self, name: str, schema: pa.Schema) -> ds.Dataset:
        files = [str(shard_folder(self.path, shard) / name) for shard in self.commits]
        return ds.dataset(files, schema=schema.remove_metadata(), format="ipc")

    def scanner(self, columns: Sequence[str] | None = None) -> ds.Scanner:
        """A scanner over the words that casts half floats to float32 as it reads, for DuckDB.

        Args:
            columns: Names of the columns to read; all of them by default.
        """
        half = pa.float16()
        projection: dict[str, pc.Expression] = {}
        for name in columns or self.words.schema.names:
            kind = self.words.schema.field(name).type
            is_half = pa.types.is_fixed_size_list(kind) and kind.value_type == half
            field = pc.field(name)
            projection[name] = field.cast(pa.list_(pa.float32(), kind.list_size)) if is_half else field
        return self.words.scanner(columns=projection)

    def vectors(self, on: str | None = None, layer: int | None = None) -> Iterator[Vectors]:
        """Yield a kind's vectors, memory-mapped and in row order: an (N, D) view per record batch.

        Args:
            on: ``shift``, ``contextual``, ``static`` or a column's name; default the first that is stored.
            layer: The layer; default the first of the run.

        Raises:
            InputError: The store holds no such vectors.
        """
        column = self.config.column(on, layer)
        for _, view in self.blocks(column):
            yield view

    def blocks(self, column: str) -> Iterator[tuple[int, Vectors]]:
        """Like `vectors`, for a column's full name, each view with the row_id of its first row."""
        for shard in self.commits:
            first = shard << 32
            for view in self._views(shard, column):
                yield first, view
                first += len(view)

    def take(self, column: str, row_ids: Ints) -> Vectors:
        """Copy the vectors of some rows: shape (len(row_ids), D), in their order."""
        taken = np.empty((len(row_ids), self.config.hidden_size), self.config.dtype)
        shards, rows = row_ids >> 32, row_ids & 0xFFFFFFFF
        for shard in np.unique(shards):
            mine = np.flatnonzero(shards == shard)
            first = 0
            for view in self._views(int(shard), column):
                here = mine[(rows[mine] >= first) & (rows[mine] < first + len(view))]
                taken[here] = view[rows[here] - first]
                first += len(view)
        return taken

    def row_ids(self) -> Ints:
        """The row_id of every row, in order."""
        parts = [
            np.arange(commit["counts"]["rows"], dtype=np.int64) + (shard << 32)
            for shard, commit in self.commits.items()
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def row(self, row_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """A row of words.arrow, without its vectors, and its sentence."""
        shard = row_id >> 32
        words = self._table(shard, WORDS)
        plain = [name for name in words.schema.names if name not in self.config.columns]
        word = words.select(plain).slice(row_id & 0xFFFFFFFF, 1).to_pylist()[0]
        sentence = self._table(shard, SENTENCES).slice(word["sentence_id"] & 0xFFFFFFFF, 1).to_pylist()[0]
        return word, sentence

    def words_of(self, shard: int) -> pa.ChunkedArray:
        """The surface texts of a shard's rows."""
        return self._table(shard, WORDS)["word"]

    def _views(self, shard: int, column: str) -> Iterator[Vectors]:
        for chunk in self._table(shard, WORDS)[column].chunks:
            flat = chunk.flatten().to_numpy(zero_copy_only=True)
            yield flat.reshape(len(chunk), self.config.hidden_size)

    def _table(self, shard: int, name: str) -> pa.Table:
        """A shard's file, memory-mapped; opened once."""
        key = (shard, name)
        if key not in self._tables:
            self._tables[key] = open_arrow(shard_folder(self.path, shard) / name)
        return self._tables[key]

    def searcher(self, on: str | None = None, layer: int | None = None) -> "Searcher":
        """A searcher for nearest contexts; loads the model and the index once."""
        from ctxbatch.search import Searcher

        return Searcher([self], on, layer)


def committed_shards(out: Path, manifest: Manifest) -> dict[int, dict[str, Any]]:
    """The commit records of all shards that count, by shard, in order.

    A shard counts if its record is intact and of this manifest's configuration and text, and the files
    that it names are there in full length. Any other is made anew by a rerun, and named by verify.
    """
    commits = {}
    for spec in manifest.shards:
        folder = shard_folder(out, spec.shard)
        try:
            commit = read_json(folder / COMMIT)
        except StoreError:
            continue
        of_this_store = commit["fingerprint"] == manifest.config.fingerprint and commit["inputs"] == [
            asdict(segment) for segment in spec.segments
        ]
        if of_this_store and all(_has_size(folder / name, f["bytes"]) for name, f in commit["files"].items()):
            commits[spec.shard] = commit
    return commits


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def open_arrow(path: Path) -> pa.Table:
    """Map an Arrow IPC file.

    Raises:
        StoreError: The file is missing or is no Arrow file.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path} is damaged or missing: run `ctxbatch verify` on the store") from error


def rejects(store: Store) -> Iterator[dict[str, Any]]:
    """What was not processed: source, record, byte_start and reason, and the word if it is only that."""
    for shard, commit in store.commits.items():
        if REJECTS in commit["files"]:
            with (shard_folder(store.path, shard) / REJECTS).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
