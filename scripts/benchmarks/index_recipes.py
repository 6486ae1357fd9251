"""The indexes that `scripts.benchmarks.index_codes` compares: how each is built and searched.

All have inverted lists. What differs: lists and who trains them, what of a vector is coded (itself, or its
residual: what is left when the centroid of its list is taken off), the rotation before, and the code. Array
names end in letters of their shape: Q queries, C candidates, L lists, N rows, D hidden size, P dimensions
that are coded, S lists of a row.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.cores import count_cores
from ctxbatch.search.exact import Selection, normalised

_SEED = 20_240_607
_BLOCK = 65_536
_CHUNK = 64
_TRAIN_ROWS_PER_LIST = 64
_CODEBOOK_ROWS = 65_536
_MOMENT_ROWS = 100_000
# More lists than this are trained in two steps, and found through a graph when rows are added.
_FLAT_LISTS = 2_048
# Where a weighting would divide by nothing.
_LEAST_MOMENT = 1e-4


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to build. Pieces and dimensions are those for vectors of 384 dimensions; others are in proportion.

    Args:
        told: The recipe in words.
        lists: Inverted lists.
        pieces: Pieces of product quantization, 4 bits each; 0 for RaBitQ, a bit a dimension.
        kept: Dimensions that are coded.
        coded: What is coded: vectors, centred vectors, or residuals.
        rotation: none, random, opq (learned from vectors, as FAISS's OPQ), opq-residual, or balanced:
            principal axes of what is coded, dealt out so that each piece has the same product of variances.
            mixed: principal axes, rotated at random among each other.
        weight: The power of the second moment by which errors of queries that resemble rows count more.
        spilled: In how many of its nearest lists a row is.
        mixed: Whether half of the rows that train the lists are foreign.
        graph: Whether a graph finds the lists to probe.
    """

    told: str
    lists: int = 1_024
    pieces: int = 96
    kept: int = 384
    coded: str = "residuals"
    rotation: str = "balanced"
    weight: float = 0.0
    spilled: int = 1
    mixed: bool = False
    graph: bool = False


RECIPES = {
    "today": Recipe("IVF1024,PQ96x4fs", coded="vectors", rotation="none"),
    "centred": Recipe("IVF1024,PQ96x4fs of centred vectors", coded="centred", rotation="none"),
    "opq": Recipe("OPQ96,IVF1024,PQ96x4fs", coded="vectors", rotation="opq"),
    "random": Recipe("RR384,IVF1024,PQ96x4fs", coded="vectors", rotation="random"),
    "centred-bal": Recipe("centred vectors in balanced principal axes, PQ96x4fs", coded="centred"),
    "residual": Recipe("IVF1024,PQ96x4fsr: residuals", rotation="none"),
    "residual-rr": Recipe("RR384,IVF1024,PQ96x4fsr", rotation="random"),
    "residual-opq": Recipe("OPQ96,IVF1024,PQ96x4fsr", rotation="opq"),
    "opq-of-res": Recipe("OPQ96 learned from residuals, IVF1024,PQ96x4fsr", rotation="opq-residual"),
    "balanced": Recipe("residuals in balanced principal axes, PQ96x4fs"),
    "balanced-3": Recipe("balanced, 288 dimensions are coded, 3 a piece", kept=288),
    "balanced-104": Recipe("balanced, 312 dimensions, PQ104x4fs", pieces=104, kept=312),
    "balanced-64": Recipe("balanced, PQ64x4fs: 6 dimensions a piece", pieces=64),
    "weighted": Recipe("balanced, errors weighted by the fourth root of the second moment", weight=0.25),
    "weighted-104": Recipe("weighted, 312 dimensions, PQ104x4fs", pieces=104, kept=312, weight=0.25),
    "weighted-64": Recipe("weighted, PQ64x4fs", pieces=64, weight=0.25),
    "mixed-lists": Recipe("weighted, lists trained on half foreign vectors", weight=0.25, mixed=True),
    "spilled-48": Recipe("weighted, rows in 2 lists, PQ48x4fs", pieces=48, weight=0.25, spilled=2),
    "2048-lists": Recipe("weighted, IVF2048", lists=2_048, weight=0.25),
    "4096-hnsw": Recipe("weighted, IVF4096_HNSW32", lists=4_096, weight=0.25, graph=True),
    "16384-hnsw": Recipe("weighted, IVF16384_HNSW32", lists=16_384, weight=0.25, graph=True),
    "rabitq": Recipe("IVF1024,RaBitQfs", pieces=0, rotation="none"),
    "rabitq-rr": Recipe("RR384,IVF1024,RaBitQfs", pieces=0, rotation="random"),
    "rabitq-320": Recipe("320 principal axes of residuals, rotated", pieces=0, kept=320, rotation="mixed"),
}


