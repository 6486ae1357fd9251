"""Decide which vectors a search goes by, from what `senses` measures, by a rule that was written first.

`RULE` was committed before `senses` gave its first figure; clause (d) was changed afterwards, as it says
itself. It knows measures and their resampled values; nothing of texts and models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ctxbatch.choices import default_layer
from scripts.evaluation.measures import Measure, More
from scripts.evaluation.vector_kinds import KINDS, STATES, State

MARGIN = 0.02

RULE = f"""\
The rule, written before this script gave a figure; only (d) was changed since. Intervals are of 95 %, paired,
by bootstrap. One vector is better than another if the interval of their difference lies above 0, and worse if
it lies below 0. The best layer of a vector is the one where its figure is highest, the lower one of equals.
Vectors are compared like with like: both plain or both standardised.
(a) The shift is difference, which has no parameter. It is asinh if asinh has better precision@5 than
    difference both plain and standardised, each at its best layer. It is log_ratio if log_ratio has better
    precision@5 than both others, both plain and standardised.
(b) The layer is at two thirds of the depth, rounded. It is the last if the shift, plain, has better
    precision@5 there.
(c) A search is not standardised. It is if the shift of (a) at the layer of (b) has better precision@5
    standardised than plain, and its AUC of pairs is not worse.
(d) A search goes by the shift of (a), for the same word and for other words. It goes by another vector if
    the interval of the difference lies above {MARGIN}, each at its best layer, both standardised; by the
    highest of those, if several do. Precision@5 counts for the same word; for other words, the AUC of
    word-in-context pairs whose two words are spelt differently. Without such pairs, (d) is open for them.
    The first version of (d), with which the first figures were printed, compared both in the state of (c).
    The question as first put asks for standardised. What it would be plain is printed, too."""


class Key(NamedTuple):
    """A kind of vector at a layer, plain or standardised."""

    state: State
    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}, layer {self.layer}, {self.state}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a clause of the rule, and the comparisons it rests on, each with its measure.

    ``plain`` is the choice if vectors were compared plain; ``None`` if it is the same, or was compared so.
    """

    clause: str
    what: str
    choice: str
    because: Sequence[tuple[str, More]]
    plain: str | None = None


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
    same = choose_vector("same word", precision, shift.choice)
    if other is None:
        open_still = Decision("d", "other words", f"open: {shift.choice} until pairs are given", ())
        return [shift, layer, state, same, open_still]
    return [shift, layer, state, same, choose_vector("other words", other, shift.choice)]


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


def choose_vector(what: str, measure: Measure, shift: str) -> Decision:
    """Apply clause (d) to one kind of search."""
    others = {
        state: [measure.best_more(state, name, shift) for name in KINDS if name != shift] for state in STATES
    }
    plain, choice = (far_above(others[state], shift) for state in STATES)
    because = [(measure.name, more) for more in others["standardised"]]
    return Decision("d", what, choice, because, None if plain == choice else plain)


def far_above(others: Sequence[More], shift: str) -> str:
    """Return the highest vector whose interval lies above the margin, or else the shift."""
    far = [more for more in others if more.bounds[0] > MARGIN]
    return max(far, key=lambda more: more.difference).first.kind if far else shift
