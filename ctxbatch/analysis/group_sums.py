"""Adds up the vectors of groups of rows, and says which mean cosines follow from the sums.

A group is a word's occurrences or a sentence's words. Rows are read in blocks, and no group is ever held.
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
    """Rows in groups, group after group.

    Args:
        positions_N: The rows' positions.
        sizes_G: How many of them are in each group; at least one.
    """

    def __init__(self, positions_N: Ints, sizes_G: Ints) -> None:
        self.positions_N = positions_N
        self.sizes_G = sizes_G
        self.group_N = np.repeat(np.arange(len(sizes_G)), sizes_G)

    def __len__(self) -> int:
        return len(self.positions_N)


class Sums:
    """What one kind's vectors add up to in each group: vectors, unit vectors, norms, shares defined."""

    def __init__(self, sizes_G: Ints, dimension: int) -> None:
        self.sizes_G = sizes_G
        self.nonzero_G: Doubles = np.zeros(len(sizes_G))
        self.norm_G: Doubles = np.zeros(len(sizes_G))
        self.defined_G: Doubles | None = None
        self.vector_GD: Doubles = np.zeros((len(sizes_G), dimension))
        self.unit_GD: Doubles = np.zeros((len(sizes_G), dimension))

    def add(self, group_N: Ints, vectors_ND: Floats, defined_N: Floats | None) -> None:
        """Add rows, each to its group; those of a group stand together."""
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
    """Add up the vectors of some rows by kind, in blocks."""
    found: dict[str, Sums] = {}
    for begin in range(0, len(rows), _BLOCK_ROWS):
        part = slice(begin, begin + _BLOCK_ROWS)
        of_kinds, defined_N = vectors.take(rows.positions_N[part])
        for kind, vectors_ND in of_kinds.items():
            sums = found.setdefault(kind, Sums(rows.sizes_G, vectors_ND.shape[1]))
            sums.add(rows.group_N[part], vectors_ND, defined_N if kind == "log_ratio" else None)
    return found


def mean_within(sums: Sums) -> float | None:
    """Return the mean cosine of two different rows of a group, over groups of two and more.

    Of n rows with the unit vectors u, m of them not zero, the sum of all n (n - 1) cosines is |Σu|² - m.
    """
    many_G = sums.sizes_G > 1
    if not many_G.any():
        return None
    n_G = sums.sizes_G[many_G]
    squared_G = np.square(sums.unit_GD[many_G]).sum(axis=1)
    return float(np.mean((squared_G - sums.nonzero_G[many_G]) / (n_G * (n_G - 1))))


def mean_between(sums: Sums) -> float | None:
    """Return the mean cosine of two rows of different groups; ``None`` where there is one group."""
    n_pairs = sums.sizes_G.sum() ** 2 - np.square(sums.sizes_G).sum()
    if not n_pairs:
        return None
    all_pairs = np.square(sums.unit_GD.sum(axis=0)).sum()
    return float((all_pairs - np.square(sums.unit_GD).sum()) / n_pairs)


def mean_to_centre(sums: Sums) -> float:
    """Return the mean cosine of a group's rows with the mean of their vectors, over groups.

    Which is the product of the mean of their unit vectors with the direction of their sum.
    """
    product_G = np.einsum("gd,gd->g", sums.unit_GD, sums.vector_GD)
    scale_G = np.linalg.norm(sums.vector_GD, axis=1) * sums.sizes_G
    return float(np.mean(np.divide(product_G, scale_G, out=np.zeros_like(product_G), where=scale_G > 0)))