@dataclass(slots=True)
class Built:
    """An index, how queries are turned for it, and what it took to build."""

    index: Any
    centroids_LD: Floats
    turn_PD: Floats
    graph: Any
    train_seconds: float
    add_seconds: float
    bytes: int

    @property
    def n_lists(self) -> int:
        """The number of inverted lists."""
        return len(self.centroids_LD)

    def propose(
        self,
        queries_QD: Floats,
        n_lists: int,
        depth: int,
        selection: Selection | None = None,
        take: Callable[[int, Ints], None] | None = None,
    ) -> Ints:
        """Return proposals (Q, C), best first, padded with -1; ``take`` gets each chunk in its thread."""
        selector: Any = None if selection is None else faiss.IDSelectorBitmap(selection.bits)  # type: ignore[call-arg,arg-type]  # FAISS wraps it
        options: Any = faiss.SearchParametersIVF(nprobe=n_lists, sel=selector)  # type: ignore[call-arg]  # FAISS wraps it
        turned_QP = np.ascontiguousarray(queries_QD @ self.turn_PD.T)
        coarse_QL = queries_QD @ self.centroids_LD.T
        found_QC = np.empty((len(queries_QD), depth), np.int64)

        def run(first: int) -> None:
            some = slice(first, first + _CHUNK)
            chunk_QP, chunk_QC = turned_QP[some], found_QC[some]
            lists_QL = self._nearest_lists(queries_QD[some], coarse_QL[some], n_lists)
            cosines_QL = np.take_along_axis(coarse_QL[some], np.maximum(lists_QL, 0), 1)
            estimates_QC = np.empty(chunk_QC.shape, np.float32)
            arrays = (chunk_QP, depth, lists_QL, cosines_QL, estimates_QC, chunk_QC)
            pointers = [each if isinstance(each, int) else faiss.swig_ptr(each) for each in arrays]
            self.index.search_preassigned_c(len(chunk_QP), *pointers, False, options)
            if take is not None:
                take(first, chunk_QC)

        list(_threads().map(run, range(0, len(queries_QD), _CHUNK)))
        return found_QC

    def _nearest_lists(self, queries_QD: Floats, coarse_QL: Floats, n: int) -> Ints:
        if n >= self.n_lists:
            return np.tile(np.arange(self.n_lists), (len(queries_QD), 1))
        if self.graph is None:
            return np.ascontiguousarray(np.argpartition(-coarse_QL, n - 1, axis=1)[:, :n])
        effort: Any = faiss.SearchParametersHNSW(efSearch=2 * n)  # type: ignore[call-arg]  # FAISS wraps it
        return np.ascontiguousarray(self.graph.search(queries_QD, n, params=effort)[1])


@cache
def _threads() -> ThreadPoolExecutor:
    """Return a pool of one thread a core, in which FAISS starts no more."""
    return ThreadPoolExecutor(count_cores(), initializer=faiss.omp_set_num_threads, initargs=(1,))


@dataclass(slots=True)
class _Lists:
    """Trained lists: centroids, a graph of them or none, each row's nearest lists (N, S), and the seconds."""

    centroids_LD: Floats
    graph: Any
    nearest_NS: Ints
    train_seconds: float
    assign_seconds: float


