"""Defines the formulas of shifts, their parameters, and the full names of vectors that are computed.

Computes nothing: `ctxbatch.model.shift` does.
"""

import re
from dataclasses import dataclass
from typing import get_args

from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR, Arithmetic, ShiftKind, StoredType
from ctxbatch.errors import InputError

# Of the ten nearest rows by the vectors of fp32, the share that a search still finds, by log_ratio and by
# difference: all-MiniLM-L6-v2, layer 4 of 6 (scripts/results/2026-11-26-stability-minilm-zen4.txt).
_MEASURED = "all-MiniLM-L6-v2"
_KEPT: dict[Arithmetic, tuple[float, float]] = {"bf16": (0.878, 0.993), "int8": (0.701, 0.930)}
# Beyond it, values leave the range of float32.
_LARGEST = 1e9
SHIFT_KINDS: dict[str, ShiftKind] = {kind: kind for kind in get_args(ShiftKind)}
_STANDARDISED = "-standardised"
_VECTORS = re.compile(r"(?P<kind>.+)_(?P<layer>[1-9][0-9]{0,6})")


def kind_and_layer(name: str) -> tuple[str, int | None]:
    """Return the kind of vectors and the layer in a name such as ``asinh_6``; ``None`` without a layer."""
    found = _VECTORS.fullmatch(name)
    return (name, None) if found is None else (found["kind"], int(found["layer"]))


def standardised(name: str) -> str:
    """Return the full name of the standardised vectors of a column."""
    return name + _STANDARDISED


def plain(name: str) -> str:
    """Return the full name of the vectors that are standardised; other names stay."""
    return name.removesuffix(_STANDARDISED)


def cost_of_log_ratio(precision: Arithmetic) -> str | None:
    """Return in words what rounding costs a search by log_ratio; ``None`` in fp32."""
    if precision == "fp32":
        return None
    measured = precision if precision in _KEPT else "bf16"
    log_ratio, difference = _KEPT[measured]
    unknown = "" if measured == precision else f"; {precision} was not measured"
    return (
        f"log_ratio keeps {log_ratio:.0%} of the ten nearest rows of fp32 at {measured}, difference "
        f"{difference:.0%}: measured with {_MEASURED}{unknown}"
    )


def check_stored(kind: ShiftKind, dtype: StoredType) -> None:
    """Check that vectors of a type can hold a shift, or what it is computed from.

    Raises:
        InputError: It is the log ratio, which looks at values that are smaller than a step of int8.
    """
    if (kind, dtype) == ("log_ratio", "int8"):
        raise InputError(
            "log_ratio cannot be used with --dtype int8, whose steps are above its floor: use difference or "
            "asinh, or --dtype float16"
        )


@dataclass(frozen=True, slots=True)
class ShiftFormula:
    """A kind of shift and its parameter: the floor of log_ratio, the delta of asinh."""

    kind: ShiftKind
    parameter: float | None = None

    @classmethod
    def of(
        cls,
        kind: ShiftKind,
        *,
        floor: float | None = None,
        delta: float | None = None,
        own: "ShiftFormula | None" = None,
    ) -> "ShiftFormula":
        """Return a shift with the parameter that is given, or ``own`` if it is of the kind, or the default.

        Raises:
            InputError: A parameter is of another kind, or out of range.
        """
        if floor is not None and kind != "log_ratio":
            raise InputError(f"--floor belongs to log_ratio and cannot be used with {kind}")
        if delta is not None and kind != "asinh":
            raise InputError(f"--delta belongs to asinh and cannot be used with {kind}")
        given = floor if delta is None else delta
        if given is None and own is not None and own.kind == kind:
            return own
        defaults = {"log_ratio": DEFAULT_FLOOR, "asinh": DEFAULT_DELTA, "difference": None}
        formula = cls(kind, defaults[kind] if given is None else given)
        formula.check()
        return formula

    def check(self) -> None:
        """Check the parameter before a shift is computed; a shift that is stored is read whatever it is.

        Raises:
            InputError: It is out of range.
        """
        least = {"floor": 0, "delta": 1 / _LARGEST}
        for name, value in self.parameters.items():
            if not least[name] <= value <= _LARGEST:
                raise InputError(f"--{name} {value} must be a number from {least[name]:g} to {_LARGEST:g}")

    @property
    def parameters(self) -> dict[str, float]:
        """The parameter by its name, as the shift's function takes it."""
        names = {"log_ratio": "floor", "asinh": "delta"}
        return {} if self.parameter is None else {names[self.kind]: self.parameter}


@dataclass(frozen=True, slots=True)
class ComputedShift:
    """A shift that is computed from stored vectors of a layer as they are read.

    Its name holds all that defines it, such as ``asinh_6@0.1``.
    """

    formula: ShiftFormula
    layer: int

    @property
    def name(self) -> str:
        """The name, as `parse` reads it."""
        parameter = "" if self.formula.parameter is None else f"@{self.formula.parameter!r}"
        return f"{self.formula.kind}_{self.layer}{parameter}"

    @classmethod
    def parse(cls, name: str) -> "ComputedShift":
        """Return the shift of a full name.

        Raises:
            ValueError: No shift has this name.
        """
        vectors, _, written = name.partition("@")
        kind, layer = kind_and_layer(vectors)
        if kind not in SHIFT_KINDS or layer is None or (kind == "difference") == bool(written):
            raise ValueError(f"{name!r} names no shift")
        shift = cls(ShiftFormula(SHIFT_KINDS[kind], float(written) if written else None), layer)
        if shift.name != name:
            raise ValueError(f"{name!r} names no shift")
        return shift
