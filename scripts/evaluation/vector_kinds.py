"""Give every kind of vector of marked words at a layer, plain or standardised.

A standardised vector has, in each dimension, the mean over all rows of the store taken off, and is divided by
the standard deviation over all rows: of contextual vectors and of each shift alike, as a store would do.
Array names end in the letters of their shape: K marked words, N rows, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR
from scripts.evaluation.marked_words import Floats, Ints, MarkedWords, shift

State = Literal["plain", "standardised"]
STATES: tuple[State, ...] = get_args(State)
SHIFTS: dict[str, dict[str, float]] = {
    "log_ratio": {"floor": DEFAULT_FLOOR},
    "asinh": {"delta": DEFAULT_DELTA},
    "difference": {},
}
KINDS = ("contextual", *SHIFTS)
_BLOCK = 8192
# A dimension whose deviation is a smaller share of its size is left as it is: that is rounding.
_HARDLY = 1e-6


@dataclass(frozen=True, slots=True)
class Moments:
    """The mean and the standard deviation of each dimension, (D,); 0 and 1 for those that hardly vary."""

    mean_D: Floats
    deviation_D: Floats

    def standardise(self, vectors_KD: Floats) -> Floats:
        """Return standardised vectors, (K, D), in float32."""
        return ((vectors_KD - self.mean_D) / self.deviation_D).astype(np.float32)


def kinds_of(contextual_KD: Floats, static_KD: Floats) -> dict[str, Floats]:
    """Return the vectors of each kind, (K, D)."""
    shifts = {
        name: shift(name, contextual_KD, static_KD, **parameters) for name, parameters in SHIFTS.items()
    }
    return {"contextual": contextual_KD, **shifts}


def vectors_of(
    found: MarkedWords, layer: int, sides: Sequence[Sequence[Ints]], state: State
) -> dict[str, list[Floats]]:
    """Return the vectors of each kind at a layer, (K, D) for each list of marked words.

    Args:
        found: The store of the words.
        layer: The layer.
        sides: Lists of marked words, each given by its rows.
        state: Whether they are to be standardised.
    """
    each = [
        kinds_of(found.vectors(f"contextual_{layer}", rows), found.vectors("static", rows)) for rows in sides
    ]
    vectors = {kind: [kinds[kind] for kinds in each] for kind in KINDS}
    if state == "plain":
        return vectors
    moments = measure_moments(found, layer)
    return {kind: [moments[kind].standardise(side) for side in vectors[kind]] for kind in KINDS}


def measure_moments(found: MarkedWords, layer: int) -> dict[str, Moments]:
    """Return the moments of each kind at a layer, over all rows of the store."""
    columns = [found.store.column(name) for name in (f"contextual_{layer}", "static")]
    zeros = np.zeros(columns[0].dimension)
    sums = dict.fromkeys(KINDS, zeros)
    squares = dict.fromkeys(KINDS, zeros)
    for blocks in zip(*(column.blocks(_BLOCK) for column in columns), strict=True):
        for kind, vectors_ND in kinds_of(*(block.astype(np.float32) for _, block in blocks)).items():
            sums[kind] = sums[kind] + vectors_ND.sum(axis=0, dtype=np.float64)
            squares[kind] = squares[kind] + np.square(vectors_ND, dtype=np.float64).sum(axis=0)
    n_rows = len(columns[0])
    return {kind: _moments(sums[kind] / n_rows, squares[kind] / n_rows) for kind in KINDS}


def _moments(mean_D: Floats, mean_square_D: Floats) -> Moments:
    deviation_D = np.sqrt(np.maximum(mean_square_D - mean_D**2, 0))
    varies_D = deviation_D > _HARDLY * np.sqrt(mean_square_D)
    return Moments(np.where(varies_D, mean_D, 0), np.where(varies_D, deviation_D, 1))