class Builder:
    """Builds indexes of a column; those with the same lists share them.

    Args:
        column: The rows.
        foreign_ND: Normalised vectors of another text, for lists that they help to train.
    """

    def __init__(self, column: Any, foreign_ND: Floats) -> None:  # noqa: ANN401 (a column)
        self._column = column
        self._foreign_ND = foreign_ND
        self._lists: dict[tuple[int, bool, int], _Lists] = {}

    def build(self, recipe: Recipe) -> Built:
        """Build an index."""
        key = recipe.lists, recipe.mixed, recipe.spilled
        if key not in self._lists:
            self._lists[key] = self._make_lists(recipe)
        lists = self._lists[key]
        started = time.perf_counter()
        rows_PD, queries_PD, index = self._train(recipe, lists)
        trained = time.perf_counter()
        self._add(index, recipe, lists, rows_PD)
        if recipe.pieces:
            coded, index = index, faiss.IndexIVFPQFastScan(index, 32)
            _KEPT.append((coded, coded.quantizer))
        added = time.perf_counter()
        sizes_L = np.bincount(lists.nearest_NS.ravel(), minlength=recipe.lists)
        blocks = int(np.sum(-(-sizes_L // 32)))
        size = blocks * 32 * index.code_size + 8 * int(sizes_L.sum()) + lists.centroids_LD.nbytes
        return Built(
            index,
            lists.centroids_LD,
            queries_PD,
            lists.graph if recipe.graph else None,
            lists.train_seconds + trained - started,
            lists.assign_seconds + added - trained,
            size,
        )

    def _sample(self, n: int) -> tuple[Ints, Floats]:
        """Return the sorted positions of random rows, always the same, and their normalised vectors."""
        n = min(n, len(self._column))
        chosen_N = np.random.default_rng(_SEED).choice(len(self._column), n, replace=False)
        rows_N = np.sort(chosen_N)
        return rows_N, normalised(self._column.take(rows_N))

    def _make_lists(self, recipe: Recipe) -> _Lists:
        started = time.perf_counter()
        sample_ND = self._sample(recipe.lists * _TRAIN_ROWS_PER_LIST)[1]
        if recipe.mixed:
            half = min(len(sample_ND) // 2, len(self._foreign_ND))
            sample_ND = np.concatenate([sample_ND[::2], self._foreign_ND[:half]])
        centroids_LD = _centroids(sample_ND, recipe.lists)
        finder: Any
        if recipe.lists > _FLAT_LISTS:
            finder = faiss.IndexHNSWFlat(self._column.dimension, 32, faiss.METRIC_INNER_PRODUCT)
            finder.hnsw.efSearch = 64
        else:
            finder = faiss.IndexFlatIP(self._column.dimension)
        finder.add(centroids_LD)
        trained = time.perf_counter()
        found = [
            finder.search(normalised(block), recipe.spilled)[1] for _, block in self._column.blocks(_BLOCK)
        ]
        graph = finder if recipe.lists > _FLAT_LISTS else None
        seconds = time.perf_counter() - trained
        return _Lists(centroids_LD, graph, np.concatenate(found), trained - started, seconds)

    def _train(self, recipe: Recipe, lists: _Lists) -> tuple[Floats, Floats, Any]:
        """Return the maps of rows and of queries (P, D), and the trained index, empty."""
        rows_N, sample_ND = self._sample(_MOMENT_ROWS)
        moment_DD = sample_ND.T @ sample_ND / len(sample_ND)
        weighing_DD, inverse_DD = _powers(moment_DD, recipe.weight)
        coded_ND = self._coded(recipe, lists, rows_N, sample_ND) @ weighing_DD
        raw_ND = sample_ND if recipe.rotation == "opq" else coded_ND
        dimension = self._column.dimension
        kept, pieces = recipe.kept * dimension // 384, recipe.pieces * dimension // 384
        turn_PD = _rotation(recipe.rotation, raw_ND, kept, pieces)
        quantizer: Any = faiss.IndexFlatIP(kept)
        rows_PD = np.ascontiguousarray(turn_PD @ weighing_DD)
        quantizer.add(np.ascontiguousarray(lists.centroids_LD @ rows_PD.T))
        setting = (quantizer, kept, recipe.lists)
        index: Any
        if recipe.pieces:
            index = faiss.IndexIVFPQ(*setting, pieces, 4, faiss.METRIC_INNER_PRODUCT)
            index.by_residual = recipe.coded == "residuals"
            index.pq.cp.min_points_per_centroid = 1
            index.pq.train(np.ascontiguousarray((coded_ND @ turn_PD.T)[:_CODEBOOK_ROWS]))
            index.is_trained = True
        else:
            index = faiss.IndexIVFRaBitQFastScan(*setting, faiss.METRIC_INNER_PRODUCT)
            index.train(np.ascontiguousarray(sample_ND @ rows_PD.T))
        _KEPT.append(quantizer)
        return rows_PD, np.ascontiguousarray(turn_PD @ inverse_DD), index

    def _coded(self, recipe: Recipe, lists: _Lists, rows_N: Ints, vectors_ND: Floats) -> Floats:
        """Return what is coded of some rows."""
        if recipe.coded == "residuals":
            return np.asarray(vectors_ND - lists.centroids_LD[lists.nearest_NS[rows_N, 0]])
        return np.asarray(vectors_ND - self._mean(recipe))

    def _mean(self, recipe: Recipe) -> Floats:
        """Return what is taken off all vectors: their mean, or nothing."""
        if recipe.coded != "centred":
            return np.zeros(self._column.dimension, np.float32)
        mean_D: Floats = self._sample(_MOMENT_ROWS)[1].mean(axis=0)
        return mean_D

    def _add(self, index: Any, recipe: Recipe, lists: _Lists, rows_PD: Floats) -> None:  # noqa: ANN401
        mean_D = self._mean(recipe)
        for first, block in self._column.blocks(_BLOCK):
            turned_NP = np.ascontiguousarray((normalised(block) - mean_D) @ rows_PD.T)
            if not recipe.pieces:
                index.add(turned_NP)
                continue
            ids_N = np.arange(first, first + len(block))
            for nearest_N in lists.nearest_NS[first : first + len(block)].T:
                arrays = (turned_NP, ids_N, np.ascontiguousarray(nearest_N))
                index.add_core(len(block), *map(faiss.swig_ptr, arrays), None)


# FAISS's classes do not keep alive what they were made of.
_KEPT: list[Any] = []


def _centroids(sample_ND: Floats, lists: int) -> Floats:
    """Return centroids of length 1; many are trained within groups, which get lists by their sizes."""
    if lists <= _FLAT_LISTS:
        means: Any = faiss.Kmeans(
            sample_ND.shape[1],
            lists,
            niter=10,
            spherical=True,
            seed=1,
            min_points_per_centroid=1,
            max_points_per_centroid=_TRAIN_ROWS_PER_LIST,
        )
        means.train(np.ascontiguousarray(sample_ND))
        return np.asarray(means.centroids, np.float32)
    groups = 64
    group_N = np.argmax(sample_ND @ _centroids(sample_ND[:: lists // 512], groups).T, axis=1)
    bounds = np.round(np.cumsum(np.bincount(group_N, minlength=groups)) / len(group_N) * lists).astype(int)
    counts = np.diff(bounds, prepend=0)
    parts = [_centroids(sample_ND[group_N == group], n) for group, n in enumerate(counts.tolist()) if n]
    return np.concatenate(parts)


def _powers(moment_DD: Floats, weight: float) -> tuple[Floats, Floats]:
    """Return a power of a symmetric matrix, and its inverse."""
    values_D, axes_DD = np.linalg.eigh(moment_DD.astype(np.float64))
    values_D = np.maximum(values_D, values_D.max() * _LEAST_MOMENT)
    up, down = ((axes_DD * values_D**power) @ axes_DD.T for power in (weight, -weight))
    return up.astype(np.float32), down.astype(np.float32)


def _rotation(kind: str, coded_ND: Floats, kept: int, pieces: int) -> Floats:
    """Return orthonormal rows (P, D), learned from what is coded."""
    dimension = coded_ND.shape[1]
    if kind == "none":
        return np.eye(dimension, dtype=np.float32)
    if kind == "balanced":
        return _balanced(coded_ND, kept, pieces)
    turn: Any
    if kind == "mixed":
        turn_PP = _rotation("random", np.zeros((0, kept), np.float32), kept, 0)
        return np.ascontiguousarray(turn_PP @ _balanced(coded_ND, kept, 1))
    if kind == "random":
        turn = faiss.RandomRotationMatrix(dimension, kept)
        turn.init(_SEED)
    else:
        turn = faiss.OPQMatrix(dimension, pieces, kept)
        turn.train(np.ascontiguousarray(coded_ND[:_CODEBOOK_ROWS]))
    return np.asarray(faiss.vector_to_array(turn.A).reshape(kept, dimension))


def _balanced(coded_ND: Floats, kept: int, pieces: int) -> Floats:
    """Return principal axes, dealt out to pieces of equal products of variances (Ge et al., 2013)."""
    values_D, axes_DD = np.linalg.eigh((coded_ND.T @ coded_ND / len(coded_ND)).astype(np.float64))
    best = np.argsort(-values_D)[:kept]
    logs = np.log(np.maximum(values_D[best], values_D.max() * 1e-9))
    logs -= logs.min() - 1e-9
    dealt: list[list[int]] = [[] for _ in range(pieces)]
    products = np.zeros(pieces)
    for axis, log in zip(best, logs, strict=True):
        products[[len(each) == kept // pieces for each in dealt]] = np.inf
        piece = int(np.argmin(products))
        dealt[piece].append(int(axis))
        products[piece] += log
    order = [axis for piece in dealt for axis in piece]
    return np.ascontiguousarray(axes_DD[:, order].T.astype(np.float32))
