"""Searches a FAISS index: the index proposes rows, and the exact cosine ranks them.

Array names end in the letters of their shape: Q queries, K hits, C candidates, L lists, N rows, D hidden
size.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import faiss
import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.cores import count_cores
from ctxbatch.errors import SHOWN_REASON, InputError, StoreError
from ctxbatch.sealed import Positive
from ctxbatch.search.best_scores import BestScores
from ctxbatch.search.exact import Selection, among, exact, scan_rows
from ctxbatch.store.columns import Column
from ctxbatch.store.moments import Standardiser

# Queries that share one pass over their probed lists, and queries that are searched for at a time.
_CHUNK_QUERIES = 64
_BATCH_QUERIES = 1_024
# Candidates of several queries that are compared at a time: their vectors fit into the processor's cache.
_COMPARED_ROWS = 2_048
# An exact scan is faster than the index for at most this many rows,
_SCANNED_ROWS = 8_192
# and for at most this many times the number of proposals.
_SCANNED_SHARE = 4
# Additional proposals for each hit beyond ten.
_PROPOSALS_PER_HIT = 20


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """The memory budget and the recall of an index.

    Args:
        memory: The memory that a search of the index may take, in bytes.
        recall: The recall@10 to reach: the share of the ten nearest rows that a search finds.
        factory: The FAISS factory string of an IVF index; by default, rows and memory determine it.

    Raises:
        InputError: A value is out of range.
    """

    memory: int = 4 << 30
    recall: float = 0.95
    factory: str | None = None

    def __post_init__(self) -> None:
        if self.memory <= 0:
            raise InputError(f"--memory {self.memory} must be more than 0")
        if not 0 < self.recall <= 1:
            raise InputError(f"--recall {self.recall} must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of an index one search reads; tuned when the index is built.

    A search probes the lists whose centroid's cosine is within ``margin`` of the nearest centroid's: few if
    many stored rows resemble the query, many if none do. For ten hits it takes the best ``depth`` proposals,
    and compares exactly those whose estimated cosine is within ``slack`` of the tenth best estimate.
    ``most_lists`` limits the lists to the nearest of these.
    """

    margin: float
    depth: Positive
    slack: float
    most_lists: Positive | None = None

    def candidates(self, k: int) -> int:
        """Return the number of proposals that a search for k hits requests."""
        return self.depth + _PROPOSALS_PER_HIT * max(0, k - 10)


# How much of an index to read: as many queries at once may cost, as a few may cost, or all vectors instead.
SearchMode = Literal["many", "few", "exact"]


@dataclass(frozen=True, slots=True)
class Efforts:
    """The efforts of an index: of a search among all rows and of a filtered one, whose hits are farther away.

    Many queries at once take ``plain`` and ``filtered``, tuned to be fast at a recall that was asked for. A
    few are not to miss a row, and take ``thorough`` and ``thorough_filtered``.
    """

    plain: Effort
    filtered: Effort
    thorough: Effort
    thorough_filtered: Effort


@dataclass(frozen=True, slots=True)
class Recalls:
    """The recall@10 of an index: the share of the ten nearest rows that its searches find.

    ``stored`` is that of rows of the store as queries, ``other_words`` that of these among the rows of other
    words, ``new`` that of sentences that are not in the store; ``None`` if there was no model to encode some.
    The thorough ones are those of a few queries at once.
    """

    stored: float
    other_words: float
    new: float | None = None
    thorough_stored: float | None = None
    thorough_new: float | None = None

    def __str__(self) -> str:
        new = "" if self.new is None else f", new sentences {self.new:.3f}"
        few = "" if self.thorough_stored is None else f"; of few queries {self.thorough_stored:.3f}"
        few_new = "" if self.thorough_new is None else f" (new sentences {self.thorough_new:.3f})"
        return f"recall@10 {self.stored:.3f} (other words {self.other_words:.3f}{new}){few}{few_new}"


def said_by_faiss(error: Exception) -> str:
    """Return the message of a FAISS error, without the location in the source of FAISS before it."""
    return str(error).strip().rpartition("\n")[2].rpartition("failed: ")[2]


def ivf_in(index: Any) -> Any:  # noqa: ANN401 (any FAISS index)
    """Return the IVF index in an index: itself, or what stands behind a rotation; else ``None``."""
    if isinstance(index, faiss.IndexPreTransform):
        index = None if rotation_in(index) is None else faiss.downcast_index(index.index)
    return index if isinstance(index, faiss.IndexIVF) else None


def rotation_in(index: Any) -> Any:  # noqa: ANN401 (any FAISS index)
    """Return the rotation that an index begins with; ``None`` if it does not begin with one alone."""
    if not isinstance(index, faiss.IndexPreTransform):
        return None
    chain: Any = index.chain
    turn: Any = faiss.downcast_VectorTransform(chain.at(0)) if chain.size() == 1 else None
    is_rotation = isinstance(turn, faiss.LinearTransform) and not turn.have_bias
    return turn if is_rotation and turn.d_in == turn.d_out == index.d else None


