"""Reads rows of a store as Arrow tables, with the columns and types in which they are exported.

Vectors are widened to float32, or rounded to float16 or to int8 with a scale for each if asked for. Shifts
that are not stored are computed.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxbatch.arrays import Ints, Vectors
from ctxbatch.choices import StoredType
from ctxbatch.errors import InputError, ResourceError
from ctxbatch.formulas import ComputedShift, check_stored, kind_and_layer, plain
from ctxbatch.store.arrow_files import is_vector
from ctxbatch.store.checks import check_words
from ctxbatch.store.columns import Column, StoredColumn
from ctxbatch.store.commits import SENTENCES, WORDS, FileName
from ctxbatch.store.int8_vectors import Int8Vectors, scale_of
from ctxbatch.store.reader import Store

# The columns of a table by their names, in order, each with its file and its name in the store.
Sources = Mapping[str, tuple[FileName, str]]
SENTENCE_ID = "sentence_id"
# The columns of sentences.arrow that a row of a joined table does not carry: the row has its own of these
# names, or they say nothing of the word.
_NOT_JOINED = (SENTENCE_ID, "char_start", "n_words", "n_pieces")


class ExportedRows(Protocol):
    """The rows of one exported table, in the order of the store's rows."""

    @property
    def name(self) -> str:
        """The name of the table."""

    @property
    def schema(self) -> pa.Schema:
        """Its schema."""

    @property
    def sources(self) -> Sources:
        """The file and the name in the store of each column; of vectors, their full name."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def table(self, first: int, last: int) -> pa.Table:
        """Return the rows from ``first`` up to ``last``, which is not one of them."""

    @property
    def without_vectors(self) -> list[str]:
        """The columns that hold no vectors, as Parquet names them."""

    @property
    def repeating(self) -> list[str]:
        """The columns whose values repeat, so that a dictionary saves space, as Parquet names them."""


class ExportedWords:
    """The words of a store, each with its vectors and, in a joined table, what its sentence says.

    Args:
        store: The store.
        sources: The names to export, in order, each with its file and its name there, or with ``words.arrow``
            and the full name of its vectors.
        dtype: The type of the vectors; after each column of int8 vectors stands one of their scales.
        positions: The positions of the rows to export (N,); ``None`` for all.
    """

    name = "words"

    def __init__(self, store: Store, sources: Sources, dtype: StoredType, positions: Ints | None) -> None:
        self.sources = sources
        self._store = store
        self._positions = positions
        self._dtype = np.dtype(dtype)
        self._checked: set[int] = set()
        in_words = [store.schema(WORDS).field(name) for name in _columns_of_words(store)]
        plain_fields = {field.name: field for field in in_words if not is_vector(field)}
        of_words = {name: of for name, (file, of) in sources.items() if file == WORDS}
        self._plain = {name: of for name, of in of_words.items() if of in plain_fields}
        self._joined = {name: of for name, (file, of) in sources.items() if file == SENTENCES}
        vectors = {name: of for name, of in of_words.items() if of not in plain_fields}
        self._vectors = {name: store.column(of) for name, of in vectors.items()}
        self._stored = [name for name, of in vectors.items() if of in store.config.columns]
        if self._dtype == np.int8:
            self.sources = sources = _with_scales(store, sources, vectors)
        item = pa.field("item", pa.from_numpy_dtype(self._dtype), nullable=False)
        kind = pa.list_(item, store.config.hidden_size)
        fields = {name: pa.field(name, kind, nullable=False) for name in vectors}
        fields |= {scale_of(name): pa.field(scale_of(name), pa.float32(), nullable=False) for name in vectors}
        fields |= {name: plain_fields[of].with_name(name) for name, of in self._plain.items()}
        of_sentences = store.schema(SENTENCES)
        fields |= {name: of_sentences.field(of).with_name(name) for name, of in self._joined.items()}
        self.schema = pa.schema([fields[name] for name in sources], store.schema(WORDS).metadata)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._store.n_rows if self._positions is None else len(self._positions)

    @property
    def without_vectors(self) -> list[str]:
        """The columns that hold neither vectors nor scales of such, as Parquet names them."""
        return [*self._plain, *self._joined]

    @property
    def repeating(self) -> list[str]:
        """These, int8 values, and half floats as float32: there are few half floats."""
        of_halves = self._store.config.dtype == "float16" and self._dtype == np.float32
        few = self._vectors if self._dtype == np.int8 else self._stored if of_halves else ()
        return self.without_vectors + [f"{name}.list.element" for name in few]

    def table(self, first: int, last: int) -> pa.Table:
        """Return the rows from ``first`` up to ``last``, which is not one of them.

        Raises:
            StoreError: The store is damaged.
            ResourceError: A value is too large for the type of the vectors.
        """
        positions = np.arange(first, last) if self._positions is None else self._positions[first:last]
        columns: dict[str, Any] = {}
        row_ids = self._store.row_ids(positions)
        if self._vectors:
            self._check_shards(row_ids)
        if self._plain:
            rows = self._store.gather(WORDS, row_ids, [*dict.fromkeys(self._plain.values())])
            columns |= {name: rows[of] for name, of in self._plain.items()}
        for name, column in self._vectors.items():
            if self._dtype == np.int8:
                vectors = _int8(column, positions)
                columns[name] = self._lists(name, vectors.values_ND)
                columns[scale_of(name)] = pa.array(vectors.scale_N)
            else:
                columns[name] = self._lists(name, column.take(positions))
        if self._joined:
            ids, of_row = np.unique(self._store.sentence_ids_at(positions), return_inverse=True)
            sentences = self._store.gather(SENTENCES, ids, [*dict.fromkeys(self._joined.values())])
            of_rows = pc.take(sentences, pa.array(of_row))
            columns |= {name: of_rows[of] for name, of in self._joined.items()}
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    def _check_shards(self, row_ids: Ints) -> None:
        """Compare the vectors of rows with the checksums of their shards, of each shard once."""
        for shard in {*(row_ids >> 32).tolist()} - self._checked:
            check_words(self._store, shard)
            self._checked.add(shard)

    def _lists(self, name: str, vectors_ND: Vectors) -> pa.Array:
        with np.errstate(over="ignore"):
            cast_ND = vectors_ND.astype(self._dtype, copy=False)
        if self._dtype == np.float16 and vectors_ND.dtype != np.float16 and not np.isfinite(cast_ND).all():
            raise ResourceError(
                f"{name} has a value of {np.abs(vectors_ND).max():,.0f}, which is too large for float16: "
                "export with --dtype float32"
            )
        kind = self.schema.field(name).type
        return pa.FixedSizeListArray.from_arrays(pa.array(cast_ND.reshape(-1)), type=kind)


def _int8(column: Column, positions: Ints) -> Int8Vectors:
    """Return the vectors at these positions as int8, those that are stored so as they are."""
    if isinstance(column, StoredColumn) and column.holds_int8:
        return column.take_int8(positions)
    return Int8Vectors.of(column.take(positions).astype(np.float32))


def _with_scales(store: Store, sources: Sources, vectors: Mapping[str, str]) -> Sources:
    """Return the columns of an export of int8 vectors (their names in it and in the store), with the scales.

    Raises:
        InputError: A column has the name of a scale, or a shift cannot be stored so.
    """
    of: dict[str, tuple[FileName, str]] = {}
    for name, source in sources.items():
        of[name] = source
        if name not in vectors:
            continue
        if (scale := scale_of(name)) in sources:
            raise InputError(f"{scale} is a field, and the scales of {name} need this name: leave one out")
        kind, _ = kind_and_layer(vectors[name])
        if kind not in ("static", "contextual"):
            check_stored(ComputedShift.parse(store.config.identity(vectors[name])).formula.kind, "int8")
        of[scale] = (WORDS, scale_of(vectors[name]))
    return of


class ExportedSentences:
    """The sentences of a store.

    Args:
        store: The store.
        columns: The names of the columns.
        ids: The sentence_ids of the sentences to export (S,), in order; ``None`` for all.
    """

    name = "sentences"

    def __init__(self, store: Store, columns: Sequence[str], ids: Ints | None) -> None:
        self._store = store
        self.sources = {name: (SENTENCES, name) for name in columns}
        self._ids = ids
        self._shards = np.array([*store.commits], np.int64)
        counts = [commit.counts.sentences for commit in store.commits.values()]
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        of = store.schema(SENTENCES)
        self.schema = pa.schema([of.field(name) for name in columns], of.metadata)

    def __len__(self) -> int:
        """Return the number of sentences."""
        return int(self._firsts[-1]) if self._ids is None else len(self._ids)

    @property
    def without_vectors(self) -> list[str]:
        """All columns."""
        return list(self.schema.names)

    @property
    def repeating(self) -> list[str]:
        """All columns."""
        return self.without_vectors

    def table(self, first: int, last: int) -> pa.Table:
        """Return the sentences from ``first`` up to ``last``, which is not one of them.

        Raises:
            StoreError: The store is damaged.
        """
        ids = self._all_ids(first, last) if self._ids is None else self._ids[first:last]
        return self._store.gather(SENTENCES, ids, self.schema.names).cast(self.schema)

    def _all_ids(self, first: int, last: int) -> Ints:
        positions = np.arange(first, last)
        number = np.searchsorted(self._firsts, positions, side="right") - 1
        ids: Ints = (self._shards[number] << 32) + positions - self._firsts[number]
        return ids


# --- which columns --------------------------------------------------------------------------------


def chosen_columns(store: Store, names: Sequence[str] | None, *, join: bool) -> tuple[Sources, list[str]]:
    """Return the columns of words to export, and those of the table of sentences; none of them if ``join``.

    Args:
        store: The store.
        names: The names to export; ``None`` for all that are stored.
        join: The columns of sentences stand in the rows of words. Otherwise both tables have
            ``sentence_id``, and all columns of sentences are exported if ``names`` has none of them.

    Raises:
        InputError: A name is repeated, or there is no such column.
    """
    words = _columns_of_words(store)
    joined = _names_in_words(store)
    of_sentences = joined if join else {name: name for name in store.schema(SENTENCES).names}
    named = [*(words + [*joined] * join if names is None else names)]
    repeated = next((name for name in named if named.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"--columns names {repeated} twice: name it once")
    if not join:
        named = [SENTENCE_ID, *(name for name in named if name != SENTENCE_ID)] if names else named
    sources: dict[str, tuple[FileName, str]] = {}
    chosen = []
    for name in named:
        if name in words or name not in of_sentences:
            known = [*words, *(each for each in of_sentences if each not in words)]
            sources[name] = (WORDS, name if name in words else _vectors_named(name, store, known))
        elif join:
            sources[name] = (SENTENCES, of_sentences[name])
        else:
            chosen.append(name)
    if join:
        return sources, []
    return sources, [SENTENCE_ID, *chosen] if chosen else [*of_sentences]


def _columns_of_words(store: Store) -> list[str]:
    """Return the names of the columns of words, without the scales of int8 vectors."""
    scales = {scale_of(name) for name in store.config.columns} if store.config.dtype == "int8" else set()
    return [name for name in store.schema(WORDS).names if name not in scales]


def _names_in_words(store: Store) -> dict[str, str]:
    """Return the columns of sentences in a joined table; one that words have too gets an underscore."""
    taken = {*store.schema(WORDS).names}
    exported: dict[str, str] = {}
    for name in store.schema(SENTENCES).names:
        if name in _NOT_JOINED:
            continue
        unique = name
        while unique in taken:
            unique += "_"
        taken.add(unique)
        exported[unique] = name
    return exported


def _vectors_named(name: str, store: Store, known: Sequence[str]) -> str:
    """Return the full name of vectors, stored or computed, that a user names."""
    try:
        full = store.config.column(name)
        if plain(full) == full:
            return full
    except InputError:
        pass
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(
        f"--columns {name}: there is no such column{hint}: choose from {', '.join(known)}, or a shift that "
        "can be computed, such as difference_4"
    )
