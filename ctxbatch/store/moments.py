"""Adds up the moments of vectors, and standardises vectors by them.

Moments are the count, the sum and the sum of squares of each dimension, in float64. Equal vectors in equal
record batches give equal bits: only additions of one value at a time, which no library spreads over threads.
Array names end in the letters of their shape: N rows, D hidden size.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Floats, Vectors, as_floats
from ctxbatch.store.int8_vectors import Int8Vectors

Doubles = npt.NDArray[np.float64]
# Rows that are added up at a time, so that they stay in the processor's cache.
_ROWS_IN_CACHE = 128
# A dimension hardly varies below this share of the median standard deviation.
_STILL = 1e-3
# What float64 loses of a sum of 10^9 values, with room.
_ROUNDING = 1e-9
_DOUBLE = np.dtype("<f8")


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The moments of a column of vectors: the count, and the sum and the sum of squares of each dimension."""

    count: int
    sum_D: Doubles
    squares_D: Doubles

    @classmethod
    def none(cls, dimension: int) -> "Moments":
        """Return the moments of no rows."""
        return cls(0, np.zeros(dimension), np.zeros(dimension))

    @classmethod
    def of(cls, batches: Iterable[Vectors | Int8Vectors], dimension: int) -> "Moments":
        """Return the moments of the vectors (N, D) of record batches, in their order."""
        total = cls.none(dimension)
        for vectors_ND in batches:
            total = total.with_batch(vectors_ND)
        return total

    def with_batch(self, vectors_ND: Vectors | Int8Vectors) -> "Moments":
        """Return the moments of these vectors and the rows of one more record batch."""
        sum_D, squares_D = self.sum_D.copy(), self.squares_D.copy()
        taken_once_ND = np.empty((_ROWS_IN_CACHE, len(sum_D)))  # asking for memory takes longer than adding
        for begin in range(0, len(vectors_ND), _ROWS_IN_CACHE):
            vectors = as_floats(vectors_ND[begin : begin + _ROWS_IN_CACHE])
            some_ND = taken_once_ND[: len(vectors)]
            some_ND[:] = vectors
            sum_D += some_ND.sum(axis=0)
            some_ND *= some_ND
            squares_D += some_ND.sum(axis=0)
        return Moments(self.count + len(vectors_ND), sum_D, squares_D)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sum_D + other.sum_D, self.squares_D + other.squares_D)

    def nearly_equals(self, other: "Moments") -> bool:
        """Return True if both can be of the same vectors, however many were added up at a time."""
        size_D = np.sqrt(self.count * self.squares_D)  # no sum is larger than this (Cauchy and Schwarz)
        return self.count == other.count and bool(
            (abs(self.sum_D - other.sum_D) <= _ROUNDING * size_D).all()
            and (abs(self.squares_D - other.squares_D) <= _ROUNDING * self.squares_D).all()
        )

    def as_text(self) -> str:
        """Return the sums and the sums of squares as a JSON file holds them, beside the count."""
        return _as_text(self.sum_D, self.squares_D)

    @classmethod
    def from_text(cls, text: str, count: int, dimension: int) -> "Moments":
        """Return the moments of the output of `as_text`.

        Raises:
            ValueError: It is none, or of another dimension.
        """
        return cls(count, *_of_text(text, dimension))

    def standardiser(self) -> "Standardiser":
        """Return what standardises vectors by these moments; those of no row leave them as they are."""
        if not self.count:
            return Standardiser(np.zeros_like(self.sum_D), np.ones_like(self.sum_D))
        mean_D = self.sum_D / self.count
        deviation_D = np.sqrt(np.maximum(self.squares_D / self.count - mean_D**2, 0))
        varies_D = deviation_D > _STILL * np.median(deviation_D)
        return Standardiser(
            mean_D, np.where(varies_D, deviation_D, 1.0), tuple(np.flatnonzero(~varies_D).tolist())
        )


@dataclass(frozen=True, slots=True, eq=False)
class Standardiser:
    """Takes from each dimension of a vector its mean, and divides it by its standard deviation.

    As in Timkey and van Schijndel (2021), "All Bark and No Bite: Rogue Dimensions in Transformer Language
    Models Obscure Representational Quality", EMNLP. The dimensions of ``still`` hardly vary: dividing would
    blow up their roundings, so that their ``scale_D`` is 1.
    """

    mean_D: Doubles
    scale_D: Doubles
    still: tuple[int, ...] = ()

    def of(self, vectors_ND: Floats) -> Floats:
        """Return the standardised vectors (N, D) of float32 vectors."""
        standardised_ND: Floats = vectors_ND - self.mean_D.astype(np.float32)
        standardised_ND *= (1 / self.scale_D).astype(np.float32)
        return standardised_ND

    def equals(self, other: "Standardiser") -> bool:
        """Return True if both give the same bits."""
        return np.array_equal(self.mean_D, other.mean_D) and np.array_equal(self.scale_D, other.scale_D)

    def as_text(self) -> str:
        """Return the means and the scales as JSON files hold them."""
        return _as_text(self.mean_D, self.scale_D)

    @classmethod
    def from_text(cls, text: str, dimension: int) -> "Standardiser":
        """Return the standardiser of the output of `as_text`.

        Raises:
            ValueError: It is none, or of another dimension.
        """
        mean_D, scale_D = _of_text(text, dimension)
        if (scale_D <= 0).any():
            raise ValueError("its scales are not positive")
        return cls(mean_D, scale_D)


def moments_as_bytes(moments: Sequence[Moments]) -> bytes:
    """Return the moments of a shard's columns as a file of numpy: sums and sums of squares, (C, 2, D)."""
    stream = io.BytesIO()
    np.save(stream, np.array([(each.sum_D, each.squares_D) for each in moments], _DOUBLE))
    return stream.getvalue()


def moments_of_bytes(raw: bytes, count: int, n_columns: int, dimension: int) -> list[Moments]:
    """Return the moments of the output of `moments_as_bytes`; the count is known from elsewhere.

    Raises:
        ValueError: It is none, or of other columns.
    """
    stream = io.BytesIO(raw)
    try:
        values = np.load(stream, allow_pickle=False)
    except (EOFError, OSError, SyntaxError, TypeError, UnicodeDecodeError) as error:
        raise ValueError("it is no file of numpy") from error
    if not isinstance(values, np.ndarray) or values.dtype != _DOUBLE or stream.read(1):
        raise ValueError("it does not hold moments")
    if values.shape != (n_columns, 2, dimension):
        raise ValueError(f"it does not hold the moments of {n_columns} columns of {dimension} dimensions")
    return [Moments(count, *_checked(*of_column)) for of_column in values]


def _as_text(*arrays_D: Doubles) -> str:
    """Return arrays of one length as base64 of their little-endian bytes."""
    return base64.b64encode(np.concatenate(arrays_D).astype(_DOUBLE).tobytes()).decode()


def _of_text(text: str, dimension: int) -> tuple[Doubles, Doubles]:
    """Return the two arrays (D,) of the output of `_as_text`.

    Raises:
        ValueError: It holds no two arrays of this length, or values that are not finite.
    """
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 2 * dimension * _DOUBLE.itemsize:
        raise ValueError(f"its moments are not of {dimension} dimensions")
    return _checked(*np.frombuffer(raw, _DOUBLE).astype(np.float64).reshape(2, dimension))


def _checked(first_D: Doubles, second_D: Doubles) -> tuple[Doubles, Doubles]:
    if not (np.isfinite(first_D).all() and np.isfinite(second_D).all()):
        raise ValueError("its moments are not finite")
    return first_D, second_D
