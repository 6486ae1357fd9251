"""Reads a store: its committed shards, their rows and vectors, and all of them as datasets.

Writes nothing but moments that it has added up. Vectors are numpy views on the mapped files: they cost
address space, not memory.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxbatch.arrays import Floats, Ints, Vectors
from ctxbatch.choices import SentenceVector
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import StoreError
from ctxbatch.formulas import ComputedShift, plain
from ctxbatch.model.shift import shift_function
from ctxbatch.store.arrow_files import ArrowFile, check_all, is_vector
from ctxbatch.store.columns import Column, ComputedColumn, StoredColumn
from ctxbatch.store.commits import SENTENCES, WORDS, Commit, Counts, FileName, damaged, shard_folder
from ctxbatch.store.kept_moments import ColumnMoments
from ctxbatch.store.location import damaged_shards, location_of, manifest_of
from ctxbatch.store.manifest import Manifest
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.scanner import scan
from ctxbatch.store.schema import sentences_schema, words_schema
from ctxbatch.store.sentence_vectors import sentence_vectors

log = logging.getLogger("ctxbatch")
# Arrow's default pool keeps memory that it has freed, which the small tables gathered for hits do not need.
_POOL = pa.system_memory_pool()
# The columns of a row's sentence that `Store.rows` adds to the row.
SENTENCE_OF_ROW = ("source", "record", "doc_id", "text")


class Store:
    """A store's committed shards.

    Args:
        out: The store's folder or URL; only its manifest and its commit records can be read at a URL.
        manifest: Its manifest, if that has been read already.
        commits: The commit records to see; by default, all.

    Raises:
        StoreError: ``out`` is not a store, or its manifest is damaged.
        ResourceError: The network fails.
    """

    def __init__(
        self, out: str | Path, manifest: Manifest | None = None, commits: Mapping[int, Commit] | None = None
    ) -> None:
        self.location = location_of(out)
        self.path = self.location.folder
        self.manifest = manifest or manifest_of(self.location)
        self.commits = self.location.commits(self.manifest) if commits is None else commits
        self._files: dict[tuple[int, FileName], ArrowFile] = {}

    @property
    def config(self) -> ResolvedConfig:
        """The resolved configuration."""
        return self.manifest.config

    @property
    def complete(self) -> bool:
        """True if every planned shard is committed."""
        return len(self.commits) == len(self.manifest.shards)

    @property
    def n_rows(self) -> int:
        """The number of rows of all committed shards."""
        return sum(commit.counts.rows for commit in self.commits.values())

    def tell_damage(self) -> None:
        """Log a warning for each shard that exists but does not count: its rows are not read."""
        for damage in damaged_shards(self.location, self.manifest, self.commits):
            log.warning("%s", damage)

    def check_is_here(self) -> None:
        """Check that the store's files are local, so that they can be read.

        Raises:
            StoreError: The store is on object storage.
        """
        if not self.location.is_here:
            out = self.location.out
            raise StoreError(
                f"{out} is on object storage: copy it with `ctxbatch pull {out} OUT`, and name the copy"
            )

    @cached_property
    def words(self) -> Any:  # noqa: ANN401 (a pyarrow.dataset.Dataset, slow to import)
        """All words.arrow files as one dataset, rows in source order; all but the vectors are checked.

        Raises:
            StoreError: A file is damaged.
        """
        return self._dataset(WORDS)

    @cached_property
    def sentences(self) -> Any:  # noqa: ANN401 (a pyarrow.dataset.Dataset, slow to import)
        """All sentences.arrow files as one dataset, in source order; their content is checked.

        Raises:
            StoreError: A file is damaged.
        """
        return self._dataset(SENTENCES)

    def _dataset(self, name: FileName) -> Any:  # noqa: ANN401 (a pyarrow.dataset.Dataset, slow to import)
        import pyarrow.dataset as ds  # which imports pandas, if that is there

        self.check_is_here()
        files = [self.file(shard, name) for shard in self.commits]
        check_all(files)  # a dataset opens the files itself, and trusts them
        paths = [str(file.path) for file in files]
        return ds.dataset(paths, schema=self.schema(name).remove_metadata(), format="ipc")

    def schema(self, name: FileName) -> pa.Schema:
        """Return the schema of all words.arrow or sentences.arrow files."""
        if name == WORDS:
            return words_schema(self.config, self.manifest.reading)
        return sentences_schema(self.config, self.manifest.reading)

    def scanner(self, columns: Sequence[str] | None = None) -> Any:  # noqa: ANN401 (a pyarrow.dataset.Scanner, slow to import)
        """Return a scanner over the words that casts half floats to float32, for DuckDB.

        Args:
            columns: The names of the columns to read; by default, all. A shift that is not stored, such as
                ``difference_6``, is computed as it is read, in float32; then a scanner can be read once.

        Raises:
            InputError: There is no such column.
        """
        return scan(self.words, self.config, columns)

    def vectors(
        self,
        on: str | None = None,
        layer: int | None = None,
        *,
        delta: float | None = None,
        floor: float | None = None,
        standardise: bool = False,
    ) -> Iterator[Vectors]:
        """Yield one kind of vector in row order, an array (N, D) per record batch.

        Stored vectors are memory-mapped views in their type; int8 vectors, and those that are computed, are
        float32 copies.

        Args:
            on: As in `ctxbatch.config.ResolvedConfig.column`, such as ``shift`` or ``asinh_6``.
            layer: Likewise.
            delta: Likewise.
            floor: Likewise.
            standardise: Take from each dimension its mean over the store's rows, and divide it by its
                standard deviation.

        Raises:
            InputError: The store neither holds such vectors nor has what they are computed from.
        """
        name = self.config.column(on, layer, delta=delta, floor=floor, standardise=standardise)
        yield from self.column(name).batches()

    def sentence_vectors(
        self,
        by: SentenceVector = "mean",
        on: str | None = None,
        layer: int | None = None,
        *,
        delta: float | None = None,
        floor: float | None = None,
        standardise: bool = False,
    ) -> Iterator[tuple[Ints, Floats]]:
        """Yield sentence_ids (S,) and the vector of each, (S, D), in order, of all sentences that have rows.

        Args:
            by: ``mean`` or ``salient``, as in `ctxbatch.store.sentence_vectors.sentence_vectors`.
            on: As in `vectors`.
            layer: Likewise.
            delta: Likewise.
            floor: Likewise.
            standardise: Likewise.

        Raises:
            InputError: As in `vectors`; or ``salient`` is asked of a store without salience.
        """
        name = self.config.column(on, layer, delta=delta, floor=floor, standardise=standardise)
        return sentence_vectors(
            by, self.config, self.column(name), (self.file(shard, WORDS) for shard in self.commits)
        )

    def column(
        self, name: str, standardiser: Standardiser | None = None, shards: Sequence[int] | None = None
    ) -> Column:
        """Return a column of vectors by its full name, stored or computed.

        Args:
            name: The name, as `ctxbatch.config.ResolvedConfig.column` gives it.
            standardiser: Standardises standardised vectors; by default, by the moments of the store's rows.
            shards: The shards whose rows it has; by default, all.
        """
        shards = [*self.commits] if shards is None else shards
        vectors = plain(name)
        names = [vectors]
        steps: list[Callable[..., Floats]] = []
        if vectors not in self.config.columns:
            computed = ComputedShift.parse(vectors)
            names = [f"contextual_{computed.layer}", "static"]
            steps = [shift_function(computed.formula, np)]
        if vectors != name:
            steps.append((standardiser or self.moments.of(vectors).standardiser()).of)
        sources = [self._stored(each, shards) for each in names]
        return ComputedColumn(steps, sources) if steps else sources[0]

    @cached_property
    def moments(self) -> ColumnMoments:
        """The moments of all columns; those that the shards do not carry are added up once, and kept.

        Raises:
            StoreError: The store is on object storage.
        """
        self.check_is_here()
        return ColumnMoments(self.path, self.commits, self.config, self._batches)

    def _batches(self, name: str, shard: int) -> Iterator[Vectors]:
        return self.column(name, shards=[shard]).batches()

    def _stored(self, name: str, shards: Sequence[int]) -> StoredColumn:
        views = [view for shard in shards for view in self.file(shard, WORDS).vectors(name)]
        return StoredColumn(views, self.config.hidden_size, np.dtype(self.config.value_type))

    def take(self, column: str, row_ids: Ints) -> Vectors:
        """Return a copy of the vectors of these rows: shape (len(row_ids), D), in the same order."""
        return self.column(column).take(self.positions(row_ids))

    @cached_property
    def _shards(self) -> tuple[Ints, Ints]:
        """The committed shards, and the position of the first row of each, followed by the number of rows."""
        counts = [commit.counts.rows for commit in self.commits.values()]
        return np.array(list(self.commits), np.int64), np.cumsum([0, *counts], dtype=np.int64)

    def row_ids(self, positions: Ints | None = None) -> Ints:
        """Return the row_ids of the rows at these positions; by default, of all rows."""
        shards, firsts = self._shards
        positions = np.arange(firsts[-1]) if positions is None else positions
        number = np.searchsorted(firsts, positions, side="right") - 1
        return (shards[number] << 32) + positions - firsts[number]

    def positions(self, row_ids: Ints) -> Ints:
        """Return the positions of the rows with these row_ids; -1 for a row that the store does not have."""
        shards, firsts = self._shards
        number = np.clip(np.searchsorted(shards, row_ids >> 32), 0, len(shards) - 1)
        inside = row_ids & 0xFFFFFFFF
        there = (shards[number] == row_ids >> 32) & (inside < np.diff(firsts)[number])
        return np.where(there, firsts[number] + inside, -1)

    def first_position(self, shard: int) -> int:
        """Return the position of a committed shard's first row."""
        shards, firsts = self._shards
        return int(firsts[np.searchsorted(shards, shard)])

    def rows(self, positions: Ints) -> list[dict[str, Any]]:
        """Return the rows at these positions, in order, with columns of their sentences, without vectors."""
        words = self.gather(WORDS, self.row_ids(positions)).to_pylist()
        ids = np.unique(np.array([word["sentence_id"] for word in words], np.int64))
        sentences = dict(zip(ids.tolist(), self.gather(SENTENCES, ids).to_pylist(), strict=True))
        of_row = ({name: sentences[word["sentence_id"]][name] for name in SENTENCE_OF_ROW} for word in words)
        return [{**word, **sentence} for word, sentence in zip(words, of_row, strict=True)]

    def words_at(self, positions: Ints) -> list[str]:
        """Return the words of the rows at these positions, as they are written in the text."""
        texts: list[str] = self.gather(WORDS, self.row_ids(positions), ["word"])["word"].to_pylist()
        return texts

    def sentence_ids_at(self, positions: Ints) -> Ints:
        """Return the sentence_ids of the rows at these positions."""
        row_ids = self.row_ids(positions)
        ids: Ints = self.gather(WORDS, row_ids, ["sentence_id"])["sentence_id"].to_numpy()
        for shard in np.unique(row_ids >> 32).tolist():
            self._check_sentences(shard, ids[row_ids >> 32 == shard])
        return ids

    def sentences_of_rows(self, shard: int) -> Ints:
        """Return, for every row of a shard, the number of its sentence within the shard.

        Raises:
            StoreError: A row names a sentence that its shard does not have.
        """
        ids: Ints = self.read(shard, WORDS, "sentence_id").to_numpy()
        self._check_sentences(shard, ids)
        return ids & 0xFFFFFFFF

    def _check_sentences(self, shard: int, ids: Ints) -> None:
        """Check that the rows of a shard name sentences of that shard; a damaged row may name any."""
        if len(ids) and not (shard << 32 <= ids.min() and ids.max() < self._end_of_sentences(shard)):
            wrong = int(ids.max()) if ids.max() >= self._end_of_sentences(shard) else int(ids.min())
            what = f"a row of shard {shard:06d} names sentence {wrong}, which does not exist"
            raise damaged(self.path, what)

    def _end_of_sentences(self, shard: int) -> int:
        return (shard << 32) + self.commits[shard].counts.sentences

    def word_places_at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return the sentence_ids and the word_indexes of the rows at these positions."""
        places = self.gather(WORDS, self.row_ids(positions), ["sentence_id", "word_index"])
        return places["sentence_id"].to_numpy(), places["word_index"].to_numpy()

    def documents_at(self, positions: Ints) -> list[tuple[str, str | None]]:
        """Return the source and the doc_id of the rows at these positions."""
        ids, of_row = np.unique(self.sentence_ids_at(positions), return_inverse=True)
        found = self.gather(SENTENCES, ids, ["source", "doc_id"]).to_pylist()
        documents = [(each["source"], each["doc_id"]) for each in found]
        return [documents[number] for number in of_row.tolist()]

    def texts_at(self, positions: Ints) -> list[str]:
        """Return the sentences of the rows at these positions."""
        ids, of_row = np.unique(self.sentence_ids_at(positions), return_inverse=True)
        texts = self.gather(SENTENCES, ids, ["text"])["text"].to_pylist()
        return [texts[number] for number in of_row.tolist()]

    def sentences_around(self, sentence_id: int, n: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the texts of up to n sentences before and after one, from the same source and document."""
        own = self.gather(SENTENCES, np.array([sentence_id])).to_pylist()[0]
        before = self._neighbours(sentence_id, -1, n, own)
        return tuple(reversed(before)), tuple(self._neighbours(sentence_id, 1, n, own))

    def _neighbours(self, sentence_id: int, step: int, n: int, own: dict[str, Any]) -> list[str]:
        shards = list(self.commits)
        at, inside = shards.index(sentence_id >> 32), sentence_id & 0xFFFFFFFF
        texts: list[str] = []
        while len(texts) < n:
            inside += step
            while not 0 <= inside < self.commits[shards[at]].counts.sentences:
                at += step
                if not 0 <= at < len(shards):
                    return texts
                inside = 0 if step > 0 else self.commits[shards[at]].counts.sentences - 1
            row = self.gather(SENTENCES, np.array([(shards[at] << 32) + inside])).to_pylist()[0]
            if (row["source"], row["doc_id"]) != (own["source"], own["doc_id"]):
                return texts
            texts.append(row["text"])
        return texts

    def gather(self, file: FileName, ids: Ints, names: Sequence[str] | None = None) -> pa.Table:
        """Return rows of words.arrow or sentences.arrow, by ids of shard << 32 | row, without vectors.

        ``names`` are the wanted columns; by default, all. This takes from one record batch at a time, because
        `pyarrow.compute.take` on a table of many batches first copies all of its text.
        """
        shards, inside = ids >> 32, ids & 0xFFFFFFFF
        parts, places = [], []
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            rows = self._rows_of(shard, file, inside[mine])
            firsts = rows.firsts
            number = np.searchsorted(firsts, inside[mine], side="right") - 1
            for each in np.unique(number).tolist():
                here = mine[number == each]
                batch = rows.batch(each) if names is None else rows.batch(each).select(names)
                parts.append(pc.take(batch, pa.array(inside[here] - firsts[each]), memory_pool=_POOL))
                places.append(here)
        if not parts:
            plain = [field.name for field in self.schema(file) if not is_vector(field)]
            return self.schema(file).empty_table().select(names or plain)
        order = np.argsort(np.concatenate(places))
        joined = pa.Table.from_batches(parts).combine_chunks(memory_pool=_POOL)
        return pc.take(joined, pa.array(order), memory_pool=_POOL)

    def _rows_of(self, shard: int, file: FileName, inside: Ints) -> ArrowFile:
        """Return a shard's file, and check that it has these rows; a damaged row may name any sentence."""
        counts = self.commits[shard].counts if shard in self.commits else Counts()
        n_rows = counts.rows if file == WORDS else counts.sentences
        if not n_rows or int(inside.max()) >= n_rows:
            what = f"a row names row {int(inside.max())} of {file} in shard {shard:06d}, which does not exist"
            raise damaged(self.path, what)
        return self.file(shard, file)

    def read(self, shard: int, file: FileName, name: str) -> pa.ChunkedArray:
        """Return a memory-mapped column of a shard's words.arrow or sentences.arrow; not one of vectors."""
        return self.file(shard, file).column(name)

    def file(self, shard: int, name: FileName) -> ArrowFile:
        """Return a committed shard's Arrow file, memory-mapped; each file is opened once.

        Raises:
            StoreError: The file is damaged.
        """
        key = (shard, name)
        if key not in self._files:
            self.check_is_here()
            commit = self.commits[shard]
            n_rows = commit.counts.rows if name == WORDS else commit.counts.sentences
            path = shard_folder(self.path, shard) / name
            self._files[key] = ArrowFile(path, self.schema(name), n_rows, commit.files[name])
        return self._files[key]
