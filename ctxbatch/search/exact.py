"""Finds the rows of a column with the highest exact cosine, by a scan or among candidates.

Computes every cosine of the package, so that an index, a filter and brute force agree on all scores. Rows are
given by position; see `ctxbatch.store.columns`. Array names end in the letters of their shape: Q
queries, K hits, C candidates, N rows, D hidden size.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Floats, Ints, Mask, Vectors, as_floats
from ctxbatch.store.columns import Column

# Rows compared at a time. A small first block sets a threshold that rejects most later rows.
_FIRST_ROWS = 512
_BLOCK_ROWS = 2_048
# Rows of a block for each query, so that what a query costs for a block does not matter.
_ROWS_PER_QUERY = 8
# Products of so few queries take less time than the threads that a matrix product would wait for: on a busy
# machine these made a search of 60,787 rows ten times slower.
_FEW_QUERIES = 4
# Decimals of a score. Equal texts get equal scores despite the rounding errors of matrix products.
_DECIMALS = 6
# If more than one row in this many is wanted, all rows are sorted.
_SORTED_SHARE = 16
_SORTED_SCORES = 1 << 21


class Selection:
    """A selection of rows: a mask over all positions, and the number of selected rows."""

    def __init__(self, mask_N: Mask) -> None:
        self.mask_N = mask_N
        self.n = int(np.count_nonzero(mask_N))

    @cached_property
    def bits(self) -> npt.NDArray[np.uint8]:
        """The mask with eight rows a byte, the first in the lowest bit."""
        return np.packbits(self.mask_N, bitorder="little")

    @classmethod
    def all_but(cls, rows: int, excluded: Ints) -> "Selection":
        """Return the selection of all rows, except those at the excluded positions."""
        mask_N = np.ones(rows, np.bool_)
        mask_N[excluded] = False
        return cls(mask_N)


def normalised(vectors: npt.NDArray[Any]) -> Floats:
    """Return a float32 copy of vectors (N, D), scaled to length 1; a zero vector stays zero."""
    copy = as_floats(vectors)
    norms = np.sqrt(np.einsum("nd,nd->n", copy, copy))[:, None]
    np.divide(copy, norms, out=copy, where=norms > 0)
    return copy


def _scores(queries_QD: Floats, vectors_ND: Vectors) -> Floats:
    """Return the cosine (Q, N) of each normalised query with each vector, 0 for a zero vector.

    Dividing the products by the lengths, rather than the vectors, saves a pass over these.
    """
    rows_ND = vectors_ND if vectors_ND.dtype == np.float32 else as_floats(vectors_ND)
    lengths_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))
    scores_QN: Floats
    if len(queries_QD) <= _FEW_QUERIES:
        scores_QN = np.einsum("qd,nd->qn", queries_QD, rows_ND)
    else:
        scores_QN = queries_QD @ rows_ND.T
    np.divide(scores_QN, lengths_N, out=scores_QN, where=lengths_N > 0)
    return scores_QN


class _Best:
    """The best K rows of each query so far: best first, ties in order of position."""

    def __init__(self, n_queries: int, k: int) -> None:
        self.positions_QK = np.full((n_queries, k), -1, np.int64)
        self.scores_QK = np.full((n_queries, k), -np.inf, np.float32)

    def offer(self, positions_N: Ints, scores_QN: Floats) -> None:
        """Consider more rows, each once per query; ignore those with a score of -inf."""
        n_queries, k = self.scores_QK.shape
        threshold_Q = self.scores_QK[:, -1:] - 2 * 10.0**-_DECIMALS
        query, column = np.nonzero(scores_QN > threshold_Q)
        if not len(query):
            return
        of_query = np.concatenate([np.repeat(np.arange(n_queries), k), query])
        position = np.concatenate([self.positions_QK.ravel(), positions_N[column]])
        score = np.concatenate([self.scores_QK.ravel(), scores_QN[query, column].round(_DECIMALS)])
        order = np.lexsort((position, -score, of_query))
        first_Q = np.searchsorted(of_query[order], np.arange(n_queries))
        kept_QK = order[first_Q[:, None] + np.arange(k)]
        self.positions_QK, self.scores_QK = position[kept_QK], score[kept_QK]


def scan(
    column: Column,
    queries_QD: Floats,
    k: int,
    excluded: Sequence[Ints] | None = None,
    on_rows: Callable[[int], object] | None = None,
) -> tuple[Ints, Floats]:
    """Find the best rows among all rows of a column.

    Args:
        column: The stored vectors.
        queries_QD: Normalised queries.
        k: The number of rows to find.
        excluded: For each query, the sorted positions of rows to ignore.
        on_rows: Called with the number of rows of each block that was compared.

    Returns:
        Positions and cosines, (Q, K), best first, ties by position; padded with -1 and -inf.
    """
    k = min(k, len(column))
    if k * _SORTED_SHARE > len(column) and excluded is None:
        return _all_ranked(
            queries_QD, k, len(column), lambda: column.blocks(_block_rows(column, len(queries_QD)))
        )
    best = _Best(len(queries_QD), k)
    for first, block in _growing(column, _block_rows(column, len(queries_QD))):
        scores_QN = _scores(queries_QD, block)
        for scores_N, out in zip(scores_QN, excluded or (), strict=False):
            begin, end = np.searchsorted(out, [first, first + len(block)])
            scores_N[out[begin:end] - first] = -np.inf
        best.offer(np.arange(first, first + len(block)), scores_QN)
        if on_rows is not None:
            on_rows(len(block))
    return best.positions_QK, best.scores_QK


def _block_rows(column: Column, n_queries: int) -> int:
    """Return how many rows to compare at a time: of many queries, each has a cost for every block."""
    return min(_BLOCK_ROWS, max(column.rows_at_once, _ROWS_PER_QUERY * n_queries))


def _growing(column: Column, rows: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for first, block in column.blocks(rows):
        if first:
            yield first, block
        else:
            yield 0, block[:_FIRST_ROWS]
            yield min(_FIRST_ROWS, len(block)), block[_FIRST_ROWS:]


def scan_rows(column: Column, queries_QD: Floats, k: int, positions_N: Ints) -> tuple[Ints, Floats]:
    """Find the best rows among those at the sorted positions; otherwise like `scan`."""
    k = min(k, len(positions_N))

    def blocks() -> Iterator[tuple[int, npt.NDArray[Any]]]:
        for begin in range(0, len(positions_N), _BLOCK_ROWS):
            yield begin, column.take(positions_N[begin : begin + _BLOCK_ROWS])

    if k * _SORTED_SHARE > len(positions_N):
        order_QK, scores_QK = _all_ranked(queries_QD, k, len(positions_N), blocks)
        return positions_N[order_QK], scores_QK
    best = _Best(len(queries_QD), k)
    for begin, block in blocks():
        best.offer(positions_N[begin : begin + len(block)], _scores(queries_QD, block))
    return best.positions_QK, best.scores_QK


def _all_ranked(
    queries_QD: Floats, k: int, n: int, blocks: Callable[[], Iterable[tuple[int, npt.NDArray[Any]]]]
) -> tuple[Ints, Floats]:
    """Return the best k of n rows, for a k so large that sorting all rows is faster than keeping the best."""
    order_QK = np.empty((len(queries_QD), k), np.int64)
    scores_QK = np.empty((len(queries_QD), k), np.float32)
    at_once = max(1, _SORTED_SCORES // n)
    for first in range(0, len(queries_QD), at_once):
        some = slice(first, first + at_once)
        scores_QN = np.empty((len(queries_QD[some]), n), np.float32)
        for begin, block in blocks():
            scores_QN[:, begin : begin + len(block)] = _scores(queries_QD[some], block).round(_DECIMALS)
        order_QK[some] = np.argsort(-scores_QN, axis=1, kind="stable")[:, :k]
        scores_QK[some] = np.take_along_axis(scores_QN, order_QK[some], 1)
    return order_QK, scores_QK


def exact(column: Column, queries_QD: Floats, k: int, selection: Selection | None) -> tuple[Ints, Floats]:
    """Find the best rows among those of a selection, or among all rows; otherwise like `scan`."""
    if selection is None:
        return scan(column, queries_QD, k)
    k = min(k, selection.n)
    is_most = 2 * selection.n > len(column) and k * _SORTED_SHARE <= selection.n
    if is_most and len(queries_QD) <= _FEW_QUERIES:  # to skip the other rows is faster than to gather these
        return scan(column, queries_QD, k, [np.flatnonzero(~selection.mask_N)] * len(queries_QD))
    return scan_rows(column, queries_QD, k, np.flatnonzero(selection.mask_N))


def among(
    column: Column, queries_QD: Floats, query_C: Ints, candidates_C: Ints, k: int
) -> tuple[Ints, Floats]:
    """Find the best rows among each query's own candidates, which must be distinct; otherwise like `scan`.

    ``query_C`` is the query of each candidate, in ascending order.
    """
    scores_C = cosines(column, queries_QD, query_C, candidates_C)
    order = np.lexsort((candidates_C, -scores_C, query_C))
    counts_Q = np.bincount(query_C, minlength=len(queries_QD))
    rank_C = np.arange(len(order)) - np.repeat(np.cumsum(counts_Q) - counts_Q, counts_Q)
    best = rank_C < k
    positions_QK = np.full((len(queries_QD), k), -1, np.int64)
    scores_QK = np.full((len(queries_QD), k), -np.inf, np.float32)
    place = query_C[best], rank_C[best]
    positions_QK[place], scores_QK[place] = candidates_C[order[best]], scores_C[order[best]]
    return positions_QK, scores_QK


def cosines(column: Column, queries_QD: Floats, query_C: Ints, positions_C: Ints) -> Floats:
    """Return the cosine (C,) of each row with its own normalised query; rows of one query stand together."""
    scores_C = np.empty(len(positions_C), np.float32)
    for begin in range(0, len(positions_C), _BLOCK_ROWS):
        part = slice(begin, begin + _BLOCK_ROWS)
        taken = column.take(positions_C[part])
        rows_CD = taken if taken.dtype == np.float32 else as_floats(taken)
        lengths_C = np.sqrt(np.einsum("cd,cd->c", rows_CD, rows_CD))
        products_C = np.empty(len(rows_CD), np.float32)
        edges = np.flatnonzero(np.diff(query_C[part], prepend=-1, append=-1)).tolist()
        for first, end in itertools.pairwise(edges):
            # A matrix product would start threads of its own, which compete with those that run searches.
            np.einsum(
                "cd,d->c", rows_CD[first:end], queries_QD[query_C[begin + first]], out=products_C[first:end]
            )
        scores_C[part] = np.divide(products_C, lengths_C, out=products_C, where=lengths_C > 0)
    return scores_C.round(_DECIMALS)
