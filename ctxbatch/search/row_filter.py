"""Selects the rows of a store that the filters allow.

Compares words by their keys, and sources by the paths in the store's manifest.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache, reduce
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctxbatch.arrays import Ints, Mask
from ctxbatch.errors import InputError, shortened
from ctxbatch.search.exact import Selection
from ctxbatch.search.filters import Filters
from ctxbatch.search.postings import Postings
from ctxbatch.store.commits import SENTENCES, WORDS
from ctxbatch.store.reader import Store
from ctxbatch.tables.where import matching_rows
from ctxbatch.text.word_key import word_key

_SHOWN_SOURCES = 3


class Selector:
    """Selects the rows of a store that the filters allow.

    Args:
        store: The store.
        postings: The rows of the store's words.
    """

    def __init__(self, store: Store, postings: Postings) -> None:
        self._store = store
        self._postings = postings
        # The queries of a batch have the same sources, documents and condition.
        self._from_places = lru_cache(maxsize=4)(self._select_places)
        self._from_condition = lru_cache(maxsize=4)(self._select_matching)

    @cached_property
    def known(self) -> Selection | None:
        """The rows that the model knows; ``None`` if it knows all."""
        known_N = known_rows(self._store)
        return None if known_N is None else Selection(known_N)

    def holds(self, word: str) -> bool:
        """Return True if a word occurs in the store, in any spelling."""
        return self._postings.holds(word)

    def prepare(self, filters: Filters) -> None:
        """Find and keep the rows that meet the condition in SQL, so that a wrong one is told early.

        Raises:
            InputError: The condition is wrong.
        """
        self._from_condition(filters.where)

    def select(self, filters: Filters, word: str) -> Selection | None:
        """Return the rows that the filters allow for a query of this word; ``None`` if they allow all.

        Return ``known`` itself if they leave out only what the model does not know.
        """
        known = None if filters.unknown else self.known
        mask_N = _both(self._from_places(filters.sources, filters.docs), self._from_condition(filters.where))
        wanted = [self._rows_of(filters.words)] if filters.words else []
        if filters.same_word:
            wanted.append(self._postings.positions(word))
        unwanted = self._rows_of((*filters.exclude_words, *([word] if filters.other_words else [])))
        if mask_N is None and not wanted and not len(unwanted):
            return known
        if wanted:
            rows_N = reduce(np.intersect1d, wanted)
            chosen_N = np.zeros(self._store.n_rows, np.bool_)
            chosen_N[rows_N] = True if mask_N is None else mask_N[rows_N]
        else:
            chosen_N = np.ones(self._store.n_rows, np.bool_) if mask_N is None else mask_N.copy()
        chosen_N[unwanted] = False
        if known is not None:
            chosen_N &= known.mask_N
        return Selection(chosen_N)

    def _rows_of(self, words: Sequence[str]) -> Ints:
        distinct = {word_key(word) for word in words}
        return np.concatenate([np.zeros(0, np.int64), *map(self._postings.positions, sorted(distinct))])

    def _select_matching(self, where: str | None) -> Mask | None:
        return None if where is None else matching_rows(self._store, where)

    def _select_places(self, sources: tuple[str, ...], docs: tuple[str, ...]) -> Mask | None:
        if not sources and not docs:
            return None
        store = self._store
        masks = [np.zeros(0, np.bool_)]
        for shard in store.commits:
            sentences = np.ones(store.commits[shard].counts.sentences, np.bool_)
            if sources:
                paths = store.read(shard, SENTENCES, "source")
                matching = [path for path in pc.unique(paths).to_pylist() if _matches(path, sources)]
                sentences &= _is_in(paths, matching)
            if docs:
                sentences &= _is_in(store.read(shard, SENTENCES, "doc_id"), docs)
            masks.append(sentences[store.sentences_of_rows(shard)])
        return np.concatenate(masks)


def known_rows(store: Store) -> Mask | None:
    """Mark the rows whose wordpieces the model knows, (N,); ``None`` if it knows those of all rows.

    Stores of versions that did not mark them count as known.
    """
    if store.config.word_rule is None:
        return None
    marks = [
        np.ones(commit.counts.rows, np.bool_)
        if not commit.counts.unknown_pieces
        else store.read(shard, WORDS, "known").to_numpy()
        for shard, commit in store.commits.items()
    ]
    known_N = np.concatenate([np.zeros(0, np.bool_), *marks])
    return None if known_N.all() else known_N


def check_sources(stores: Sequence[Store], globs: Sequence[str]) -> None:
    """Check that every glob matches a source.

    Raises:
        InputError: A glob matches no source; the message names some sources.
    """
    paths = [source.path for store in stores for source in store.manifest.sources]
    for glob in globs:
        if not any(_matches(path, [glob]) for path in paths):
            known = shortened(paths, _SHOWN_SOURCES)
            raise InputError(f"--source {glob!r} matches no source of the store: its sources are {known}")


def _both(one_N: Mask | None, other_N: Mask | None) -> Mask | None:
    if one_N is None or other_N is None:
        return one_N if other_N is None else other_N
    both_N: Mask = one_N & other_N
    return both_N


def _is_in(texts: pa.ChunkedArray, values: Sequence[str]) -> Mask:
    found: Mask = pc.is_in(texts, pa.array(values, pa.string())).to_numpy()
    return found


def _matches(path: str, globs: Sequence[str]) -> bool:
    # An empty pattern matches nothing, nor does ".", which pathlib treats as empty.
    return any(
        fnmatchcase(path, glob) or (PurePath(glob).parts and PurePath(path).match(glob)) for glob in globs
    )
