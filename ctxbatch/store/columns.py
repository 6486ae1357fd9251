"""Defines the columns of vectors: those that a store holds, and those that are computed as they are read.

A row's index in a column is its position: positions count rows from 0, in the order of their row_ids.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Floats, Ints, Vectors, as_floats
from ctxbatch.store.int8_vectors import Int8Vectors


class Column(Protocol):
    """One kind of vector of all rows, as an array (rows, D)."""

    @property
    def dimension(self) -> int:
        """D."""

    @property
    def rows_at_once(self) -> int:
        """How many rows are read at a time with the least effort: what is in between stays in the cache."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batches(self) -> Iterator[Vectors]:
        """Yield the vectors of each record batch, in order."""

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the vectors of at most ``rows`` rows, in order, each time with the position of the first."""

    def take(self, positions: Ints) -> Vectors:
        """Return a copy of the vectors at these positions: shape (len(positions), D), in the same order."""


class StoredColumn:
    """A column of a store's files, memory-mapped: its blocks are views, except those of int8 vectors.

    Args:
        views: The vectors of each record batch.
        dimension: D.
        dtype: The type of vectors that are read: the stored one, but float32 of int8 vectors.
    """

    def __init__(self, views: Sequence[Vectors | Int8Vectors], dimension: int, dtype: npt.DTypeLike) -> None:
        self.views = views
        self.holds_int8 = bool(views) and isinstance(views[0], Int8Vectors)
        # A copy of more rows leaves the cache: a search for one vector takes twice as long.
        self.rows_at_once = 1_024 if self.holds_int8 else 2_048
        self.dimension = dimension
        self._dtype = dtype
        self._firsts = np.cumsum([0, *map(len, views)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def batches(self) -> Iterator[Vectors]:
        """Yield the vectors of each record batch."""
        for view in self.views:
            yield view[:]

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the vectors of at most ``rows`` rows, in order, each time with the position of the first."""
        for first, view in zip(self._firsts, self.views, strict=False):
            for begin in range(0, len(view), rows):
                yield int(first) + begin, view[begin : begin + rows]

    def take(self, positions: Ints) -> Vectors:
        """Return a copy of the vectors at these positions."""
        taken = np.empty((len(positions), self.dimension), self._dtype)
        for view, inside, places in self._places(positions):
            taken[places] = view[inside]
        return taken

    def take_int8(self, positions: Ints) -> Int8Vectors:
        """Return a copy of the int8 vectors at these positions, as they are stored."""
        values_ND = np.empty((len(positions), self.dimension), np.int8)
        scale_N = np.empty(len(positions), np.float32)
        for view, inside, places in self._places(positions):
            assert isinstance(view, Int8Vectors)
            values_ND[places], scale_N[places] = view.values_ND[inside], view.scale_N[inside]
        return Int8Vectors(values_ND, scale_N)

    def _places(self, positions: Ints) -> Iterator[tuple[Vectors | Int8Vectors, Ints, Ints]]:
        """Yield each record batch that has some of the positions, their rows in it, and their places."""
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        edges = np.searchsorted(ordered, self._firsts)
        for number in np.flatnonzero(np.diff(edges)).tolist():
            mine = slice(edges[number], edges[number + 1])
            yield self.views[number], ordered[mine] - self._firsts[number], order[mine]


class ComputedColumn:
    """A column that is computed in float32 from others of the same rows, as it is read.

    Args:
        steps: The first computes float32 vectors (N, D) of those of each of them in float32, for any number
            of rows; each other one of those of the step before. None changes what it is given.
        sources: The others.
    """

    rows_at_once = 256

    def __init__(self, steps: Sequence[Callable[..., Floats]], sources: Sequence[StoredColumn]) -> None:
        self._steps = steps
        self._sources = sources
        self.dimension = sources[0].dimension

    def __len__(self) -> int:
        return len(self._sources[0])

    def batches(self) -> Iterator[Vectors]:
        """Yield the vectors of each record batch."""
        for views in zip(*(source.views for source in self._sources), strict=True):
            yield self._computed(views)

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the vectors of at most ``rows`` rows, in order, each time with the position of the first."""
        for blocks in zip(*(source.blocks(rows) for source in self._sources), strict=True):
            yield blocks[0][0], self._computed([views for _, views in blocks])

    def take(self, positions: Ints) -> Vectors:
        """Return the vectors at these positions."""
        return self._computed([source.take(positions) for source in self._sources])

    def _computed(self, sources: Sequence[Vectors | Int8Vectors]) -> Floats:
        if len(sources[0]) <= self.rows_at_once:
            return self._some([source[:] for source in sources])
        vectors_ND = np.empty((len(sources[0]), self.dimension), np.float32)
        for begin in range(0, len(vectors_ND), self.rows_at_once):
            part = slice(begin, begin + self.rows_at_once)
            vectors_ND[part] = self._some([source[part] for source in sources])
        return vectors_ND

    def _some(self, sources: Sequence[Vectors]) -> Floats:
        found = [source if source.dtype == np.float32 else as_floats(source) for source in sources]
        for step in self._steps:
            found = [step(*found)]
        return found[0]
