"""Decide which vectors a search goes by, from what `senses` measures, by a rule that was written first.

`RULE` was committed before `senses` gave its first figure. It knows measures and their resampled values;
nothing of texts and models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ctxbatch.choices import default_layer
from scripts.evaluation.separating import Floats, Interval, interval
from scripts.evaluation.vector_kinds import KINDS, STATES, State

MARGIN = 0.02

RULE = f"""\
The rule, written before this script gave a figure. Intervals are of 95 %, paired, by bootstrap. One vector is
better than another if the interval of their difference lies above 0, and worse if it lies below 0. The best
layer of a vector is the one where its figure is highest, the lower one of equals. Vectors are compared like
with like: both plain or both standardised.
(a) The shift is difference, which has no parameter. It is asinh if asinh has better precision@5 than
    difference both plain and standardised, each at its best layer. It is log_ratio if log_ratio has better
    precision@5 than both others, both plain and standardised.
(b) The layer is at two thirds of the depth, rounded. It is the last if the shift, plain, has better
    precision@5 there.
(c) A search is not standardised. It is if the shift of (a) at the layer of (b) has better precision@5
    standardised than plain, and its AUC of pairs is not worse.
(d) A search goes by the shift of (a), for the same word and for other words. It goes by another vector if
    the interval of the difference lies above {MARGIN}, each at its best layer, both in the state of (c); by
    the highest of those, if several do. Precision@5 counts for the same word; for other words, the AUC of
    word-in-context pairs whose two words are spelt differently. Without such pairs, (d) is open for them."""


class Key(NamedTuple):
    """A kind of vector at a layer, plain or standardised."""

    state: State
    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}, layer {self.layer}, {self.state}"


@dataclass(frozen=True, slots=True)
class More:
    """How far the figure of one vector lies above that of another."""

    first: Key
    second: Key
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

    def __init__(self, name: str, values: Mapping[Key, float], resample: Callable[[Key], Floats]) -> None:
        self.name = name
        self.values = values
        self._resampled = cache(resample)

    def best(self, state: State, kind: str) -> Key:
        """Return a vector at its best layer."""
        keys = sorted(key for key in self.values if key[:2] == (state, kind))
        return max(keys, key=lambda key: self.values[key])

    def bounds(self, key: Key) -> Interval:
        """Return the interval of a figure."""
        return interval(self._resampled(key))

    def more(self, first: Key, second: Key) -> More:
        """Return how far one vector lies above another."""
        bounds = interval(self._resampled(first) - self._resampled(second))
        return More(first, second, (self.values[first], self.values[second]), bounds)

    def best_more(self, state: State, first: str, second: str) -> More:
        """Return how far one kind lies above another, each at its best layer."""
        return self.more(self.best(state, first), self.best(state, second))


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a clause of the rule, and the comparisons it rests on, each with its measure.

    ``otherwise`` is the choice if vectors were compared in the other state; ``None`` if it is the same.
    """

    clause: str
    what: str
    choice: str
    because: Sequence[tuple[str, More]]
    otherwise: str | None = None


def decide(precision: Measure, auc: Measure, other: Measure | None, n_layers: int) -> list[Decision]:
    """Apply the rule.

    Args:
        precision: Precision@5 of the sense.
        auc: AUC of pairs of instances.
        other: AUC of word-in-context pairs that are spelt differently, if there are such pairs.
        n_layers: The depth of the model.
    """
    shift = choose_shift(precision)
    layer = choose_layer(precision, shift.choice, n_layers)
    state = choose_state(precision, auc, shift.choice, int(layer.choice))
    is_state = STATES[state.choice == "yes"]
    same = choose_vector("same word", precision, shift.choice, is_state)
    if other is None:
        open_still = Decision("d", "other words", f"open: {shift.choice} until pairs are given", ())
        return [shift, layer, state, same, open_still]
    return [shift, layer, state, same, choose_vector("other words", other, shift.choice, is_state)]


def choose_shift(precision: Measure) -> Decision:
    """Apply clause (a)."""

    def compare(first: str, second: str) -> list[More]:
        return [precision.best_more(state, first, second) for state in STATES]

    asinh = compare("asinh", "difference")
    logs = [more for name in ("difference", "asinh") for more in compare("log_ratio", name)]
    choice = "asinh" if all(more.better for more in asinh) else "difference"
    choice = "log_ratio" if all(more.better for more in logs) else choice
    return Decision("a", "shift", choice, [(precision.name, more) for more in (*asinh, *logs)])


def choose_layer(precision: Measure, shift: str, n_layers: int) -> Decision:
    """Apply clause (b)."""
    lower = default_layer(n_layers)
    more = precision.more(Key("plain", shift, n_layers), Key("plain", shift, lower))
    choice = n_layers if more.better else lower
    return Decision("b", "layer", str(choice), [(precision.name, more)])


def choose_state(precision: Measure, auc: Measure, shift: str, layer: int) -> Decision:
    """Apply clause (c)."""
    plain, standardised = (Key(state, shift, layer) for state in STATES)
    found, of_pairs = (measure.more(standardised, plain) for measure in (precision, auc))
    choice = "yes" if found.better and not of_pairs.worse else "no"
    return Decision("c", "standardise", choice, [(precision.name, found), (auc.name, of_pairs)])


def choose_vector(what: str, measure: Measure, shift: str, state: State) -> Decision:
    """Apply clause (d) to one kind of search."""
    others = {
        each: [measure.best_more(each, name, shift) for name in KINDS if name != shift] for each in STATES
    }
    choices = {each: far_above(others[each], shift) for each in STATES}
    (other,) = (choices[each] for each in STATES if each != state)
    otherwise = other if other != choices[state] else None
    return Decision("d", what, choices[state], [(measure.name, more) for more in others[state]], otherwise)


def far_above(others: Sequence[More], shift: str) -> str:
    """Return the highest vector whose interval lies above the margin, or else the shift."""
    far = [more for more in others if more.bounds[0] > MARGIN]
    return max(far, key=lambda more: more.difference).first.kind if far else shift
