"""Measures how close int8 vectors are to fp32 ones, on the same text.

Letters of shapes: N rows, Q rows that are queries, D hidden size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.model.word_vectors import WordVectors

_QUERIES, _NEAREST = 400, 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What int8 keeps of the vectors of one layer.

    ``cosine`` is the mean cosine of a row's contextual vectors. ``contextual`` and ``difference`` are the
    share of a row's ten nearest rows that stay the same, by the contextual vector and by contextual less
    static. ``rows`` is the number of rows compared.
    """

    layer: int
    rows: int
    cosine: float
    contextual: float
    difference: float

    @property
    def worst(self) -> float:
        """The smaller share of nearest rows."""
        return min(self.contextual, self.difference)

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.3f} to fp32; keeps {self.contextual:.0%} of the ten nearest neighbours by "
            f"contextual vector and {self.difference:.0%} by difference "
            f"(layer {self.layer}, {self.rows:,} words)"
        )


def compare(layer: int, fp32: Iterable[WordVectors], int8: Iterable[WordVectors]) -> Fidelity | None:
    """Compare the vectors of the same batches; ``None`` if they have too few rows.

    Args:
        layer: Their layer.
        fp32: Contextual vectors and differences, in this order.
        int8: The same in int8.
    """
    exact, rounded = (np.concatenate([each.vectors_CRD for each in found], 1) for found in (fp32, int8))
    n_rows = exact.shape[1]
    if n_rows < 2 * _NEAREST:
        return None
    query_Q = np.random.default_rng(_SEED).permutation(n_rows)[:_QUERIES]
    pairs = [(_unit(one), _unit(other)) for one, other in zip(exact, rounded, strict=True)]
    kept = [_kept(one, other, query_Q) for one, other in pairs]
    cosine = float((pairs[0][0] * pairs[0][1]).sum(axis=1).mean())
    return Fidelity(layer, n_rows, round(cosine, 4), *(round(share, 4) for share in kept))


def _unit(vectors_ND: Floats) -> Floats:
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: Floats = vectors_ND / np.maximum(lengths_N, np.finfo(np.float32).tiny)
    return unit_ND


def _kept(exact_ND: Floats, rounded_ND: Floats, query_Q: Ints) -> float:
    """Return the share of the queries' nearest rows that both have."""
    nearest = [_nearest(vectors_ND, query_Q) for vectors_ND in (exact_ND, rounded_ND)]
    same = [len(np.intersect1d(one, other)) for one, other in zip(*nearest, strict=True)]
    return float(np.mean(same)) / _NEAREST


def _nearest(vectors_ND: Floats, query_Q: Ints) -> Ints:
    """Return the nearest other rows of each query, in no order: (Q, 10)."""
    scores_QN = vectors_ND[query_Q] @ vectors_ND.T
    scores_QN[np.arange(len(query_Q)), query_Q] = -np.inf
    nearest: Ints = np.argpartition(-scores_QN, _NEAREST, axis=1)[:, :_NEAREST]
    return nearest
