"""Tunes how much of an index a search reads, on held-out rows and new sentences, and measures its recall.

Owns the held-out rows and the cost model. Array names are as in `ctxbatch.search.index`.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ctxbatch.arrays import Floats, Ints
from ctxbatch.search.best_scores import BestScores, best_scores
from ctxbatch.search.exact import Selection, cosines, normalised, scan
from ctxbatch.search.index import Effort, Efforts, Index, Proposer, Recalls, SearchMode
from ctxbatch.search.postings import Postings
from ctxbatch.store.columns import Column
from ctxbatch.store.reader import Store

# How many held-out rows tune an index; as many others measure its recall.
_QUERIES = 320
_FILTERED_QUERIES = 128
# Sentences of yet another kind would be the first to lose recall by less than the least of these.
_SLACKS = (0.05, 0.06, 0.08, 0.1, 0.15, 2.0)
# Tuning aims so much higher, since it chooses what is best for its own queries.
_RESERVE = 0.015
# No two cosines differ by more.
_ALL_LISTS = _ALL = 2.0
# What tuning finds of the ten nearest rows for a few queries, so many of stored rows and as many of new
# sentences; then others find .99 and .97.
_THOROUGH_RECALL = (0.996, 0.985)
_THOROUGH_QUERIES = 96
_THOROUGH_DEPTHS = (1600, 3200, 6400)
# Rows of the lists that a thorough search probes at most.
_THOROUGH_ROWS = 4_000_000
# The costs of a row of a probed list, a proposal and an exact comparison, in nanoseconds, measured with
# vectors of 384 dimensions. Only their ratios matter.
_SCAN_COST, _PROPOSAL_COST, _EXACT_COST = 4.0, 50.0, 800.0
# What the first steps take of the time, in percent, measured with 789,683 rows of 384 dimensions.
_SCAN_SHARE, _TUNING_SHARE, _MEASURING_SHARE = 55, 21, 14


@dataclass(frozen=True, slots=True)
class Tuned:
    """How an index is to be searched, what it then finds, and the best scores of stored rows."""

    efforts: Efforts
    recalls: Recalls
    best_scores: BestScores | None


def tune_index(
    filled: Any,  # noqa: ANN401 (any FAISS index)
    store: Store,
    column: Column,
    postings: Postings,
    new_QD: Floats,
    recall: float,
    random: np.random.Generator,
    *,
    quiet: bool = True,
) -> Tuned:
    """Tune the searches of a FAISS index that holds all rows of a column, and measure what they find.

    Args:
        filled: The index.
        store: The store.
        column: The vectors that are searched.
        postings: The rows of each word.
        new_QD: Normalised queries that are not in the store; there may be none.
        recall: The recall@10 that searches for many queries are to reach.
        random: Draws stored rows.
        quiet: Show no progress on standard error.
    """
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(
        total=100, desc="tuning", bar_format=form, smoothing=0, disable=quiet or None, leave=False
    ) as progress:

        def compared(n_rows: int) -> None:
            progress.update(_SCAN_SHARE * n_rows / len(column))

        to_tune, to_measure = _hold_out(store, column, postings, new_QD, random, compared)
        proposer = Proposer(filled)
        index = Index(proposer, column, _tune_all(proposer, column, to_tune, recall))
        progress.update(_TUNING_SHARE)
        recalls = _measure_all(index, column, to_measure)
        progress.update(_MEASURING_SHARE)
        return Tuned(index.efforts, recalls, best_scores(index.nearest, store, column, random))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries, the rows that each must not find, and the cosine of the tenth best other row.

    ``filtered`` is true if rows of the query's word are excluded, as --other-words does: no filter is more
    selective, since most of the nearest rows have the same word.
    """

    queries_QD: Floats
    excluded: Sequence[Ints]
    tenth_Q: Floats
    filtered: bool = False

    def some(self, n: int) -> "HeldOut":
        """Return the first n queries."""
        return HeldOut(self.queries_QD[:n], self.excluded[:n], self.tenth_Q[:n], self.filtered)


@dataclass(frozen=True, slots=True)
class Samples:
    """Queries of each kind: stored rows, stored rows among other words, and new sentences, or ``None``."""

    stored: HeldOut
    other_words: HeldOut
    new: HeldOut | None