class Proposer:
    """A FAISS index that proposes the nearest rows; threads may share it.

    Args:
        index: An IVF index of inner products, whose ids are the positions of the rows; it may stand behind a
            rotation.
    """

    def __init__(self, index: Any) -> None:  # noqa: ANN401 (any FAISS index)
        self._whole = index  # which owns what is in it
        self._index = ivf_in(index)
        quantizer = faiss.downcast_index(self._index.quantizer)
        self._centroids_LD: Floats = quantizer.reconstruct_n(0, self._index.nlist)
        self._rotation_DD: Floats | None = None
        if (turn := rotation_in(index)) is not None:
            self._rotation_DD = faiss.vector_to_array(turn.A).reshape(index.d, index.d)

    @property
    def n_lists(self) -> int:
        """The number of lists."""
        return len(self._centroids_LD)

    def share_probed(self, queries_QD: Floats, margin: float) -> float:
        """Return the share of the lists within a margin of the nearest one, averaged over the queries."""
        coarse_QL = self._rotated(queries_QD) @ self._centroids_LD.T
        return float(np.mean(coarse_QL >= coarse_QL.max(axis=1, keepdims=True) - margin))

    def _rotated(self, queries_QD: Floats) -> Floats:
        return queries_QD if self._rotation_DD is None else queries_QD @ self._rotation_DD.T

    def propose(
        self,
        queries_QD: Floats,
        effort: Effort,
        n_candidates: int,
        selection: Selection | None,
        take: Callable[[int, Floats, Ints], None],
    ) -> None:
        """Pass proposals to ``take``: the first query's number, estimated cosines (Q, C), positions (Q, C).

        Each query gets at most ``n_candidates`` proposals, best first, padded with -1. Several threads call
        ``take``, each for different queries.
        """
        # FAISS's stubs describe C++; in Python its classes take arrays and keywords.
        selector: Any = None if selection is None else faiss.IDSelectorBitmap(selection.bits)  # type: ignore[call-arg,arg-type]  # FAISS wraps it
        n_candidates = min(n_candidates, self._index.ntotal)

        def run(first: int, queries_QD: Floats, coarse_QL: Floats) -> None:
            lists_QL, coarse_QL = _probed(coarse_QL, effort)
            options: Any = faiss.SearchParametersIVF(nprobe=lists_QL.shape[1], sel=selector)  # type: ignore[call-arg]  # FAISS wraps it
            estimates_QC = np.empty((len(queries_QD), n_candidates), np.float32)
            found_QC = np.empty((len(queries_QD), n_candidates), np.int64)
            arrays = (queries_QD, n_candidates, lists_QL, coarse_QL, estimates_QC, found_QC)
            pointers = [each if isinstance(each, int) else faiss.swig_ptr(each) for each in arrays]
            try:
                self._index.search_preassigned_c(len(queries_QD), *pointers, False, options)
            except RuntimeError as error:  # a crafted file can have valid checksums
                raise StoreError(
                    f"the index cannot be searched ({said_by_faiss(error)[:SHOWN_REASON]}): rebuild it with "
                    "`ctxbatch index`"
                ) from error
            take(first, estimates_QC, found_QC)

        for begin in range(0, len(queries_QD), _BATCH_QUERIES):
            batch_QD = np.ascontiguousarray(self._rotated(queries_QD[begin : begin + _BATCH_QUERIES]))
            coarse_QL = batch_QD @ self._centroids_LD.T
            parts = [slice(at, at + _CHUNK_QUERIES) for at in range(0, len(batch_QD), _CHUNK_QUERIES)]
            tasks = [_threads().submit(run, begin + p.start, batch_QD[p], coarse_QL[p]) for p in parts]
            for task in tasks:
                task.result()


