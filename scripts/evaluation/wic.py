"""Does the shift say more about a word in context than the contextual vector? Word-in-context pairs decide.

    python -m scripts.evaluation.wic PAIRS.jsonl --model NAME
    python -m scripts.evaluation.wic DATA GOLD --model NAME [--threshold-from DATA [GOLD]] [--plot FILE.png]

A pair is two sentences with a marked word, and whether it means the same in both. Pairs come in the published
WiC format (lemma, POS, i-j, sentence, sentence between tabs; the gold file has a T or F a line) or as JSON
lines with lemma, s1, span1, s2, span2 (character offsets) and label. The package encodes the sentences; a
marked word's static and contextual vectors are means over all its wordpieces, and its shift is computed from
these. The cosine of a pair's two vectors predicts its label: ROC AUC, and accuracy with a threshold from
another split, or else cross-validated by lemma. Intervals are of 95 %, by bootstrap over lemmas, whose pairs
are drawn together, and not corrected for how many comparisons are made.
Prints the machine, tables, conclusions, and a last line of JSON.
"""

import argparse
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR
from ctxbatch.errors import CtxbatchError, InputError
from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import say
from scripts.evaluation.marked_words import Floats, MarkedWords, cosines, encode, shift
from scripts.evaluation.pairs import Pair, read_pairs
from scripts.evaluation.separating import (
    Bools,
    Interval,
    aucs,
    best_threshold,
    cross_validated,
    draw,
    interval,
    make_folds,
    outlasts,
)

_SHIFTS: dict[str, dict[str, float]] = {
    "log_ratio": {"floor": DEFAULT_FLOOR},
    "asinh": {"delta": DEFAULT_DELTA},
    "difference": {},
}
_KINDS = ("contextual", *_SHIFTS)
_SHOWN_MISSING = 10

