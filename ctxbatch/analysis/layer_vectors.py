"""Reads or computes the vectors of one layer, of every kind that can be measured: contextual, and the shifts.

Owns which kinds and which layers a store has. Array names end in the letters of their shape: N rows, D hidden
size.
"""

from dataclasses import dataclass

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.model.shift import SHIFTS, is_defined
from ctxbatch.store.reader import Store


def kinds_of(config: ResolvedConfig) -> tuple[str, ...]:
    """Return the kinds of vectors that can be measured in a store, in their order of display.

    All shifts are computed from static and contextual vectors; without both, only a stored shift is left.

    Raises:
        InputError: The store has no such kind.
    """
    kinds = ["contextual"] if "contextual" in config.vectors or _has_layer_0(config) else []
    if {"static", "contextual"} <= set(config.vectors):
        kinds += SHIFTS
    elif config.shift is not None:
        kinds.append(config.shift)
    if not kinds:
        raise InputError(
            "the store holds only raw rows of the embedding matrix, which are not a layer: "
            "run with --vectors static,contextual and another -o"
        )
    return tuple(kinds)


def _has_layer_0(config: ResolvedConfig) -> bool:
    return "static" in config.vectors and config.static == "embeddings"


def layers_of(config: ResolvedConfig) -> tuple[int, ...]:
    """Return the layers that can be measured, ascending; 0 is the embedding layer's output."""
    return (*([0] if _has_layer_0(config) else []), *sorted(config.layers))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The floor of log_ratio and the delta of asinh."""

    floor: float
    delta: float

    @classmethod
    def of(cls, config: ResolvedConfig, floor: float | None, delta: float | None) -> "Parameters":
        """Return those that are given, or the store's, or the defaults.

        Raises:
            InputError: One is given that cannot be used, since the shift is stored and not computed.
        """
        if {"static", "contextual"} <= set(config.vectors):
            config.column("log_ratio", floor=floor)  # which checks them
            config.column("asinh", delta=delta)
        elif floor is not None or delta is not None:
            raise InputError("--floor and --delta need a store of static and contextual vectors")
        own = DEFAULT_FLOOR if config.floor is None else config.floor
        return cls(
            own if floor is None else floor,
            delta if delta is not None else DEFAULT_DELTA if config.delta is None else config.delta,
        )


class LayerVectors:
    """The vectors of one layer, of every kind that can be measured."""

    def __init__(self, store: Store, layer: int, parameters: Parameters) -> None:
        config = store.config
        names = {"contextual": f"contextual_{layer}", "shift": f"shift_{layer}", "static": "static"}
        if layer == 0:
            names = {"contextual": "static"}
        elif {"static", "contextual"} <= set(config.vectors):
            del names["shift"]  # `take` computes it, as all shifts
        self.layer = layer
        self._config = config
        self._parameters = parameters
        self._columns = {kind: store.column(name) for kind, name in names.items() if name in config.columns}

    def take(self, positions_N: Ints) -> tuple[dict[str, Floats], Floats | None]:
        """Return the float32 vectors (N, D) of these rows by kind, and the defined share (N,) of log_ratio.

        The share is ``None`` if log_ratio is not among the kinds.
        """
        config = self._config
        taken = {kind: column.take(positions_N).astype(np.float32) for kind, column in self._columns.items()}
        static_ND = taken.pop("static", None)
        if "shift" in taken:
            taken[str(config.shift)] = taken.pop("shift")
        elif "contextual" in taken and static_ND is not None:
            both = taken["contextual"], static_ND, np
            options: dict[str, dict[str, float]] = {
                "log_ratio": {"floor": self._parameters.floor},
                "asinh": {"delta": self._parameters.delta},
            }
            taken |= {kind: shift(*both, **options.get(kind, {})) for kind, shift in SHIFTS.items()}
            return taken, is_defined(*both[:2], floor=self._parameters.floor).mean(axis=1, dtype=np.float32)
        if "log_ratio" in taken:  # if stored, 0 means either "no change" or "not defined"
            return taken, (taken["log_ratio"] != 0).mean(axis=1, dtype=np.float32)
        return taken, None
