"""Quantises vectors to int8 in a slow way, one value at a time."""

import numpy as np


def quantised(row):
    """Return the int8 values and the scale of a row, one value at a time."""
    scale = np.float32(max(abs(float(value)) for value in row)) / np.float32(127)
    if not scale:
        return [0] * len(row), scale
    steps = [float(value / scale) for value in row]  # of float32, as is the quotient
    return [max(-127, min(127, round(step))) for step in steps], scale