Column = tuple[str, int]  # a kind of vector and a layer; static has layer 0


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    try:
        check(options)
        pairs = read_pairs(options.pairs)
        others = read_pairs(options.threshold_from) if options.threshold_from else []
        with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-wic-") as folder:
            machine = measuring.describe_machine(Path(folder))
            split, other = score_splits(options, Path(folder), pairs, others)
        facts = evaluate(options, split, other)
    except CtxbatchError as error:
        say(f"wic: {error}")
        return error.exit_status
    machine["versions"]["scikit-learn"] = metadata.version("scikit-learn")
    report(options, machine, facts)
    if options.plot:
        from scripts.evaluation.wic_plot import plot

        plot(Path(options.plot), facts)
    return 0


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="FILE", help="pairs; in the WiC format data and gold")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument(
        "--threshold-from", nargs="+", metavar="FILE", help="another split, to take thresholds from"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw AUC against layer, as .png, .pdf or .svg")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=1, help="of folds and bootstrap")
    parser.add_argument("--precision", default="fp32", help="as of ctxbatch run")
    parser.add_argument("--workers", type=int, help="as of ctxbatch run")
    parser.add_argument("--work", help="folder for what is written [default: the system's]")
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Find out at once what is missing or wrong.

    Raises:
        InputError: A library is not installed, or an option has a value out of its range.
    """
    try:
        import sklearn  # noqa: F401 (only whether it is there)

        if options.plot:
            import matplotlib as mpl

            mpl.use("Agg")
    except ImportError as error:
        needed = f"{error.name} is not installed: pip install 'ctxbatch[plot,senses]'"
        raise InputError(needed) from None
    if options.resamples < 100:
        raise InputError(f"--resamples {options.resamples} is too few for intervals: it must be 100 or more")
    if options.plot:
        path = Path(options.plot)
        if path.suffix not in (".png", ".pdf", ".svg") or not path.parent.is_dir():
            raise InputError(f"--plot {path} must be a .png, .pdf or .svg in a folder that is there")


# --- from pairs to cosines ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """Pairs whose words were found, each with a label and a cosine for every kind and layer; and the rest."""

    pairs: list[Pair]
    missing: list[Pair]
    cosines: dict[Column, Floats]

    @property
    def same(self) -> Bools:
        """The labels."""
        return np.array([pair.same for pair in self.pairs])

    @property
    def lemmas(self) -> npt.NDArray[np.str_]:
        """The lemmas."""
        return np.array([pair.lemma for pair in self.pairs])


def score_splits(
    options: argparse.Namespace, work: Path, pairs: list[Pair], others: list[Pair]
) -> tuple[Split, Split | None]:
    """Encode the distinct sentences of both splits in one run, and compare the words of each pair."""
    texts = list(dict.fromkeys(text for pair in pairs + others for text in pair.texts))
    say(f"encoding {len(texts):,} sentences with {options.model}")
    given = {"workers": options.workers, "precision": options.precision}
    found = encode(texts, work, options.model, keep_punctuation=True, **given)
    records = {text: number for number, text in enumerate(texts)}
    return score(found, records, pairs), score(found, records, others) if others else None


def score(found: MarkedWords, records: Mapping[str, int], pairs: list[Pair]) -> Split:
    """The cosine of every pair's vectors, for every kind and layer."""
    rows = [
        [found.rows(records[text], span) for text, span in zip(pair.texts, pair.spans, strict=True)]
        for pair in pairs
    ]
    there = [all(map(len, sides)) for sides in rows]
    kept = [pair for pair, is_there in zip(pairs, there, strict=True) if is_there]
    missing = [pair for pair, is_there in zip(pairs, there, strict=True) if not is_there]
    if len({pair.same for pair in kept}) < 2:
        raise InputError(
            f"{pairs[0].place.rpartition(':')[0]}: {len(missing)} of {len(pairs)} pairs have a word that "
            "the store lacks, and those that are left are too few to compare"
        )
    both = [
        [sides[number] for sides, is_there in zip(rows, there, strict=True) if is_there] for number in (0, 1)
    ]
    static = [found.vectors("static", side) for side in both]
    found_cosines: dict[Column, Floats] = {("static", 0): rounded_cosines(*static)}
    for layer in sorted(found.store.config.layers):
        contextual = [found.vectors(f"contextual_{layer}", side) for side in both]
        found_cosines["contextual", layer] = rounded_cosines(*contextual)
        for name, parameters in _SHIFTS.items():
            shifts = [shift(name, c, s, **parameters) for c, s in zip(contextual, static, strict=True)]
            found_cosines[name, layer] = rounded_cosines(*shifts)
    return Split(kept, missing, found_cosines)


def rounded_cosines(first_KD: Floats, second_KD: Floats) -> Floats:
    """Cosines to six places: equal words at equal places have equal static vectors, up to the last bits."""
    return np.round(cosines(first_KD, second_KD), 6)


# --- from cosines to figures ----------------------------------------------------------------------


def evaluate(options: argparse.Namespace, split: Split, other: Split | None) -> dict[str, Any]:
    """AUC and accuracy of every kind at every layer, and how far the shifts are above contextual."""
    from sklearn.metrics import roc_auc_score

    same = split.same
    folds = [] if other else make_folds(same, split.lemmas, options.folds, options.seed)
    draws = draw(same, split.lemmas, options.resamples, options.seed)
    say(f"{len(split.cosines)} kinds of vectors, {len(draws):,} resamples each")
    resampled = {column: aucs(values, same, draws) for column, values in split.cosines.items()}
    n_comparisons = sum(kind in _SHIFTS for kind, _ in split.cosines)
    layers: dict[int, dict[str, Any]] = {}
    for (kind, layer), values in split.cosines.items():
        figure = {
            "auc": float(roc_auc_score(same, values)),
            "interval": interval(resampled[kind, layer]),
        }
        if other:
            figure["threshold"] = best_threshold(other.cosines[kind, layer], other.same)
            figure["accuracy"] = float(np.mean((values >= figure["threshold"]) == same))
        else:
            figure["accuracy"] = cross_validated(values, same, folds)
        if kind in _SHIFTS:
            at_layer = layers[layer]["contextual"]
            figure["more"] = figure["auc"] - at_layer["auc"]
            differences = resampled[kind, layer] - resampled["contextual", layer]
            figure["more_interval"] = interval(differences)
            figure["outlasts"] = outlasts(figure["more"], differences, n_comparisons)
        layers.setdefault(layer, {})[kind] = figure
    static = layers.pop(0)["static"]
    facts = {"static": static, "layers": layers, "best": compare_best(layers, resampled)}
    return {**describe(options, split, other), **facts}


def describe(options: argparse.Namespace, split: Split, other: Split | None) -> dict[str, Any]:
    """What was compared, and where thresholds come from."""
    n_lemmas = len(set(split.lemmas))
    thresholds = f"cross-validated, {options.folds} folds, no lemma in two of them"
    if other:
        shared = len(set(split.lemmas) & set(other.lemmas))
        thresholds = (
            f"from the {len(other.pairs):,} pairs of {' '.join(options.threshold_from)}, "
            f"which share {shared:,} of {n_lemmas:,} lemmas"
        )
    return {
        "model": options.model,
        "precision": options.precision,
        "pairs": len(split.pairs),
        "same": int(split.same.sum()),
        "lemmas": n_lemmas,
        "missing": [f"{pair.place}: {pair.lemma}" for pair in split.missing],
        "thresholds": thresholds,
        "seed": options.seed,
        "resamples": options.resamples,
        "resampled": "lemmas",
        "comparisons": sum(kind in _SHIFTS for kind, _ in split.cosines),
        "shifts": _SHIFTS,
    }


def compare_best(layers: Mapping[int, Any], resampled: Mapping[Column, Floats]) -> dict[str, Any]:
    """The shift with the highest AUC at its best layer against contextual at its own best layer."""

    def best(kinds: Sequence[str]) -> Column:
        columns = [(kind, layer) for layer in layers for kind in kinds]
        return max(columns, key=lambda column: layers[column[1]][column[0]]["auc"])

    shifted, contextual = best(tuple(_SHIFTS)), best(("contextual",))
    of_shift, of_contextual = (layers[layer][kind]["auc"] for kind, layer in (shifted, contextual))
    return {
        "shift": shifted,
        "contextual": contextual,
        "shift_auc": of_shift,
        "contextual_auc": of_contextual,
        "more": of_shift - of_contextual,
        "more_interval": interval(resampled[shifted] - resampled[contextual]),
    }


# --- the report -----------------------------------------------------------------------------------


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
    """The pairs left out, by name; all of them are in the line of JSON."""
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
        measuring.table(["AUC at layer", *_KINDS], rows(_KINDS, "auc")),
        f"static: {_cell(static, 'auc')}\n",
        measuring.table(["above contextual", *_SHIFTS], rows(tuple(_SHIFTS), "more")) + "\n",
        measuring.table(["accuracy at layer", *_KINDS], rows(_KINDS, "accuracy")),
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
    """A line of prose in as many as it needs."""
    return textwrap.fill(line, 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def short(value: float, pattern: str = ".3f") -> str:
    """A number without the 0 before its point."""
    return re.sub(r"(?<!\d)0\.", ".", format(value, pattern))


def signed(value: float, bounds: Interval) -> str:
    """A difference with its interval."""
    low, high = (short(bound, "+.3f") for bound in bounds)
    return f"{short(value, '+.3f')} [{low}, {high}]"


def conclude(facts: Mapping[str, Any]) -> list[str]:
    """What the figures say of each shift where contextual is best, and of the best of both."""
    best = facts["best"]
    layer = best["contextual"][1]
    found = facts["layers"][layer]
    lines = [
        f"at layer {layer}, contextual's best: {name} {short(found[name]['auc'])} against contextual "
        f"{short(found['contextual']['auc'])}: {signed(found[name]['more'], found[name]['more_interval'])}, "
        f"{verdict(found[name]['more_interval'])}"
        for name in _SHIFTS
    ]
    name, its_layer = best["shift"]
    lines.append(
        f"best of all, chosen on these pairs: {name} at layer {its_layer} {short(best['shift_auc'])} against "
        f"contextual at layer {layer} {short(best['contextual_auc'])}: "
        f"{signed(best['more'], best['more_interval'])}, {verdict(best['more_interval'])}"
    )
    differ = [
        f"{name} at layer {number}"
        for name in _SHIFTS
        for number, figures in facts["layers"].items()
        if figures[name]["outlasts"]
    ]
    lines.append(
        f"of the {facts['comparisons']} comparisons with contextual at the same layer, these outlast "
        f"Bonferroni's correction: {', '.join(differ) or 'none'}"
    )
    return lines


def reservation(facts: Mapping[str, Any]) -> str:
    """What the intervals are, and what they do not allow for."""
    n = facts["comparisons"]
    return (
        f"intervals of 95 % by {facts['resamples']:,} resamples of the {facts['lemmas']:,} lemmas, not "
        f"corrected for the {n} comparisons with contextual: of {n} that differ in nothing, {n / 20:.1f} are "
        "expected to exclude 0"
    )


def verdict(bounds: Interval) -> str:
    """What an interval of a difference allows to say."""
    low, high = bounds
    if low > 0:
        return "the shift says more"
    return "the shift says less" if high < 0 else "no difference shown"


def rounded(value: Any) -> Any:  # noqa: ANN401 (what JSON knows)
    """The same with all numbers cut to six places, and infinite ones as null, which JSON lacks."""
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
