"""Tunes how much of an index a search reads, on held-out rows, and measures its recall on others.

Owns the held-out rows and the cost model. Array names are as in `ctxbatch.search.index`.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.search.exact import Selection, cosines, normalised, scan
from ctxbatch.search.index import Effort, Index, Proposer
from ctxbatch.search.postings import Postings
from ctxbatch.store.columns import Column
from ctxbatch.store.reader import Store

# How many held-out rows tune an index; as many others measure its recall.
_QUERIES = 320
_FILTERED_QUERIES = 128
# The values that tuning chooses from. New sentences have farther neighbours than held-out rows, and lose
# recall first if little is probed and compared; so even the least effort has some reserve for them.
_MARGINS = (0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 2.0)
_DEPTHS = (800, 1600, 3200)
_FILTERED_MARGINS = (0.2, 0.4, 0.6, 2.0)
_FILTERED_DEPTHS = (800, 1600, 3200, 6400)
_SLACKS = (0.06, 0.08, 0.1, 0.15, 2.0)
# The costs of a row of a probed list, a proposal and an exact comparison, in nanoseconds, measured with
# vectors of 384 dimensions. Only their ratios matter.
_SCAN_COST, _PROPOSAL_COST, _EXACT_COST = 4.0, 50.0, 800.0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Stored rows as queries, the rows that each must not find, and the cosine of the tenth best other row.

    ``filtered`` is true if rows of the query's word are excluded, as --other-words does: no filter is more
    selective, since most of the nearest rows have the same word.
    """

    queries_QD: Floats
    excluded: Sequence[Ints]
    tenth_Q: Floats
    filtered: bool


def hold_out(store: Store, column: Column, postings: Postings, random: np.random.Generator) -> list[HeldOut]:
    """Draw held-out rows: to tune a plain and a filtered search, then as many to measure each of them."""
    counts = [_QUERIES, _FILTERED_QUERIES] * 2
    rows_N = random.permutation(choose_rows(random, len(column), sum(counts)))
    groups = np.split(rows_N, np.cumsum([round(len(rows_N) * n / sum(counts)) for n in counts])[:-1])
    excluded: list[list[Ints]] = []
    for number, group in enumerate(groups):
        if number % 2:
            excluded.append([postings.positions(word) for word in store.words_at(group)])
        else:
            excluded.append(list(group[:, None]))
    queries_QD = normalised(column.take(np.concatenate(groups)))
    _, best_QK = scan(column, queries_QD, 10, list(itertools.chain.from_iterable(excluded)))
    ends = np.cumsum([0, *map(len, groups)])
    parts = [slice(*pair) for pair in itertools.pairwise(ends.tolist())]
    # The tolerance of 2e-6: a scan and an index sum a cosine in different orders.
    return [
        HeldOut(queries_QD[part], its_excluded, best_QK[part, -1] - 2e-6, bool(number % 2))
        for number, (part, its_excluded) in enumerate(zip(parts, excluded, strict=True))
    ]


def tune(proposer: Proposer, column: Column, held_out: HeldOut, target: float) -> Effort:
    """Return the cheapest effort that reaches a recall@10 of ``target``; if none does, the best effort."""
    margins = _FILTERED_MARGINS if held_out.filtered else _MARGINS
    depths = _FILTERED_DEPTHS if held_out.filtered else _DEPTHS
    tried: list[tuple[float, float, Effort]] = []
    for margin in margins:
        proposals = _propose(proposer, column, held_out, margin, depths[-1] + 1)
        probed = proposer.share_probed(held_out.queries_QD, margin) * len(column)
        for depth in depths:
            for slack in _SLACKS:
                recall, compared = _recall_of(proposals, held_out.tenth_Q, depth, slack)
                cost = probed * _SCAN_COST + depth * _PROPOSAL_COST + compared * _EXACT_COST
                tried.append((recall, cost, Effort(margin, depth, slack)))
        # A wider margin probes more rows; stop once that alone costs more than an effort that is good enough.
        reached = [cost for recall, cost, _ in tried if recall >= target]
        if reached and probed * _SCAN_COST > min(reached):
            break
    good = [(cost, effort.depth, effort) for recall, cost, effort in tried if recall >= target]
    if good:
        return min(good, key=lambda each: each[:2])[2]
    return max(tried, key=lambda each: (each[0], -each[1]))[2]


_Proposals = list[tuple[Floats, Floats]]


def _propose(proposer: Proposer, column: Column, held_out: HeldOut, margin: float, depth: int) -> _Proposals:
    """Return the estimated and the exact cosines of each query's proposals, best estimates first."""
    found: _Proposals = [(np.zeros(0, np.float32), np.zeros(0, np.float32))] * len(held_out.queries_QD)

    def propose(first: int, queries_QD: Floats, selection: Selection | None) -> None:
        def take(begin: int, estimates_QC: Floats, candidates_QC: Ints) -> None:
            for query, row in enumerate(candidates_QC, first + begin):
                others = (row >= 0) & ~np.isin(row, held_out.excluded[query])
                estimates_C = estimates_QC[query - first - begin][others]
                query_C = np.full(len(estimates_C), query)
                found[query] = estimates_C, cosines(column, held_out.queries_QD, query_C, row[others])

        proposer.propose(queries_QD, margin, depth, selection, take)

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


def measure(index: Index, column: Column, held_out: HeldOut) -> float:
    """Return the recall@10 of an index's searches against exact search."""
    found = 0
    for number, query_D in enumerate(held_out.queries_QD):
        out = held_out.excluded[number]
        selection = Selection.all_but(len(column), out) if held_out.filtered else None
        positions_QK, scores_QK = index.nearest(query_D[None], 10 if held_out.filtered else 11, selection)
        scores_K = scores_QK[0][~np.isin(positions_QK[0], out)][:10]
        found += int(np.count_nonzero(scores_K >= held_out.tenth_Q[number]))
    return found / (10 * len(held_out.queries_QD))


def choose_rows(random: np.random.Generator, rows: int, n: int) -> Ints:
    """Return the sorted positions of n random rows, or of all rows if there are fewer."""
    return np.sort(random.choice(rows, min(rows, n), replace=False, shuffle=False))
