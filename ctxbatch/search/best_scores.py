"""Tells how near the best hit of a query is, compared with those of the store's own rows.

A cosine says little by itself: how near the nearest row is depends on the model, the vectors and the word. So
an index keeps the scores of the best hits of rows of its own store, each searched for as if its sentence were
not there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np

from ctxbatch.arrays import Floats, Ints, Mask
from ctxbatch.search.exact import normalised
from ctxbatch.search.row_filter import known_rows
from ctxbatch.store.columns import Column
from ctxbatch.store.reader import Store
from ctxbatch.text.word_key import word_key

# A best hit that is farther than those of this share of the store's own rows is none.
NOTHING_LIKE_THIS = 0.05
# How many rows to search for.
_ROWS = 10_000
# How many rows of a word are enough to compare it with itself alone.
_ROWS_OF_WORD = 100
# How many hits of a row to look at; the nearest are often of its own sentence.
_HITS = 16
_PERCENTILES = np.arange(101)

Percentiles = Annotated[tuple[float, ...], msgspec.Meta(min_length=101, max_length=101)]


@dataclass(frozen=True, slots=True)
class BestScores:
    """Percentiles 0 to 100 of the best scores of all rows, and of those of frequent words by their key."""

    every: Percentiles
    by_word: Mapping[str, Percentiles] = field(default_factory=dict)

    def share_below(self, word: str, score: float) -> float:
        """Return the share of rows whose best hit is farther than a query's: from 0 to 1.

        Args:
            word: The query's word, which is compared with its own rows if it is frequent.
            score: The score of its best hit.
        """
        found = self.by_word.get(word_key(word), self.every)
        return float(np.interp(score, found, _PERCENTILES / 100, left=0.0, right=1.0))


def best_scores(
    nearest: Callable[[Floats, int], tuple[Ints, Floats]],
    store: Store,
    column: Column,
    random: np.random.Generator,
) -> BestScores | None:
    """Return the best scores of random rows that the model knows; ``None`` if it knows none.

    Args:
        nearest: Finds the positions and scores (Q, K) of the K best rows for normalised queries (Q, D).
        store: The store.
        column: The column that is searched.
        random: Draws the rows.
    """
    positions_N = np.sort(random.choice(len(column), min(len(column), _ROWS), replace=False))
    if (known_N := known_rows(store)) is not None:
        positions_N = positions_N[known_N[positions_N]]
    if not len(positions_N):
        return None
    found_NK, scores_NK = nearest(normalised(column.take(positions_N)), _HITS)
    own_N = store.sentence_ids_at(positions_N)
    of_hits_NK = store.sentence_ids_at(found_NK.ravel()).reshape(found_NK.shape)
    best_N = _best_elsewhere(scores_NK, of_hits_NK != own_N[:, None])
    keys = np.array([word_key(word) for word in store.words_at(positions_N)])
    words, of_row, counts = np.unique(keys, return_inverse=True, return_counts=True)
    frequent = np.flatnonzero(counts >= _ROWS_OF_WORD)
    by_word = {str(words[number]): _percentiles(best_N[of_row == number]) for number in frequent.tolist()}
    return BestScores(_percentiles(best_N), by_word)


def _best_elsewhere(scores_NK: Floats, elsewhere_NK: Mask) -> Floats:
    """Return each row's best score in another sentence; its last one if all hits are of its own."""
    first_N = np.where(elsewhere_NK.any(axis=1), elsewhere_NK.argmax(axis=1), scores_NK.shape[1] - 1)
    best_N: Floats = scores_NK[np.arange(len(scores_NK)), first_N]
    return best_N


def _percentiles(scores_N: Floats) -> tuple[float, ...]:
    return tuple(np.percentile(scores_N, _PERCENTILES).round(6).tolist())