def _hold_out(
    store: Store,
    column: Column,
    postings: Postings,
    new_QD: Floats,
    random: np.random.Generator,
    on_rows: Callable[[int], object],
) -> tuple[Samples, Samples]:
    """Draw queries to tune searches with, and others to measure their recall with.

    Args:
        store: The store.
        column: The vectors that are searched.
        postings: The rows of each word.
        new_QD: Normalised queries that are not in the store; there may be none.
        random: Draws stored rows.
        on_rows: Called with the number of rows that were compared since the last call, of all rows.
    """
    counts = [_QUERIES, _FILTERED_QUERIES] * 2
    rows_N = random.permutation(choose_rows(random, len(column), sum(counts)))
    groups = np.split(rows_N, np.cumsum([round(len(rows_N) * n / sum(counts)) for n in counts])[:-1])
    excluded: list[list[Ints]] = []
    for number, group in enumerate(groups):
        if number % 2:
            excluded.append([postings.positions(word) for word in store.words_at(group)])
        else:
            excluded.append(list(group[:, None]))
    none = np.zeros(0, np.int64)
    excluded += [[none] * len(new_QD[half::2]) for half in (0, 1)]
    stored_QD = normalised(column.take(np.concatenate(groups)))
    queries_QD = np.concatenate([stored_QD, new_QD[::2], new_QD[1::2]])
    _, best_QK = scan(column, queries_QD, 10, list(itertools.chain.from_iterable(excluded)), on_rows)
    ends = np.cumsum([0, *map(len, excluded)])
    # The tolerance of 2e-6: a scan and an index sum a cosine in different orders.
    tenth_Q = best_QK[:, -1] - 2e-6
    parts = [slice(*pair) for pair in itertools.pairwise(ends.tolist())]
    found = [
        HeldOut(queries_QD[part], its_excluded, tenth_Q[part], number in (1, 3))
        for number, (part, its_excluded) in enumerate(zip(parts, excluded, strict=True))
    ]
    new = found[4:] if len(new_QD) > 1 else [None, None]
    return Samples(found[0], found[1], new[0]), Samples(found[2], found[3], new[1])


@dataclass(frozen=True, slots=True)
class Choices:
    """The efforts that tuning chooses from: margins, depths, and a limit of lists for all of them."""

    margins: Sequence[float]
    depths: Sequence[int]
    most_lists: int | None = None

    @classmethod
    def thorough(cls, n_lists: int, n_rows: int) -> "Choices":
        """Return those for a few queries: all lists, up to so many rows that a person does not wait."""
        share = _THOROUGH_ROWS / n_rows
        return cls((_ALL_LISTS,), _THOROUGH_DEPTHS, None if share >= 1 else max(1, round(n_lists * share)))


_PLAIN = Choices((0.12, 0.15, 0.2, 0.3, 0.4, 0.6, _ALL_LISTS), (200, 400, 800, 1600))
_FILTERED = Choices((0.2, 0.4, 0.6, _ALL_LISTS), (800, 1600, 3200, 6400))


def _tune_all(proposer: Proposer, column: Column, samples: Samples, recall: float) -> Efforts:
    """Return the efforts of an index; those for many queries reach a recall@10 of ``recall``."""
    new = [] if samples.new is None else [samples.new]
    thorough = Choices.thorough(proposer.n_lists, len(column))
    few, few_new = _THOROUGH_RECALL
    recall = min(1.0, recall + _RESERVE)
    some = [(samples.stored.some(_THOROUGH_QUERIES), few)]
    some += [(each.some(_THOROUGH_QUERIES), few_new) for each in new]
    return Efforts(
        tune(proposer, column, [(each, recall) for each in (samples.stored, *new)], _PLAIN),
        tune(proposer, column, [(samples.other_words, recall)], _FILTERED),
        tune(proposer, column, some, thorough),
        tune(proposer, column, [(samples.other_words.some(_THOROUGH_QUERIES), few)], thorough),
    )


