"""Defines the columns of vectors: those that a store holds, and shifts that are computed as they are read.

A row's index in a column is its position: positions count rows from 0, in the order of their row_ids.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctxbatch.arrays import Floats, Ints, Vectors, as_floats
from ctxbatch.formulas import ComputedShift
from ctxbatch.model.shift import shift_function

# Rows whose shifts are computed at a time, so that what is in between stays in the processor's cache.
_ROWS_IN_CACHE = 512


class Column(Protocol):
    """One kind of vector of all rows, as an array (rows, D)."""

    @property
    def dimension(self) -> int:
        """D."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batches(self) -> Iterator[Vectors]:
        """Yield the vectors of each record batch, in order."""

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the vectors of at most ``rows`` rows, in order, each time with the position of the first."""

    def take(self, positions: Ints) -> Vectors:
        """Return a copy of the vectors at these positions: shape (len(positions), D), in the same order."""


class StoredColumn:
    """A column of a store's files, memory-mapped: its blocks are views.

    Args:
        views: The vectors of each record batch.
        dimension: D.
        dtype: The stored type.
    """

    def __init__(self, views: Sequence[Vectors], dimension: int, dtype: npt.DTypeLike) -> None:
        self._views = views
        self.dimension = dimension
        self._dtype = dtype
        self._firsts = np.cumsum([0, *map(len, views)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def batches(self) -> Iterator[Vectors]:
        """Yield a view of each record batch."""
        yield from self._views

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors]]:
        """Yield views of at most ``rows`` rows, in order, each with the position of its first row."""
        for first, view in zip(self._firsts, self._views, strict=False):
            for begin in range(0, len(view), rows):
                yield int(first) + begin, view[begin : begin + rows]

    def take(self, positions: Ints) -> Vectors:
        """Return a copy of the vectors at these positions, in the stored type."""
        taken = np.empty((len(positions), self.dimension), self._dtype)
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        edges = np.searchsorted(ordered, self._firsts)
        for number in np.flatnonzero(np.diff(edges)).tolist():
            mine = slice(edges[number], edges[number + 1])
            taken[order[mine]] = self._views[number][ordered[mine] - self._firsts[number]]
        return taken


class ShiftColumn:
    """A shift that is computed from two columns of the same rows, in float32.

    Args:
        shift: Computes it of contextual and static vectors.
        contextual: The contextual vectors.
        static: The static vectors.
    """

    def __init__(
        self, shift: Callable[[Floats, Floats], Floats], contextual: StoredColumn, static: StoredColumn
    ) -> None:
        self._shift = shift
        self._contextual = contextual
        self._static = static
        self.dimension = contextual.dimension

    def __len__(self) -> int:
        return len(self._contextual)

    def batches(self) -> Iterator[Vectors]:
        """Yield the shifts of each record batch."""
        for contextual, static in zip(self._contextual.batches(), self._static.batches(), strict=True):
            yield self._computed(contextual, static)

    def blocks(self, rows: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the shifts of at most ``rows`` rows, in order, each with the position of its first row."""
        both = zip(self._contextual.blocks(rows), self._static.blocks(rows), strict=True)
        for (first, contextual), (_, static) in both:
            yield first, self._computed(contextual, static)

    def take(self, positions: Ints) -> Vectors:
        """Return the shifts at these positions."""
        return self._computed(self._contextual.take(positions), self._static.take(positions))

    def _computed(self, contextual: Vectors, static: Vectors) -> Floats:
        shift_ND = np.empty(contextual.shape, np.float32)
        for begin in range(0, len(contextual), _ROWS_IN_CACHE):
            part = slice(begin, begin + _ROWS_IN_CACHE)
            shift_ND[part] = self._shift(as_floats(contextual[part]), as_floats(static[part]))
        return shift_ND


def with_shifts(scanner: Any, names: Sequence[str], shifts: Mapping[str, ComputedShift]) -> Any:  # noqa: ANN401 (pyarrow.dataset.Scanner, slow to import)
    """Return a scanner over columns of another one and shifts computed from them; it can be read once.

    Args:
        scanner: Has the columns, and the vectors that the shifts need, in float32.
        names: The columns of the result, in order.
        shifts: Those of them that are computed.
    """
    import pyarrow.dataset as ds

    schema = scanner.projected_schema
    fields = [_shift_field(name, schema) if name in shifts else schema.field(name) for name in names]

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in scanner.to_batches():
            arrays = [_shift_of(batch, shifts[name]) if name in shifts else batch[name] for name in names]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    return ds.Scanner.from_batches(batches(), schema=pa.schema(fields))


def _shift_field(name: str, schema: pa.Schema) -> pa.Field:
    return pa.field(name, pa.list_(pa.float32(), schema.field("static").type.list_size))


def _shift_of(batch: pa.RecordBatch, shift: ComputedShift) -> pa.Array:
    contextual_ND, static_ND = (
        batch[name].flatten().to_numpy().reshape(len(batch), -1)
        for name in (f"contextual_{shift.layer}", "static")
    )
    shift_ND = shift_function(shift.formula, np)(contextual_ND, static_ND)
    return pa.FixedSizeListArray.from_arrays(pa.array(shift_ND.reshape(-1)), contextual_ND.shape[1])
