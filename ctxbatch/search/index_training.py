"""Trains the lists and the codes of an index.

By default what is coded is a row's residual, its difference from the centroid of its list, in the principal
axes of residuals, dealt out so that the pieces of product quantization share the variance evenly (Ge et al.,
"Optimized product quantization", 2013, the parametric solution). Array names end in the letters of their
shape: N rows, L lists, D hidden size.
"""

from typing import Any

import faiss
import numpy as np

from ctxbatch.arrays import Floats
from ctxbatch.search.index import ivf_in, rotation_in
from ctxbatch.search.index_choice import BY_RESIDUALS

# On how many rows an index is trained: so many for each list, and at least as many.
_ROWS_PER_LIST = 64
_LEAST_ROWS = 10_000
# From so many lists on, a graph finds the nearest centroid. Of 65,536 lists, it does so for 4.5 times as many
# rows a second as comparing with all of them; 2.5 % of the rows get another list, almost as near (measured).
_LISTS_WITH_GRAPH = 16_384
_NEIGHBOURS, _CANDIDATES = 32, 32
_CODES = 16
# Where residuals do not vary, logarithms of variances would not exist.
_LEAST_VARIANCE = 1e-9


def trained_rows(index: Any) -> int:  # noqa: ANN401 (any FAISS index)
    """Return the number of rows to train an index on."""
    return max(int(ivf_in(index).nlist) * _ROWS_PER_LIST, _LEAST_ROWS)


def train(index: Any, sample_ND: Floats) -> None:  # noqa: ANN401 (any FAISS index) (any FAISS index)
    """Train an index, which may begin with a rotation, on normalised rows.

    Raises:
        RuntimeError: FAISS cannot train it.
    """
    ivf = ivf_in(index)
    # FAISS would print that it likes more rows for a centroid.
    ivf.cp.min_points_per_centroid = 1
    if hasattr(ivf, "pq"):
        ivf.pq.cp.min_points_per_centroid = 1
    if rotation_in(index) is not None:
        _rotate(index, ivf, sample_ND)
    index.train(sample_ND)


def learned_by(index: Any) -> Floats:  # noqa: ANN401 (any FAISS index)
    """Return what an index by residuals has learned, in a row: centroids, rotation, centroids of pieces."""
    ivf, turn = ivf_in(index), rotation_in(index)
    centroids_LD = faiss.downcast_index(ivf.quantizer).reconstruct_n(0, ivf.nlist)
    of_pieces = (faiss.vector_to_array(turn.A), faiss.vector_to_array(ivf.pq.centroids))
    learned: Floats = np.concatenate([centroids_LD.ravel(), *of_pieces])
    return learned


def empty_index(factory: str, dimension: int, learned: Floats) -> Any:  # noqa: ANN401 (any FAISS index)
    """Return an index without rows that has learned this already, as `learned_by` gives it.

    Raises:
        ValueError: It does not fit the factory string, or that is not one by residuals.
    """
    found = BY_RESIDUALS.fullmatch(factory)
    pieces, turned, n_lists, coded = map(int, found.groups()) if found else (0, 0, 0, 1)
    sizes = [n_lists * dimension, dimension**2, _CODES * dimension]
    if pieces != coded or turned != dimension or len(learned) != sum(sizes) or not np.isfinite(learned).all():
        raise ValueError(f"what it has learned does not fit {factory!r}")
    index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    ivf, turn = ivf_in(index), rotation_in(index)
    centroids, rotation, of_pieces = np.split(learned, np.cumsum(sizes)[:-1])
    faiss.copy_array_to_vector(rotation, turn.A)
    faiss.downcast_index(ivf.quantizer).add(centroids.reshape(n_lists, dimension))
    faiss.copy_array_to_vector(of_pieces, ivf.pq.centroids)
    turn.is_orthonormal = turn.is_trained = ivf.is_trained = index.is_trained = True
    return index


def coder_of(empty: Any) -> Any:  # noqa: ANN401 (any FAISS index)
    """Return an index that codes rows as a trained one does; one of many lists with the help of a graph."""
    if ivf_in(empty).nlist < _LISTS_WITH_GRAPH:
        return empty
    coder: Any = faiss.clone_index(empty)
    ivf = ivf_in(coder)
    graph: Any = faiss.IndexHNSWFlat(ivf.d, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efSearch = _CANDIDATES
    quantizer: Any = faiss.downcast_index(ivf.quantizer)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with several, each graph would be another
    graph.add(quantizer.reconstruct_n(0, ivf.nlist))
    faiss.omp_set_num_threads(threads)
    ivf.quantizer = graph
    graph.this.disown()  # the index frees it
    quantizer.this.own(True)
    return coder


def _rotate(index: Any, ivf: Any, sample_ND: Floats) -> None:  # noqa: ANN401 (any FAISS index)
    """Train the lists, learn a rotation from the residuals, and rotate the centroids."""
    quantizer: Any = faiss.downcast_index(ivf.quantizer)
    ivf.train_q1(len(sample_ND), faiss.swig_ptr(sample_ND), False, ivf.metric_type)
    centroids_LD = quantizer.reconstruct_n(0, ivf.nlist)
    nearest_N = quantizer.search(sample_ND, 1)[1][:, 0]
    rotation_DD = balanced_axes(sample_ND - centroids_LD[nearest_N], ivf.pq.M)
    quantizer.reset()
    quantizer.add(np.ascontiguousarray(centroids_LD @ rotation_DD.T))
    turn = rotation_in(index)
    faiss.copy_array_to_vector(rotation_DD.ravel(), turn.A)
    turn.is_orthonormal = turn.is_trained = True


def balanced_axes(rows_ND: Floats, pieces: int) -> Floats:
    """Return the principal axes (D, D) of rows, in pieces that have about the same product of variances.

    Args:
        rows_ND: The rows, around their origin.
        pieces: How many pieces of equal length the axes are cut into.
    """
    variances_D, axes_DD = np.linalg.eigh((rows_ND.T @ rows_ND / len(rows_ND)).astype(np.float64))
    least = max(float(variances_D.max()), 1e-30) * _LEAST_VARIANCE
    logs_D = np.log(np.maximum(variances_D, least)) - np.log(least)
    dealt: list[list[int]] = [[] for _ in range(pieces)]
    totals = np.zeros(pieces)
    length = len(logs_D) // pieces
    for axis in np.argsort(-logs_D, kind="stable").tolist():
        piece = int(np.argmin(totals))
        dealt[piece].append(axis)
        totals[piece] = np.inf if len(dealt[piece]) == length else totals[piece] + logs_D[axis]
    order = [axis for piece in dealt for axis in piece]
    return np.ascontiguousarray(axes_DD[:, order].T.astype(np.float32))