def tune(
    proposer: Proposer, column: Column, wanted: Sequence[tuple[HeldOut, float]], choices: Choices
) -> Effort:
    """Return the cheapest effort that reaches the recall@10 wanted of each kind of query.

    If none does, return the one that comes nearest to it.
    """
    tried: list[tuple[float, float, Effort]] = []
    for margin in choices.margins:
        most = Effort(margin, choices.depths[-1] + 1, _ALL, choices.most_lists)
        proposals = [_propose(proposer, column, held_out, most) for held_out, _ in wanted]
        shares = [proposer.share_probed(held_out.queries_QD, margin) for held_out, _ in wanted]
        probed = sum(shares) * len(column)
        for depth, slack in itertools.product(choices.depths, _SLACKS):
            lacks, cost = [], probed * _SCAN_COST + len(wanted) * depth * _PROPOSAL_COST
            for its_proposals, (held_out, target) in zip(proposals, wanted, strict=True):
                recall, compared = _recall_of(its_proposals, held_out.tenth_Q, depth, slack)
                lacks.append(max(0.0, target - recall))
                cost += compared * _EXACT_COST
            tried.append((max(lacks), cost, Effort(margin, depth, slack, choices.most_lists)))
        if any(lack == 0 for lack, *_ in tried):
            break  # a wider margin probes more rows, and has as many proposals compared
    return min(tried, key=lambda each: (each[0], each[1], each[2].depth))[2]


_Proposals = list[tuple[Floats, Floats]]


def _propose(proposer: Proposer, column: Column, held_out: HeldOut, effort: Effort) -> _Proposals:
    """Return the estimated and the exact cosines of each query's proposals, best estimates first."""
    found: _Proposals = [(np.zeros(0, np.float32), np.zeros(0, np.float32))] * len(held_out.queries_QD)

    def propose(first: int, queries_QD: Floats, selection: Selection | None) -> None:
        def take(begin: int, estimates_QC: Floats, candidates_QC: Ints) -> None:
            for query, row in enumerate(candidates_QC, first + begin):
                others = (row >= 0) & ~np.isin(row, held_out.excluded[query])
                estimates_C = estimates_QC[query - first - begin][others]
                query_C = np.full(len(estimates_C), query)
                found[query] = estimates_C, cosines(column, held_out.queries_QD, query_C, row[others])

        proposer.propose(queries_QD, effort, effort.depth, selection, take)

    if not held_out.filtered:
        propose(0, held_out.queries_QD, None)
        return found

    def propose_one(number: int) -> None:
        selection = Selection.all_but(len(column), held_out.excluded[number])
        propose(number, held_out.queries_QD[number : number + 1], selection)

    # Each query excludes other rows, and so needs a search of its own: two run at a time.
    with ThreadPoolExecutor(2) as waiting:
        list(waiting.map(propose_one, range(len(held_out.queries_QD))))
    return found


def _recall_of(proposals: _Proposals, tenth_Q: Floats, depth: int, slack: float) -> tuple[float, float]:
    """Return the recall@10 of an effort, and the mean number of rows that it compares exactly for a query."""
    found = compared = 0
    for (estimates_C, exact_C), tenth in zip(proposals, tenth_Q, strict=True):
        threshold = estimates_C[9] - slack if len(estimates_C) > 9 else -np.inf
        n = int(np.count_nonzero(estimates_C[:depth] >= threshold))
        compared += n
        # A hit counts by its score, not its position: texts repeat, so several rows often tie for tenth.
        found += min(10, int(np.count_nonzero(exact_C[:n] >= tenth)))
    return found / (10 * len(tenth_Q)), compared / len(tenth_Q)


def measure(index: Index, column: Column, held_out: HeldOut, mode: SearchMode) -> float:
    """Return the recall@10 of an index's searches against exact search."""
    found = 0
    for number, query_D in enumerate(held_out.queries_QD):
        out = held_out.excluded[number]
        selection = Selection.all_but(len(column), out) if held_out.filtered else None
        k = 10 if held_out.filtered else 11
        positions_QK, scores_QK = index.nearest(query_D[None], k, selection, mode)
        scores_K = scores_QK[0][~np.isin(positions_QK[0], out)][:10]
        found += int(np.count_nonzero(scores_K >= held_out.tenth_Q[number]))
    return found / (10 * len(held_out.queries_QD))


def _measure_all(index: Index, column: Column, samples: Samples) -> Recalls:
    """Return the recall@10 of an index for each kind of query."""

    def recall(held_out: HeldOut | None, mode: SearchMode = "many") -> float | None:
        return None if held_out is None else round(measure(index, column, held_out, mode), 4)

    return Recalls(
        recall(samples.stored) or 0.0,
        recall(samples.other_words) or 0.0,
        recall(samples.new),
        recall(samples.stored, "few"),
        recall(samples.new, "few"),
    )


def choose_rows(random: np.random.Generator, rows: int, n: int) -> Ints:
    """Return the sorted positions of n random rows, or of all rows if there are fewer."""
    return np.sort(random.choice(rows, min(rows, n), replace=False, shuffle=False))
