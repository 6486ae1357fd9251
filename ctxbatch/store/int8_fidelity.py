"""Measures what int8 keeps of vectors while they are written, on the first rows of each shard.

Letters of shapes: N rows, Q rows that are queries, D hidden size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.sealed import Count
from ctxbatch.store.int8_vectors import Int8Vectors, in_steps

_ROWS, _QUERIES, _NEAREST = 512, 64, 10
# Cosines closer than this are equal: rounding tells them apart.
_EQUAL = 1e-6


@dataclass(frozen=True, slots=True)
class Int8Sums:
    """Sums over some rows of a column; those of several shards can be added.

    Args:
        rows: The rows compared; rows of zeros are not.
        cosine: The sum of the cosines of each row before and after.
        worst: The least of them; 1 without rows.
        neighbours: How many nearest rows were sought, ten a query; 0 if there were too few rows.
        kept: How many of them are also nearest before; one as near as the tenth counts.
    """

    rows: Count = 0
    cosine: float = 0.0
    worst: float = 1.0
    neighbours: Count = 0
    kept: Count = 0

    def __add__(self, other: "Int8Sums") -> "Int8Sums":
        return Int8Sums(
            self.rows + other.rows,
            self.cosine + other.cosine,
            min(self.worst, other.worst),
            self.neighbours + other.neighbours,
            self.kept + other.kept,
        )


@dataclass(frozen=True, slots=True)
class Int8Fidelity:
    """What int8 keeps of a column's float32 vectors, on a sample of ``rows`` rows.

    ``cosine`` is the mean cosine of a row before and after, ``worst`` the least. ``neighbours`` is the share
    of a row's ten nearest rows, within the sample of its shard, that stay; ``None`` if shards are too small.
    """

    column: str
    rows: int
    cosine: float
    worst: float
    neighbours: float | None

    @classmethod
    def of(cls, column: str, sums: Iterable[Int8Sums]) -> "Int8Fidelity | None":
        """Return the fidelity by the sums of all shards, in order; ``None`` without rows."""
        total = sum(sums, Int8Sums())
        if not total.rows:
            return None
        kept = round(total.kept / total.neighbours, 4) if total.neighbours else None
        return cls(column, total.rows, round(total.cosine / total.rows, 6), round(total.worst, 6), kept)

    def __str__(self) -> str:
        kept = "" if self.neighbours is None else f"; keeps {self.neighbours:.1%} of the ten nearest in these"
        return (
            f"{self.column}: cosine {self.cosine:.5f} to float32, at least {self.worst:.5f}, of "
            f"{self.rows:,} rows, up to {_ROWS} a shard{kept}"
        )


class Int8Sample:
    """The first rows of a column in a shard, before and after; rows of zeros are left out."""

    def __init__(self) -> None:
        self._exact: list[Floats] = []
        self._rounded: list[Floats] = []
        self._room = _ROWS

    def add(self, vectors_ND: Floats) -> None:
        """Take rows until there are enough."""
        some_ND = vectors_ND[: self._room]
        self._room -= len(some_ND)
        stored = Int8Vectors.of(some_ND.copy())
        kept_N = np.flatnonzero(stored.scale_N)
        # Scales do not matter to a cosine, and lengths in steps cannot leave the range of float32.
        self._exact.append(_unit(in_steps(some_ND[kept_N], stored.scale_N[kept_N])))
        self._rounded.append(_unit(stored.values_ND[kept_N].astype(np.float32)))

    def sums(self) -> Int8Sums:
        """Compare the rows."""
        n_rows = sum(map(len, self._exact))
        if not n_rows:
            return Int8Sums()
        exact_ND, rounded_ND = np.concatenate(self._exact), np.concatenate(self._rounded)
        cosine_N = np.einsum("nd,nd->n", exact_ND, rounded_ND)
        sought = kept = 0
        if n_rows > 2 * _NEAREST:
            query_Q = np.linspace(0, n_rows - 1, min(n_rows, _QUERIES)).astype(np.int64)
            sought, kept = len(query_Q) * _NEAREST, _kept(exact_ND, rounded_ND, query_Q)
        cosine = float(cosine_N.sum(dtype=np.float64))
        return Int8Sums(n_rows, cosine, min(1.0, float(cosine_N.min())), sought, kept)


def _unit(vectors_ND: Floats) -> Floats:
    vectors_ND /= np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))[:, None]
    return vectors_ND


def _kept(exact_ND: Floats, rounded_ND: Floats, query_Q: Ints) -> int:
    """Return how many of the nearest rows after are as near before as the tenth is."""
    before_QN, after_QN = (units_ND[query_Q] @ units_ND.T for units_ND in (exact_ND, rounded_ND))
    for scores_QN in (before_QN, after_QN):
        scores_QN[np.arange(len(query_Q)), query_Q] = -np.inf
    tenth_Q = np.partition(before_QN, -_NEAREST, axis=1)[:, -_NEAREST]
    found_QN = np.argpartition(after_QN, -_NEAREST, axis=1)[:, -_NEAREST:]
    return int((np.take_along_axis(before_QN, found_QN, 1) >= tenth_Q[:, None] - _EQUAL).sum())
