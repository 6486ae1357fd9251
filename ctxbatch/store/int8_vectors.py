"""Stores vectors as int8 values with a scale for each, and gives them back as float32.

A row is divided by its scale, its largest absolute value / 127 in float32, and rounded half to even. Letters
of shapes: N rows, D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Floats, Ints

LARGEST = 127
_SCALE = "_scale"
# A larger scale would give back infinities.
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(LARGEST), np.float32(0))
# Rows at a time, so that what is in between stays in the processor's cache.
_ROWS_IN_CACHE = 256


def scale_of(column: str) -> str:
    """Return the name of the column that holds the scales of a column of int8 vectors."""
    return column + _SCALE


def is_scale(name: str) -> bool:
    """Return True if a column of words.arrow has the name of one of scales."""
    return name.endswith(_SCALE)


@dataclass(frozen=True, slots=True, eq=False)
class Int8Vectors:
    """Vectors as int8 values (N, D) and a scale of each, (N,) in float32.

    Like an array (N, D), it can be sliced, and indexed with an array of rows; then it gives float32 vectors.
    """

    values_ND: npt.NDArray[np.int8]
    scale_N: Floats

    @classmethod
    def of(cls, vectors_ND: Floats) -> "Int8Vectors":
        """Quantise finite float32 vectors into their own memory, which is overwritten; zeros have scale 0.

        A buffer's vectors can fill gigabytes of a file, and these would else be copied into memory.
        """
        vectors_ND = np.ascontiguousarray(vectors_ND)
        values_ND = vectors_ND.reshape(-1).view(np.int8)[: vectors_ND.size].reshape(vectors_ND.shape)
        scale_N = np.empty(len(vectors_ND), np.float32)
        for begin in range(0, len(vectors_ND), _ROWS_IN_CACHE):
            rows = slice(begin, begin + _ROWS_IN_CACHE)
            scale_N[rows] = np.abs(vectors_ND[rows]).max(axis=1) / np.float32(LARGEST)
            np.minimum(scale_N[rows], _LARGEST_SCALE, out=scale_N[rows])
            steps_ND = in_steps(vectors_ND[rows], scale_N[rows])
            np.rint(steps_ND, out=steps_ND)
            # The scale of a row of the smallest numbers of float32 is itself rounded.
            np.clip(steps_ND, -LARGEST, LARGEST, out=steps_ND)
            values_ND[rows] = steps_ND  # which lie before the rows that are not read yet
        return cls(values_ND, scale_N)

    def __len__(self) -> int:
        return len(self.values_ND)

    def __getitem__(self, rows: slice | Ints) -> Floats:
        vectors_ND: Floats = self.values_ND[rows].astype(np.float32)
        vectors_ND *= self.scale_N[rows, None]
        return vectors_ND

    @property
    def sound(self) -> bool:
        """True if quantising can give these values and scales."""
        return bool(
            (np.isfinite(self.scale_N) & (self.scale_N >= 0)).all() and (self.values_ND >= -LARGEST).all()
        )


def in_steps(vectors_ND: Floats, scale_N: Floats) -> Floats:
    """Return vectors in units of their scales; as they are, and so nearly 0, where the scale is 0."""
    divisor_N: Floats = np.where(scale_N > 0, scale_N, np.float32(1)).astype(np.float32)
    return vectors_ND / divisor_N[:, None]
