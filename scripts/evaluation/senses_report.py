"""Say what `senses` found: the rule, tables, comparisons, what the rule decides, and the line of JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.benchmarks import measuring
from scripts.evaluation.default_rule import RULE, Decision, Key
from scripts.evaluation.measures import Measure, More, comparison
from scripts.evaluation.vector_kinds import KINDS, SHIFTS, STATES
from scripts.evaluation.wic_report import rounded, short, signed, wrapped

_BEFORE = "log_ratio"  # of the last layer: what a search went by before there was a rule
_CLAUSES = {
    "shift": "the shift",
    "layer": "the layer",
    "standardise": "a search is standardised",
    "same word": "a search for the same word goes by",
    "other words": "a search for other words goes by",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured, on what, and what follows.

    ``words`` has the number of instances of each; ``rows`` those of the stores of instances and of pairs.
    """

    model: str
    precision: str
    resamples: int
    seed: int
    layers: Sequence[int]
    rows: Sequence[int]
    words: Mapping[str, int]
    missing: Sequence[str]
    measures: Sequence[Measure]
    decisions: Sequence[Decision]


def report(facts: Facts, machine: Mapping[str, Any], *, only_json: bool) -> None:
    """Print everything, or the line of JSON alone."""
    compared = {measure.name: compare(measure, max(facts.layers)) for measure in facts.measures}
    conclusions = list(map(conclude, facts.decisions))
    if not only_json:
        print(f"{RULE}\n\n{measuring.machine_lines(machine)}")
        counts = ", ".join(f"{n:,} of {word}" for word, n in facts.words.items())
        print(f"{facts.model}, {facts.precision}; instances: {counts}; {len(facts.missing)} not in the store")
        for measure in facts.measures:
            print(f"\n{figures(measure, facts.layers)}\n\n{comparisons(compared[measure.name])}")
        print("\n" + "\n\n".join([wrapped(reservation(facts)), "by the rule:\n" + "\n".join(conclusions)]))
    print(json.dumps(rounded(as_json(facts, machine, compared, conclusions))))


def reservation(facts: Facts) -> str:
    """Return what the figures are of, and what they do not allow for."""
    rows = " and ".join(f"{n:,}" for n in facts.rows)
    return (
        f"intervals of 95 % by {facts.resamples:,} resamples, which do not allow for best layers being "
        "chosen on the same instances; they speak of this model and of these words alone; standardised over "
        f"all rows of the stores of instances and of pairs: {rows}"
    )


def figures(measure: Measure, layers: Sequence[int]) -> str:
    """Return the table of one measure: plain and standardised at each layer."""
    rows = [
        [
            str(layer),
            *(" ".join(short(measure.values[Key(state, kind, layer)]) for state in STATES) for kind in KINDS),
        ]
        for layer in layers
    ]
    return f"{measure.name}: plain, standardised\n" + measuring.table(["layer", *KINDS], rows)


def compare(measure: Measure, last: int) -> list[More]:
    """Return each shift against contextual, and each vector against the log ratio of the last layer."""
    found = []
    for state in STATES:
        found += [measure.best_more(state, kind, "contextual") for kind in SHIFTS]
        before = Key(state, _BEFORE, last)
        best = [measure.best(state, kind) for kind in KINDS]
        found += [measure.more(key, before) for key in best if key != before]
    return found


def comparisons(found: Sequence[More]) -> str:
    """Return the table of comparisons."""
    rows = [
        [
            f"{each.first.kind} {each.first.layer} against {each.second.kind} {each.second.layer}",
            each.first.state,
            " ".join(map(short, each.values)),
            signed(each.difference, each.bounds),
        ]
        for each in found
    ]
    return measuring.table(["each at its best layer", "", "both", "more"], rows)


def conclude(decision: Decision) -> str:
    """Return what a clause decides, and the comparisons it rests on, in lines."""
    head = f"({decision.clause}) {_CLAUSES[decision.what]}: {decision.choice}"
    if decision.plain is not None:
        head += f"; compared plain, it would be {decision.plain}"
    return "\n".join([head, *(wrapped(f"    {name}: {sentence(more)}") for name, more in decision.because)])


def sentence(more: More) -> str:
    """Return a comparison in words."""
    said = "no difference shown"
    if more.better or more.worse:
        said = "better" if more.better else "worse"
    first, second = map(short, more.values)
    shown = signed(more.difference, more.bounds)
    return f"{more.first} {first} against {more.second} {second}: {shown}, {said}"


def as_json(
    facts: Facts,
    machine: Mapping[str, Any],
    compared: Mapping[str, Sequence[More]],
    conclusions: Sequence[str],
) -> dict[str, Any]:
    """Return everything as values that JSON knows."""
    same = ("model", "precision", "resamples", "seed", "layers", "rows", "words", "missing")
    return {
        "machine": machine,
        **{name: getattr(facts, name) for name in same},
        "rule": RULE,
        "measures": {
            measure.name: {
                "figures": [{**key._asdict(), "value": value} for key, value in measure.values.items()],
                "comparisons": list(map(comparison, compared[measure.name])),
            }
            for measure in facts.measures
        },
        "decisions": [
            {
                "clause": each.clause,
                "what": each.what,
                "choice": each.choice,
                "plain": each.plain,
                "because": [{"measure": name, **comparison(more)} for name, more in each.because],
            }
            for each in facts.decisions
        ],
        "conclusions": conclusions,
    }
