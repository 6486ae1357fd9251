"""Reads the vectors of one layer, of every kind that can be measured there: contextual ones and the shifts.

Owns which kinds and which layers a store has. Array names end in the letters of their shape: N rows, D hidden
size.
"""

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.model.shift import SHIFTS, is_defined
from ctxbatch.store.reader import Store


def kinds_of(config: ResolvedConfig) -> tuple[str, ...]:
    """Return the kinds of vectors that can be measured in a store, in the order in which they are shown.

    All shifts follow from static and contextual vectors; without both, the stored shift is what there is.

    Raises:
        InputError: There are none.
    """
    kinds = ["contextual"] if "contextual" in config.vectors or _has_layer_0(config) else []
    if {"static", "contextual"} <= set(config.vectors):
        kinds += SHIFTS
    elif config.shift is not None:
        kinds.append(config.shift)
    if not kinds:
        raise InputError(
            "the store holds raw rows of the embedding matrix alone, which are not a layer: "
            "run with --vectors static,contextual into another -o"
        )
    return tuple(kinds)


def _has_layer_0(config: ResolvedConfig) -> bool:
    return "static" in config.vectors and config.static == "embeddings"


def layers_of(config: ResolvedConfig) -> tuple[int, ...]:
    """Return the layers that can be measured, ascending; 0 is the embedding layer's output."""
    return (*([0] if _has_layer_0(config) else []), *sorted(config.layers))


def floor_of(config: ResolvedConfig) -> float:
    """Return the floor of log_ratio: the store's, or the default."""
    return DEFAULT_FLOOR if config.floor is None else config.floor


def delta_of(config: ResolvedConfig) -> float:
    """Return the delta of asinh: the store's, or the default."""
    return DEFAULT_DELTA if config.delta is None else config.delta


class LayerVectors:
    """The vectors of one layer, of every kind that can be measured there."""

    def __init__(self, store: Store, layer: int) -> None:
        config = store.config
        names = {"contextual": f"contextual_{layer}", "shift": f"shift_{layer}", "static": "static"}
        if layer == 0:
            names = {"contextual": "static"}
        elif {"static", "contextual"} <= set(config.vectors):
            del names["shift"]  # it is computed, with the others
        self.layer = layer
        self._config = config
        self._columns = {kind: store.column(name) for kind, name in names.items() if name in config.columns}

    def take(self, positions_N: Ints) -> tuple[dict[str, Floats], Floats | None]:
        """Return the vectors (N, D) of some rows by kind, in float32, and log_ratio's defined share (N,).

        The second is ``None`` where there is no log_ratio.
        """
        config = self._config
        taken = {kind: column.take(positions_N).astype(np.float32) for kind, column in self._columns.items()}
        static_ND = taken.pop("static", None)
        if "shift" in taken:
            taken[str(config.shift)] = taken.pop("shift")
        elif "contextual" in taken and static_ND is not None:
            both = taken["contextual"], static_ND, np
            options: dict[str, dict[str, float]] = {
                "log_ratio": {"floor": floor_of(config)},
                "asinh": {"delta": delta_of(config)},
            }
            taken |= {kind: shift(*both, **options.get(kind, {})) for kind, shift in SHIFTS.items()}
            return taken, is_defined(*both[:2], floor=floor_of(config)).mean(axis=1, dtype=np.float32)
        if "log_ratio" in taken:  # a stored one does not tell "no change" from "not defined"
            return taken, (taken["log_ratio"] != 0).mean(axis=1, dtype=np.float32)
        return taken, None
