"""Ranks the rows of several stores for each query, and searches deeper until enough rows pass the filters.

A row is given by the number of its store and its position in it. Array names end in the letters of their
shape: Q vectors, T some of them, K rows, V vectors of a word, D hidden size.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctxbatch.arrays import Floats, Ints, Mask
from ctxbatch.errors import InputError, quoted, shortened
from ctxbatch.formulas import plain
from ctxbatch.search.exact import Selection, exact, normalised
from ctxbatch.search.filters import Filters
from ctxbatch.search.index import SearchMode
from ctxbatch.search.index_files import open_index, open_postings
from ctxbatch.search.queries import QueryWord
from ctxbatch.search.row_filter import Selector
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.reader import Store
from ctxbatch.text.word_key import word_key

log = logging.getLogger("ctxbatch")

# How many times more rows to rank than are wanted if some will not count, and again if too few did.
_DEPTH_FACTOR = 8
# How many more rows to look at than are wanted, since the model may not know some.
_SPARE = 4
# How many rows to rank at a time, of one question or of many.
_RANKED_ROWS = 1 << 20
# How many stores a message names.
_SHOWN_STORES = 3


@dataclass(frozen=True, slots=True)
class Question:
    """A word to search for, and the number of its query.

    If the query is a row, ``own`` is its position in the first store; the row itself is not a hit.
    """

    query: int
    word: QueryWord
    own: int | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows of all stores, best first; ``exhausted`` is true if no other rows qualify.

    ``best`` is the score of the nearest row, also where ``min_score`` left it out; ``None`` if there is none.
    If the rows are of distinct texts, ``copies`` says for each how many further sentences have its text and a
    row that scores at least as high as the last of these rows.
    """

    stores: Ints
    positions: Ints
    scores: Floats
    exhausted: bool
    best: float | None = None
    copies: Ints | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Ints) -> "Ranked":
        """Return the chosen rows, in the order of ``chosen``."""
        stores, positions, scores = self.stores[chosen], self.positions[chosen], self.scores[chosen]
        return replace(self, stores=stores, positions=positions, scores=scores)


