"""Reads or computes the vectors of one layer, of every kind that can be measured: contextual, and the shifts.

Owns which kinds and which layers a store has. Array names end in the letters of their shape: N rows, D hidden
size.
"""

from collections.abc import Mapping

import numpy as np

from ctxbatch.arrays import Floats, Ints
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.formulas import ComputedShift, ShiftFormula, check_stored
from ctxbatch.model.shift import is_defined, shift_function
from ctxbatch.store.moments import Standardiser
from ctxbatch.store.reader import Store


def kinds_of(config: ResolvedConfig) -> tuple[str, ...]:
    """Return the kinds of vectors that can be measured in a store, in their order of display.

    All shifts are computed from static and contextual vectors; without both, only a stored shift is left.

    Raises:
        InputError: The store has no such kind.
    """
    kinds = ["contextual"] if "contextual" in config.vectors or _has_layer_0(config) else []
    if {"static", "contextual"} <= set(config.vectors):
        kinds += formulas_of(config)
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


def formulas_of(
    config: ResolvedConfig, *, floor: float | None = None, delta: float | None = None
) -> dict[str, ShiftFormula]:
    """Return all shifts, with the parameters that are given, those of the store's shift, or the defaults.

    Of int8 vectors, all but log_ratio.

    Raises:
        InputError: A parameter is out of range, or given of a shift that is stored and not computed, or of
            log_ratio and int8 vectors.
    """
    if (floor, delta) != (None, None) and not {"static", "contextual"} <= set(config.vectors):
        raise InputError("--floor and --delta need a store of static and contextual vectors")
    formulas = {
        "log_ratio": ShiftFormula.of("log_ratio", floor=floor, own=config.formula),
        "asinh": ShiftFormula.of("asinh", delta=delta, own=config.formula),
        "difference": ShiftFormula("difference"),
    }
    if config.dtype == "int8":
        if floor is not None:
            check_stored("log_ratio", config.dtype)
        del formulas["log_ratio"]
    return formulas


class LayerVectors:
    """The vectors of one layer, of every kind that can be measured.

    Args:
        store: The store.
        layer: The layer; 0 is the embedding layer's output.
        formulas: The shifts, as `formulas_of` returns them.
        standardise: Standardise the vectors of each kind.
    """

    def __init__(
        self, store: Store, layer: int, formulas: Mapping[str, ShiftFormula], *, standardise: bool
    ) -> None:
        config = store.config
        names = {"contextual": f"contextual_{layer}", "shift": f"shift_{layer}", "static": "static"}
        if layer == 0:
            names = {"contextual": "static"}
        elif {"static", "contextual"} <= set(config.vectors):
            del names["shift"]  # `take` computes it, as all shifts
        self.layer = layer
        self._config = config
        self._formulas = formulas
        names = {kind: name for kind, name in names.items() if name in config.columns}
        self._columns = {kind: store.column(name) for kind, name in names.items()}
        self._standardisers: dict[str, Standardiser] = {}
        if standardise:
            kinds = self._names_of_kinds(names)
            self._standardisers = {
                kind: store.moments.of(name).standardiser() for kind, name in kinds.items()
            }

    def _names_of_kinds(self, names: Mapping[str, str]) -> dict[str, str]:
        """Return the full name of each kind of vector, given those of the columns that are read."""
        kinds = {kind: name for kind, name in names.items() if kind == "contextual"}
        if "shift" in names:
            kinds[str(self._config.shift)] = names["shift"]
        elif "contextual" in names and "static" in names:
            shifts = {kind: ComputedShift(each, self.layer).name for kind, each in self._formulas.items()}
            kinds |= {kind: self._config.column(name) for kind, name in shifts.items()}
        return kinds

    def take(self, positions_N: Ints) -> tuple[dict[str, Floats], Floats | None]:
        """Return the float32 vectors (N, D) of these rows by kind, and the defined share (N,) of log_ratio.

        The share is ``None`` if log_ratio is not among the kinds.
        """
        taken, defined_N = self._take_plain(positions_N)
        for kind, standardiser in self._standardisers.items():
            taken[kind] = standardiser.of(taken[kind])
        return taken, defined_N

    def _take_plain(self, positions_N: Ints) -> tuple[dict[str, Floats], Floats | None]:
        config = self._config
        taken = {kind: column.take(positions_N).astype(np.float32) for kind, column in self._columns.items()}
        static_ND = taken.pop("static", None)
        if "shift" in taken:
            taken[str(config.shift)] = taken.pop("shift")
        elif "contextual" in taken and static_ND is not None:
            both = taken["contextual"], static_ND
            taken |= {kind: shift_function(each, np)(*both) for kind, each in self._formulas.items()}
            if "log_ratio" not in self._formulas:
                return taken, None
            defined_ND = is_defined(*both, **self._formulas["log_ratio"].parameters)
            return taken, defined_ND.mean(axis=1, dtype=np.float32)
        if "log_ratio" in taken:  # if stored, 0 means either "no change" or "not defined"
            return taken, (taken["log_ratio"] != 0).mean(axis=1, dtype=np.float32)
        return taken, None
