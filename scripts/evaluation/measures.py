"""The figures of vectors by one measure, their intervals, and how far one lies above another.

Knows figures and their resampled values; nothing of texts and models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from scripts.evaluation.separating import Floats, Interval, interval

# A vector: a group, such as plain or standardised, a kind, and a layer; a named tuple that can be printed.
AKey = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class More:
    """How far the figure of one vector lies above that of another."""

    first: AKey
    second: AKey
    values: tuple[float, float]
    bounds: Interval

    @property
    def difference(self) -> float:
        """The figure of the first less that of the second."""
        return self.values[0] - self.values[1]

    @property
    def better(self) -> bool:
        """True if the first is better."""
        return self.bounds[0] > 0

    @property
    def worse(self) -> bool:
        """True if the first is worse."""
        return self.bounds[1] < 0


class Measure:
    """The figures of one measure.

    Args:
        name: What it is called in a sentence.
        values: The figure of every vector.
        resample: Returns the figures of a vector in every resample, (R,); all vectors share the resamples.
    """

    def __init__(self, name: str, values: Mapping[AKey, float], resample: Callable[[AKey], Floats]) -> None:
        self.name = name
        self.values = values
        self._resampled = cache(resample)

    def best(self, group: str, kind: str) -> AKey:
        """Return a vector at its best layer, the lower one of equals."""
        keys = sorted(key for key in self.values if key[:2] == (group, kind))
        return max(keys, key=lambda key: self.values[key])

    def bounds(self, key: AKey) -> Interval:
        """Return the interval of a figure."""
        return interval(self._resampled(key))

    def more(self, first: AKey, second: AKey) -> More:
        """Return how far one vector lies above another."""
        bounds = interval(self._resampled(first) - self._resampled(second))
        return More(first, second, (self.values[first], self.values[second]), bounds)

    def best_more(self, group: str, first: str, second: str) -> More:
        """Return how far one kind lies above another, each at its best layer."""
        return self.more(self.best(group, first), self.best(group, second))


def comparison(more: More) -> dict[str, Any]:
    """Return a comparison as values that JSON knows."""
    return {
        "first": more.first._asdict(),
        "second": more.second._asdict(),
        "values": more.values,
        "more": more.difference,
        "interval": more.bounds,
    }