class Ranking:
    """Ranks the rows of several stores on one column, using the indexes that exist.

    Standardised vectors of one store are standardised as its index was built, those of several by the moments
    of all their rows; then an index serves only if it was built with these.

    Args:
        stores: The stores, finished and of one configuration.
        columns: The full name of the vectors in each of them.

    Attributes:
        standardiser: What standardises the vectors, if it is a column of standardised ones.

    Raises:
        StoreError: An index is damaged or stale.
    """

    def __init__(self, stores: Sequence[Store], columns: Sequence[str]) -> None:
        self._stores = stores
        self._names = columns
        both = [*zip(stores, columns, strict=True)]
        self._indexes = [open_index(store, column) for store, column in both]
        self._set_aside: list[Store] = []
        self.standardiser = None if plain(columns[0]) == columns[0] else self._agree_on_standardiser()
        self._columns = [store.column(column, self.standardiser) for store, column in both]
        self._selectors = [Selector(store, open_postings(store)) for store in stores]

    def _agree_on_standardiser(self) -> Standardiser:
        """Return what standardises the vectors of all stores, and set indexes of others aside."""
        frozen = [None if index is None else index.standardiser for index in self._indexes]
        agreed = frozen[0]
        if agreed is None or not all(each is not None and each.equals(agreed) for each in frozen):
            both = zip(self._stores, self._names, strict=True)
            moments = [store.moments.of(plain(column)) for store, column in both]
            agreed = sum(moments[1:], moments[0]).standardiser()
        for number, each in enumerate(frozen):
            if each is not None and not each.equals(agreed):
                self._indexes[number] = None
                self._set_aside.append(self._stores[number])
        if self._set_aside:
            log.info(
                "several stores are standardised by all their rows, for which their indexes on %s were not "
                "built: the search reads all rows",
                self._names[0],
            )
        return agreed

    @property
    def unindexed(self) -> list[Store]:
        """The stores without an index, which read all of their rows for every query."""
        both = zip(self._stores, self._indexes, strict=True)
        return [store for store, index in both if index is None and store not in self._set_aside]

    def share_below(self, question: Question, found: Ranked) -> float | None:
        """Return the share of a store's own rows whose best hit is farther than that of a question.

        Return ``None`` if nothing is found, or the index of the best hit's store does not say.
        """
        index = self._indexes[int(found.stores[0])] if len(found) else None
        if index is None or index.best_scores is None or not question.word.known:
            return None
        return index.best_scores.share_below(question.word.word, float(found.scores[0]))

    def vectors(self, number: int, positions: Ints) -> Floats:
        """Return the normalised vectors (len(positions), D) of the rows at these positions of a store."""
        return normalised(self._columns[number].take(positions))

    def prepare(self, filters: Filters) -> None:
        """Check the filters' words, and find the rows that meet their condition in SQL.

        Raises:
            InputError: A word occurs in no store, or the condition is wrong.
        """
        for word in filters.words:
            if not any(selector.holds(word) for selector in self._selectors):
                stores = shortened((str(store.path) for store in self._stores), _SHOWN_STORES)
                raise InputError(
                    f"--word {quoted(word)} does not occur in {stores}: name a word as the text has it"
                )
        for selector in self._selectors:
            selector.prepare(filters)

    def best(self, questions: Sequence[Question], k: int, filters: Filters, mode: SearchMode) -> list[Ranked]:
        """Return the best k rows for each question that the filters allow; fewer if fewer qualify."""
        groups: dict[str, list[int]] = {}
        for number, question in enumerate(questions):
            groups.setdefault(word_key(question.word.word) if filters.by_word else "", []).append(number)
        found: dict[int, Ranked] = {}
        for word, numbers in groups.items():
            selections = [selector.select(filters, word) for selector in self._selectors]
            if filters.distinct == "word":  # needs distant rows, and so the effort of a filtered search
                selections = [
                    Selection(np.ones(store.n_rows, np.bool_) if selection is None else selection.mask_N)
                    for selection, store in zip(selections, self._stores, strict=True)
                ]
            waiting, depth = numbers, k * (_DEPTH_FACTOR if filters.distinct else 1)
            while waiting:
                asked = [questions[number] for number in waiting]
                ranked = list(self._ranked(asked, depth, selections, mode))
                for number, rows in zip(waiting, ranked, strict=True):
                    found[number] = self._kept(rows, k, filters)
                waiting = [
                    number
                    for number, rows in zip(waiting, ranked, strict=True)
                    if not _is_settled(found[number], rows, k, filters)
                ]
                depth *= _DEPTH_FACTOR
        return [found[number] for number in range(len(questions))]

    def _ranked(
        self,
        questions: Sequence[Question],
        depth: int,
        selections: Sequence[Selection | None],
        mode: SearchMode,
    ) -> Iterator[Ranked]:
        """Yield the best ``depth`` rows of all stores for each question, without the question's own row."""
        at_once = max(1, _RANKED_ROWS // depth)
        for begin in range(0, len(questions), at_once):
            yield from self._ranked_together(questions[begin : begin + at_once], depth, selections, mode)

    def _ranked_together(
        self,
        questions: Sequence[Question],
        depth: int,
        selections: Sequence[Selection | None],
        mode: SearchMode,
    ) -> list[Ranked]:
        owner_Q = np.repeat(np.arange(len(questions)), [len(each.word.vectors_VD) for each in questions])
        queries_QD = np.concatenate([each.word.vectors_VD for each in questions])
        parts: list[list[tuple[Ints, Ints, Floats]]] = [[] for _ in questions]
        exhausted = True
        for number, selection in enumerate(selections):
            if selection is not None and selection is self._selectors[number].known:
                is_known_Q = np.array([questions[owner].word.known for owner in owner_Q.tolist()])
                found = self._nearest_known(number, queries_QD, is_known_Q, depth + 1, selection, mode)
                positions_QK, scores_QK = found
            else:
                positions_QK, scores_QK = self.nearest(number, queries_QD, depth + 1, selection, mode)
            rows = self._stores[number].n_rows if selection is None else selection.n
            exhausted &= positions_QK.shape[1] >= rows
            for query, owner in enumerate(owner_Q.tolist()):
                kept = positions_QK[query] >= 0
                if number == 0 and questions[owner].own is not None:
                    kept &= positions_QK[query] != questions[owner].own
                positions = positions_QK[query][kept]
                parts[owner].append((np.full(len(positions), number), positions, scores_QK[query][kept]))
        return [_merged(each, depth, exhausted) for each in parts]

    def nearest(
        self, number: int, queries_QD: Floats, k: int, selection: Selection | None, mode: SearchMode
    ) -> tuple[Ints, Floats]:
        """Return the best rows of one store for each vector, from its index or from an exact scan."""
        index = self._indexes[number]
        if index is not None:
            return index.nearest(queries_QD, k, selection, mode)
        return exact(self._columns[number], queries_QD, k, selection)

    def _nearest_known(
        self,
        number: int,
        queries_QD: Floats,
        is_known_Q: Mask,
        k: int,
        known: Selection,
        mode: SearchMode,
    ) -> tuple[Ints, Floats]:
        """Return what `nearest` does for the rows that the model knows.

        If these are most of the rows, look among all of them first, which is faster: few or none of the best
        are unknown. Only near the vectors of unknown words most are.
        """
        k = min(k, known.n)
        positions_QK = np.empty((len(queries_QD), k), np.int64)
        scores_QK = np.empty((len(queries_QD), k), np.float32)
        is_found_Q = np.zeros(len(queries_QD), np.bool_)
        tried = np.flatnonzero(is_known_Q if 2 * known.n > self._stores[number].n_rows else is_found_Q)
        if len(tried):
            among_all = self.nearest(number, queries_QD[tried], k + _SPARE, None, mode)
            passes_TK = known.mask_N[among_all[0]]
            first_TK = np.argsort(~passes_TK, axis=1, kind="stable")[:, :k]
            positions_QK[tried], scores_QK[tried] = (np.take_along_axis(x, first_TK, 1) for x in among_all)
            is_found_Q[tried] = np.count_nonzero(passes_TK, axis=1) >= k
        left = np.flatnonzero(~is_found_Q)
        if len(left):
            positions_QK[left], scores_QK[left] = self.nearest(number, queries_QD[left], k, known, mode)
        return positions_QK, scores_QK

    def _kept(self, rows: Ranked, k: int, filters: Filters) -> Ranked:
        """Return the first k rows that pass ``min_score`` and ``distinct``."""
        if filters.min_score is not None:
            rows = rows.take(np.flatnonzero(rows.scores >= filters.min_score))
        if filters.distinct is None:
            return rows.take(np.arange(min(k, len(rows))))
        first: dict[Any, int] = {}
        for number, key in enumerate(self._keys(rows, filters.distinct)):
            first.setdefault(key, number)
        kept = rows.take(np.array([*first.values()][:k], np.int64))
        return replace(kept, copies=self._copies(kept, rows)) if filters.distinct == "text" else kept

    def _copies(self, kept: Ranked, rows: Ranked) -> Ints:
        """Return how many further sentences have the text of each row that is kept of the best rows."""
        if not len(kept):
            return np.zeros(0, np.int64)
        near = rows.take(np.flatnonzero(rows.scores >= kept.scores[-1]))
        sentences: dict[str, set[tuple[int, int]]] = {}
        for text, sentence in zip(self._keys(near, "text"), self._keys(near, "sentence"), strict=True):
            sentences.setdefault(text, set()).add(sentence)
        return np.array([len(sentences[text]) - 1 for text in self._keys(kept, "text")])

    def _keys(self, rows: Ranked, distinct: str) -> list[Any]:
        """Return the key of each row; rows with equal keys are not distinct."""
        keys: list[Any] = [None] * len(rows)
        for number in np.unique(rows.stores).tolist():
            store, mine = self._stores[number], np.flatnonzero(rows.stores == number)
            positions = rows.positions[mine]
            values: Iterable[Any]
            if distinct == "word":
                values = map(word_key, store.words_at(positions))
            elif distinct == "sentence":
                values = ((number, sentence) for sentence in store.sentence_ids_at(positions).tolist())
            elif distinct == "text":
                values = store.texts_at(positions)
            else:
                values = ((number, *document) for document in store.documents_at(positions))
            for at, value in zip(mine.tolist(), values, strict=True):
                keys[at] = value
        return keys


def _merged(parts: Sequence[tuple[Ints, Ints, Floats]], depth: int, exhausted: bool) -> Ranked:
    """Merge the rows found in several stores and for several vectors; a row keeps its best score."""
    stores, positions, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((positions, stores, -scores))
    if len(parts) > 1:
        places = np.stack([stores[order], positions[order]])
        _, first = np.unique(places, axis=1, return_index=True)
        order = order[np.sort(first)]
    order = order[:depth] if not exhausted else order
    best = float(scores[order[0]]) if len(order) else None
    return Ranked(stores[order], positions[order], scores[order], exhausted, best)


def _is_settled(found: Ranked, rows: Ranked, k: int, filters: Filters) -> bool:
    """Return True if rows after those ranked change nothing that was found among these."""
    if rows.exhausted or not len(rows):
        return True
    if len(found) == k and (filters.distinct != "text" or rows.scores[-1] < found.scores[-1]):
        return True
    return filters.min_score is not None and bool(rows.scores[-1] < filters.min_score)
