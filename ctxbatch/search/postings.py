"""Finds the rows of a word, in a table with one record batch a shard, stored beside the indexes.

The table holds the keys of words, as `ctxbatch.text.word_key` has them. It is memory-mapped: it takes disk
space, but no memory.
"""

import bisect
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxbatch.arrays import Ints
from ctxbatch.store.arrow_files import checked, mapped
from ctxbatch.store.commits import WORDS
from ctxbatch.store.reader import Store
from ctxbatch.text.unicode_words import without_marks
from ctxbatch.text.word_key import word_key

# Says which version of the keys a table holds; to raise whenever `word_key` gives a word another key. Tables
# without it hold casefolded words.
_KEYS_NAME, _KEYS_VERSION = "ctxbatch.word_keys", "1"
_SCHEMA = pa.schema(
    [("word", pa.string()), ("rows", pa.list_(pa.int32()))], metadata={_KEYS_NAME: _KEYS_VERSION}
)


class Postings:
    """The rows of every word of a store.

    Args:
        store: The store.
        path: The table; without one, each lookup reads the words of all rows.
    """

    def __init__(self, store: Store, path: Path | None) -> None:
        self._store = store
        self._batches = None if path is None else _read(store, path)

    def positions(self, word: str) -> Ints:
        """Return the sorted positions of a word's rows, in any spelling.

        A word of which there are none is looked up without the punctuation beside it: ``U.S.`` as ``U.S``.
        """
        found = self._positions(word_key(word))
        bare = without_marks(word)
        return found if len(found) or bare == word else self._positions(word_key(bare))

    def holds(self, word: str) -> bool:
        """Return True if there are rows of a word, as `positions` looks it up, and look no further."""
        keys = (word_key(word), word_key(without_marks(word)))
        return any(len(rows) for key in dict.fromkeys(keys) for rows in self._by_shard(key))

    def _positions(self, wanted: str) -> Ints:
        return np.concatenate([np.zeros(0, np.int64), *self._by_shard(wanted)])

    def _by_shard(self, wanted: str) -> Iterator[Ints]:
        for number, shard in enumerate(self._store.commits):
            if self._batches is None:
                rows = _find(self._store.read(shard, WORDS, "word"), wanted)
            else:
                rows = _look_up(self._batches[number], wanted)
            yield rows + self._store.first_position(shard)

    def tables(self) -> Iterator[pa.RecordBatch]:
        """Yield the words and their rows, a record batch a shard, as `tabulate` does."""
        return tabulate(self._store) if self._batches is None else iter(self._batches)


def _find(texts: pa.ChunkedArray, wanted: str) -> Ints:
    matching = [text for text in pc.unique(texts).to_pylist() if word_key(text) == wanted]
    return np.flatnonzero(pc.is_in(texts, pa.array(matching, pa.string())).to_numpy())


def _look_up(table: pa.RecordBatch, wanted: str) -> Ints:
    words = table["word"]
    at = bisect.bisect_left(range(len(words)), wanted, key=lambda number: words[number].as_py())
    if at == len(words) or words[at].as_py() != wanted:
        return np.zeros(0, np.int64)
    rows: Ints = table["rows"][at].values.to_numpy().astype(np.int64)
    return rows


def tabulate(store: Store) -> Iterator[pa.RecordBatch]:
    """Yield the words of each shard with their rows, computed from its words.arrow."""
    for shard in store.commits:
        encoded = store.read(shard, WORDS, "word").combine_chunks().dictionary_encode()
        keys = [word_key(word) for word in encoded.dictionary.to_pylist()]
        words, key_of = np.unique(np.array(keys, object), return_inverse=True)
        code_N = key_of[encoded.indices.to_numpy()] if len(encoded) else np.zeros(0, np.int64)
        rows_N = np.argsort(code_N, kind="stable").astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(code_N, minlength=len(words)))])
        rows = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(rows_N))
        yield pa.RecordBatch.from_arrays([pa.array(words.tolist(), pa.string()), rows], schema=_SCHEMA)


def write(store: Store, stream: BinaryIO) -> None:
    """Write the table of a store."""
    with pa.ipc.new_file(stream, _SCHEMA) as writer:
        for batch in tabulate(store):
            writer.write_batch(batch)


def is_current(path: Path) -> bool:
    """Return True if a table holds the keys that this version compares.

    Raises:
        StoreError: The table is damaged.
    """
    with checked(path):
        metadata = pa.ipc.open_file(pa.BufferReader(mapped(path))).schema.metadata or {}
    return bool(metadata.get(_KEYS_NAME.encode()) == _KEYS_VERSION.encode())


def _read(store: Store, path: Path) -> list[pa.RecordBatch]:
    """Map the table, and check that the store has its rows."""
    with checked(path):
        reader = pa.ipc.open_file(pa.BufferReader(mapped(path)))
        if not reader.schema.equals(_SCHEMA) or reader.num_record_batches != len(store.commits):
            raise ValueError("it is not a table of this store's words")
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch, commit in zip(batches, store.commits.values(), strict=True):
            batch.validate(full=True)
            rows = batch["rows"].values.to_numpy()
            if batch["word"].null_count or batch["rows"].null_count:
                raise ValueError("a word or its rows are missing")
            if len(rows) and not 0 <= rows.min() <= rows.max() < commit.counts.rows:
                raise ValueError("it names rows that the store does not have")
    return batches
