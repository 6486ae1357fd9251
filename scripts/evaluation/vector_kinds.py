"""Give every kind of vector of marked words at a layer, plain or standardised.

Contextual vectors and each shift are standardised by the moments of all rows of the store.
Array names end in the letters of their shape: K marked words, N rows, D hidden size.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from ctxbatch.formulas import SHIFT_KINDS, ShiftFormula
from scripts.evaluation.marked_words import Floats, Ints, MarkedWords, shift

State = Literal["plain", "standardised"]
STATES: tuple[State, ...] = get_args(State)
SHIFTS: dict[str, dict[str, float]] = {
    name: ShiftFormula.of(kind).parameters for name, kind in SHIFT_KINDS.items()
}
KINDS = ("contextual", *SHIFTS)


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
    columns = {kind: found.store.config.column(f"{kind}_{layer}") for kind in KINDS}
    standardisers = {kind: found.store.moments.of(name).standardiser() for kind, name in columns.items()}
    return {kind: [standardisers[kind].of(side) for side in vectors[kind]] for kind in KINDS}