class Index:
    """An index on one column of a store; threads may share it.

    Args:
        proposer: The index that proposes rows.
        column: The stored vectors, for exact cosines.
        efforts: How much of it a search reads.
        standardiser: What standardised the vectors, if it is a column of standardised ones.
        n_indexed: How many rows the index has; those behind them were appended, and are compared one by one.
            By default it has all.
        best_scores: How near the best hits of the store's own rows are, if that is known.
    """

    def __init__(
        self,
        proposer: Proposer,
        column: Column,
        efforts: Efforts,
        standardiser: Standardiser | None = None,
        n_indexed: int | None = None,
        best_scores: BestScores | None = None,
    ) -> None:
        self._proposer = proposer
        self._column = column
        self.efforts = efforts
        self.standardiser = standardiser
        self.best_scores = best_scores
        self._n_indexed = len(column) if n_indexed is None else n_indexed

    def nearest(
        self, queries_QD: Floats, k: int, selection: Selection | None = None, mode: SearchMode = "many"
    ) -> tuple[Ints, Floats]:
        """Return positions and cosines (Q, K) of the nearest rows, best first; K < k if there are fewer rows.

        Args:
            queries_QD: Normalised queries.
            k: The number of rows to find.
            selection: The rows to search; by default, all.
            mode: How much to read.
        """
        n_rows = len(self._column) if selection is None else selection.n
        k = min(k, n_rows)
        effort = self._effort(selection is not None, mode)
        if mode == "exact" or n_rows <= max(_SCANNED_ROWS, _SCANNED_SHARE * effort.candidates(k)):
            return exact(self._column, queries_QD, k, selection)
        appended_N = np.arange(self._n_indexed, len(self._column))
        if selection is not None:
            appended_N = appended_N[selection.mask_N[self._n_indexed :]]
        if not len(appended_N):
            return self._nearest_indexed(queries_QD, k, selection, effort)
        found = scan_rows(self._column, queries_QD, k, appended_N)
        if n_rows == len(appended_N):
            return found
        indexed = self._nearest_indexed(queries_QD, min(k, n_rows - len(appended_N)), selection, effort)
        return _merged(indexed, found, k)

    def _effort(self, filtered: bool, mode: SearchMode) -> Effort:
        if mode == "few":
            return self.efforts.thorough_filtered if filtered else self.efforts.thorough
        return self.efforts.filtered if filtered else self.efforts.plain

    def _nearest_indexed(
        self, queries_QD: Floats, k: int, selection: Selection | None, effort: Effort
    ) -> tuple[Ints, Floats]:
        """Return positions and cosines (Q, K) of the nearest of the rows that the index has."""
        positions_QK = np.full((len(queries_QD), k), -1, np.int64)
        scores_QK = np.full((len(queries_QD), k), -np.inf, np.float32)

        def decide(first: int, estimates_QC: Floats, candidates_QC: Ints) -> None:
            if candidates_QC.max(initial=-1) >= self._n_indexed:
                raise StoreError(
                    "the index proposes rows that the store does not have: rebuild it with `ctxbatch index`"
                )
            # With fewer than k proposals, all of them are compared.
            threshold_Q = estimates_QC[:, k - 1 : k] - effort.slack if k <= estimates_QC.shape[1] else -np.inf
            compared_QC = (candidates_QC >= 0) & (estimates_QC >= threshold_Q)
            at_once = max(1, int(_COMPARED_ROWS * len(compared_QC) / max(1, compared_QC.sum())))
            for begin in range(0, len(candidates_QC), at_once):
                some = slice(begin, begin + at_once)
                here = slice(first + begin, first + min(begin + at_once, len(candidates_QC)))
                query_C = np.nonzero(compared_QC[some])[0]
                candidates_C = candidates_QC[some][compared_QC[some]]
                found = among(self._column, queries_QD[here], query_C, candidates_C, k)
                positions_QK[here], scores_QK[here] = found

        self._proposer.propose(queries_QD, effort, effort.candidates(k), selection, decide)
        short = np.flatnonzero((positions_QK < 0).any(axis=1))
        if len(short):  # the probed lists hold fewer than k rows
            rows_N = np.arange(self._n_indexed)
            if selection is not None:
                rows_N = rows_N[selection.mask_N[: self._n_indexed]]
            positions_QK[short], scores_QK[short] = scan_rows(self._column, queries_QD[short], k, rows_N)
        return positions_QK, scores_QK


def _merged(one: tuple[Ints, Floats], other: tuple[Ints, Floats], k: int) -> tuple[Ints, Floats]:
    """Return the best k rows of two disjoint findings, best first, ties by position."""
    positions_QK: Ints = np.concatenate([one[0], other[0]], axis=1)
    scores_QK: Floats = np.concatenate([one[1], other[1]], axis=1)
    order_QK = np.lexsort((positions_QK, -scores_QK), axis=1)[:, :k]
    return np.take_along_axis(positions_QK, order_QK, 1), np.take_along_axis(scores_QK, order_QK, 1)


def _probed(coarse_QL: Floats, effort: Effort) -> tuple[Ints, Floats]:
    """Return the lists to probe for each query, padded with -1, and the cosines of their centroids."""
    least_Q = coarse_QL.max(axis=1) - effort.margin
    if effort.most_lists is not None and effort.most_lists < coarse_QL.shape[1]:
        at = coarse_QL.shape[1] - effort.most_lists
        least_Q = np.maximum(least_Q, np.partition(coarse_QL, at, axis=1)[:, at])
    query, found = np.nonzero(coarse_QL >= least_Q[:, None])
    counts_Q = np.bincount(query, minlength=len(coarse_QL))
    column = np.arange(len(query)) - np.repeat(np.cumsum(counts_Q) - counts_Q, counts_Q)
    lists_QL = np.full((len(coarse_QL), counts_Q.max()), -1, np.int64)
    lists_QL[query, column] = found
    cosines_QL = np.zeros(lists_QL.shape, np.float32)
    cosines_QL[query, column] = coarse_QL[query, found]
    return lists_QL, cosines_QL


@cache
def _threads() -> ThreadPoolExecutor:
    """Return a pool of one thread a core, in which FAISS starts no more: they would outnumber the cores."""
    return ThreadPoolExecutor(count_cores(), "search", initializer=faiss.omp_set_num_threads, initargs=(1,))
