"""Say what `wic` found: tables, what follows from them, and the line of JSON."""

import argparse
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scripts.benchmarks import measuring
from scripts.evaluation.separating import Interval
from scripts.evaluation.vector_kinds import KINDS, SHIFTS

_SHOWN_MISSING = 10


def report(options: argparse.Namespace, machine: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Print the tables, what follows from them, and the line of JSON."""
    print(measuring.machine_lines(machine))
    print(f"{options.model}, {options.precision}, {' '.join(options.pairs)}")
    print(
        f"{facts['pairs']:,} pairs of {facts['lemmas']:,} lemmas, {facts['same'] / facts['pairs']:.1%} same"
    )
    print(missing_lines(facts["missing"]))
    print(tables(facts))
    conclusions = conclude(facts)
    print(wrapped(reservation(facts)) + "\n")
    print("\n".join(map(wrapped, conclusions)))
    named = {"files": options.pairs, **facts, "conclusions": conclusions}
    print(json.dumps({"machine": machine, **rounded(named)}))


def missing_lines(missing: Sequence[str]) -> str:
    """Return the pairs left out, by name; all of them are in the line of JSON."""
    if not missing:
        return ""
    more = len(missing) - _SHOWN_MISSING
    shown = [f"  {place}" for place in missing[:_SHOWN_MISSING]] + (
        [f"  and {more} more"] if more > 0 else []
    )
    count = f"{len(missing)} pair{'s' if len(missing) > 1 else ''}"
    return "\n".join([f"left out, whose word is not in the store: {count}", *shown, ""])


def tables(facts: Mapping[str, Any]) -> str:
    """AUC, how far the shifts are above contextual, and accuracy, layer by layer."""
    layers, static = facts["layers"].items(), facts["static"]

    def rows(kinds: Sequence[str], cell: str) -> list[list[str]]:
        return [[str(layer), *(_cell(found[kind], cell) for kind in kinds)] for layer, found in layers]

    constant = max(facts["same"], facts["pairs"] - facts["same"]) / facts["pairs"]
    lines = [
        measuring.table(["AUC at layer", *KINDS], rows(KINDS, "auc")),
        f"static: {_cell(static, 'auc')}\n",
        measuring.table(["above contextual", *SHIFTS], rows(tuple(SHIFTS), "more")) + "\n",
        measuring.table(["accuracy at layer", *KINDS], rows(KINDS, "accuracy")),
        f"static: {_cell(static, 'accuracy')}; always the same answer: {short(constant)}",
        wrapped(f"thresholds {facts['thresholds']}") + "\n",
    ]
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any], name: str) -> str:
    if name == "accuracy":
        return short(figure[name])
    if name == "more":
        return signed(figure["more"], figure["more_interval"])
    low, high = figure["interval"]
    return f"{short(figure['auc'])} [{short(low)}, {short(high)}]"


def wrapped(line: str) -> str:
    """Return a line of prose in as many as it needs."""
    return textwrap.fill(line, 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def short(value: float, pattern: str = ".3f") -> str:
    """Return a number without the 0 before its point."""
    return re.sub(r"(?<!\d)0\.", ".", format(value, pattern))


def signed(value: float, bounds: Interval) -> str:
    """Return a difference with its interval."""
    low, high = (short(bound, "+.3f") for bound in bounds)
    return f"{short(value, '+.3f')} [{low}, {high}]"


def conclude(facts: Mapping[str, Any]) -> list[str]:
    """Return what the figures say of each shift where contextual is best, and of the best of both."""
    best = facts["best"]
    layer = best["contextual"][1]
    found = facts["layers"][layer]
    lines = [
        f"at layer {layer}, contextual's best: {name} {short(found[name]['auc'])} against contextual "
        f"{short(found['contextual']['auc'])}: {signed(found[name]['more'], found[name]['more_interval'])}, "
        f"{verdict(found[name]['more_interval'])}"
        for name in SHIFTS
    ]
    name, its_layer = best["shift"]
    lines.append(
        f"best of all, chosen on these pairs: {name} at layer {its_layer} {short(best['shift_auc'])} against "
        f"contextual at layer {layer} {short(best['contextual_auc'])}: "
        f"{signed(best['more'], best['more_interval'])}, {verdict(best['more_interval'])}"
    )
    differ = [
        f"{name} at layer {number}"
        for name in SHIFTS
        for number, figures in facts["layers"].items()
        if figures[name]["outlasts"]
    ]
    lines.append(
        f"of the {facts['comparisons']} comparisons with contextual at the same layer, these outlast "
        f"Bonferroni's correction: {', '.join(differ) or 'none'}"
    )
    return lines


def reservation(facts: Mapping[str, Any]) -> str:
    """Return what the intervals are, and what they do not allow for."""
    n = facts["comparisons"]
    return (
        f"intervals of 95 % by {facts['resamples']:,} resamples of the {facts['lemmas']:,} lemmas, not "
        f"corrected for the {n} comparisons with contextual: of {n} that differ in nothing, {n / 20:.1f} are "
        "expected to exclude 0"
    )


def verdict(bounds: Interval) -> str:
    """Return what an interval of a difference allows to say."""
    low, high = bounds
    if low > 0:
        return "the shift says more"
    return "the shift says less" if high < 0 else "no difference shown"


def rounded(value: Any) -> Any:  # noqa: ANN401 (what JSON knows)
    """Return the same with all numbers cut to six places, and infinite ones as null, which JSON lacks."""
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
