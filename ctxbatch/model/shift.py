"""Computes the shift, what a context does to a word's vector, with numpy or torch.

Pure functions. ``contextual`` and ``static`` are arrays of one shape, usually (N, D), in float32; so is the
result. ``xp`` is the module that made them, ``numpy`` or ``torch``. To add a shift, write its function, and
name it in `SHIFTS` and in `ctxbatch.choices.ShiftKind`.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ctxbatch.formulas import ShiftFormula

Array = Any  # numpy.ndarray or torch.Tensor: both answer the few operations used here


def log_ratio(contextual: Array, static: Array, xp: ModuleType, *, floor: float) -> Array:
    """Return ln(contextual / static) per dimension where it is defined, and 0 elsewhere.

    It is defined where both have the same sign and neither is smaller than ``floor`` in size. With ``floor``
    0 this is the rule of Vasiliev's article: NaN and infinities become 0. The floor exists because some
    models scale a few dimensions to nearly nothing, and their ratios would dominate every cosine.
    """
    defined = is_defined(contextual, static, floor=floor)
    with np.errstate(all="ignore"):
        # Multiplied, and 0.0 added to -0.0: choosing by a mask takes numpy seven times as long.
        logs = xp.log(abs(contextual / static)) * defined + 0.0
    # A divisor can be 0, and a quotient can leave the range of float32 where the floor is tiny. Nothing here
    # depends on a value: the host would wait for it at every batch of a GPU.
    return xp.nan_to_num(logs, nan=0.0, posinf=0.0, neginf=0.0)


def is_defined(contextual: Array, static: Array, *, floor: float) -> Array:
    """Mark where the log ratio is defined: both have one sign, and neither is below ``floor`` in size."""
    c_size, s_size = abs(contextual), abs(static)
    large = (c_size >= floor) & (s_size >= floor)
    if not floor:
        large &= (c_size > 0) & (s_size > 0)
    return large & ((contextual < 0) == (static < 0))


def asinh(contextual: Array, static: Array, xp: ModuleType, *, delta: float) -> Array:
    """Subtract the inverse hyperbolic sines of both, each divided by ``delta``, per dimension.

    Follows the log ratio where both are much larger than ``delta`` and of one sign, and stays defined
    and continuous where they are not.
    """
    return xp.asinh(contextual / delta) - xp.asinh(static / delta)


def difference(contextual: Array, static: Array, xp: ModuleType) -> Array:  # noqa: ARG001 (one signature)
    """Subtract static from contextual, per dimension."""
    return contextual - static


SHIFTS: dict[str, Callable[..., Array]] = {"log_ratio": log_ratio, "asinh": asinh, "difference": difference}


def shift_function(formula: ShiftFormula, xp: ModuleType) -> Callable[[Array, Array], Array]:
    """Return a shift as a function of contextual and static vectors."""
    return functools.partial(SHIFTS[formula.kind], xp=xp, **formula.parameters)
