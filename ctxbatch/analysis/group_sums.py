"""Adds up the vectors of groups of rows, and computes mean cosines from the sums.

A group is a word's occurrences or a sentence's words. Reads rows in blocks, and never holds a whole group.
Array names end in the letters of their shape: N rows, G groups, D hidden size.
"""

import numpy as np
import numpy.typing as npt

from ctxbatch.analysis.layer_vectors import LayerVectors
from ctxbatch.arrays import Floats, Ints
from ctxbatch.search.exact import normalised

_BLOCK_ROWS = 2_048

Doubles = npt.NDArray[np.float64]


class Groups:
    """Rows in groups; the rows of a group are adjacent.

    Args:
        positions_N: The positions of the rows.
        sizes_G: The number of rows in each group; at least one.
    """

    def __init__(self, positions_N: Ints, sizes_G: Ints) -> None:
        self.positions_N = positions_N
        self.sizes_G = sizes_G
        self.group_N = np.repeat(np.arange(len(sizes_G)), sizes_G)

    def __len__(self) -> int:
        return len(self.positions_N)


class Sums:
    """The sums of one kind of vector in each group: of vectors, unit vectors, norms and defined shares."""

    def __init__(self, sizes_G: Ints, dimension: int) -> None:
        self.sizes_G = sizes_G
        self.nonzero_G: Doubles = np.zeros(len(sizes_G))
        self.norm_G: Doubles = np.zeros(len(sizes_G))
        self.defined_G: Doubles | None = None
        self.vector_GD: Doubles = np.zeros((len(sizes_G), dimension))
        self.unit_GD: Doubles = np.zeros((len(sizes_G), dimension))

    def add(self, group_N: Ints, vectors_ND: Floats, defined_N: Floats | None) -> None:
        """Add each row to its group; the rows of a group must be adjacent."""
        first_N = np.flatnonzero(np.diff(group_N, prepend=-1))
        groups = group_N[first_N]
        norms_N = np.linalg.norm(vectors_ND, axis=1)
        sums = (
            (self.nonzero_G, norms_N > 0),
            (self.norm_G, norms_N),
            (self.vector_GD, vectors_ND),
            (self.unit_GD, normalised(vectors_ND)),
        )
        for total, values in sums:
            total[groups] += np.add.reduceat(values, first_N, axis=0, dtype=np.float64)
        if defined_N is not None:
            if self.defined_G is None:
                self.defined_G = np.zeros(len(self.sizes_G))
            self.defined_G[groups] += np.add.reduceat(defined_N, first_N, dtype=np.float64)


def add_up(vectors: LayerVectors, rows: Groups) -> dict[str, Sums]:
    """Return the sums of each kind of vector of these rows, read in blocks."""
    found: dict[str, Sums] = {}
    for begin in range(0, len(rows), _BLOCK_ROWS):
        part = slice(begin, begin + _BLOCK_ROWS)
        of_kinds, defined_N = vectors.take(rows.positions_N[part])
        for kind, vectors_ND in of_kinds.items():
            sums = found.setdefault(kind, Sums(rows.sizes_G, vectors_ND.shape[1]))
            sums.add(rows.group_N[part], vectors_ND, defined_N if kind == "log_ratio" else None)
    return found


def mean_within(sums: Sums) -> float | None:
    """Return the mean cosine of two different rows of a group, averaged over groups of two and more.

    For n rows with unit vectors u, of which m are nonzero, the n (n - 1) cosines add up to |Σu|² - m.
    """
    many_G = sums.sizes_G > 1
    if not many_G.any():
        return None
    n_G = sums.sizes_G[many_G]
    squared_G = np.square(sums.unit_GD[many_G]).sum(axis=1)
    return float(np.mean((squared_G - sums.nonzero_G[many_G]) / (n_G * (n_G - 1))))


def mean_between(sums: Sums) -> float | None:
    """Return the mean cosine of two rows of different groups; ``None`` if there is only one group."""
    n_pairs = sums.sizes_G.sum() ** 2 - np.square(sums.sizes_G).sum()
    if not n_pairs:
        return None
    all_pairs = np.square(sums.unit_GD.sum(axis=0)).sum()
    return float((all_pairs - np.square(sums.unit_GD).sum()) / n_pairs)


def mean_to_centre(sums: Sums) -> float:
    """Return the mean cosine of a group's rows with the mean of their vectors, averaged over groups.

    For one group, it is the dot product of the mean unit vector and the direction of the sum of the vectors.
    """
    product_G = np.einsum("gd,gd->g", sums.unit_GD, sums.vector_GD)
    scale_G = np.linalg.norm(sums.vector_GD, axis=1) * sums.sizes_G
    return float(np.mean(np.divide(product_G, scale_G, out=np.zeros_like(product_G), where=scale_G > 0)))
