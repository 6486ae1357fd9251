"""Measure, on word-in-context pairs, whether the shift says more about a word than the contextual vector.

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
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ctxbatch.errors import InputError
from scripts.benchmarks import measuring
from scripts.command_line import Parser, positive, run, say
from scripts.evaluation.marked_words import Floats
from scripts.evaluation.pairs import read_pairs
from scripts.evaluation.separating import (
    aucs,
    best_threshold,
    cross_validated,
    draw,
    interval,
    make_folds,
    outlasts,
)
from scripts.evaluation.vector_kinds import SHIFTS
from scripts.evaluation.wic_cosines import Column, Split, score_splits
from scripts.evaluation.wic_report import report


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    check(options)
    pairs = read_pairs(options.pairs)
    others = read_pairs(options.threshold_from) if options.threshold_from else []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-wic-") as folder:
        machine = measuring.describe_machine(Path(folder))
        split, other = score_splits(options, Path(folder), pairs, others)
    facts = evaluate(options, split, other)
    machine["versions"]["scikit-learn"] = metadata.version("scikit-learn")
    report(options, machine, facts)
    if options.plot:
        from scripts.evaluation.wic_plot import plot

        plot(Path(options.plot), facts)
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("pairs", nargs="+", metavar="FILE", help="pairs; in the WiC format data and gold")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="name or folder of a model")
    parser.add_argument(
        "--threshold-from", nargs="+", metavar="FILE", help="another split, to take thresholds from"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw AUC against layer, as .png, .pdf or .svg")
    parser.add_argument("--folds", type=positive, default=5, help="of the cross-validation")
    parser.add_argument("--resamples", type=positive, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=positive, default=1, help="of folds and bootstrap")
    parser.add_argument("--precision", default="fp32", help="as of ctxbatch run")
    parser.add_argument("--workers", type=positive, help="as of ctxbatch run")
    parser.add_work()
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


# --- from cosines to figures ----------------------------------------------------------------------


def evaluate(options: argparse.Namespace, split: Split, other: Split | None) -> dict[str, Any]:
    """AUC and accuracy of every kind at every layer, and how far the shifts are above contextual."""
    from sklearn.metrics import roc_auc_score

    same = split.same
    folds = [] if other else make_folds(same, split.lemmas, options.folds, options.seed)
    draws = draw(same, split.lemmas, options.resamples, options.seed)
    say(f"{len(split.cosines)} kinds of vectors, {len(draws):,} resamples each")
    resampled = {column: aucs(values, same, draws) for column, values in split.cosines.items()}
    n_comparisons = sum(kind in SHIFTS for kind, _ in split.cosines)
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
        if kind in SHIFTS:
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
    """Return what was compared, and where thresholds come from."""
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
        "comparisons": sum(kind in SHIFTS for kind, _ in split.cosines),
        "shifts": SHIFTS,
    }


def compare_best(layers: Mapping[int, Any], resampled: Mapping[Column, Floats]) -> dict[str, Any]:
    """Return the shift with the highest AUC at its best layer against contextual at its own best layer."""

    def best(kinds: Sequence[str]) -> Column:
        columns = [(kind, layer) for layer in layers for kind in kinds]
        return max(columns, key=lambda column: layers[column[1]][column[0]]["auc"])

    shifted, contextual = best(tuple(SHIFTS)), best(("contextual",))
    of_shift, of_contextual = (layers[layer][kind]["auc"] for kind, layer in (shifted, contextual))
    return {
        "shift": shifted,
        "contextual": contextual,
        "shift_auc": of_shift,
        "contextual_auc": of_contextual,
        "more": of_shift - of_contextual,
        "more_interval": interval(resampled[shifted] - resampled[contextual]),
    }


if __name__ == "__main__":
    sys.exit(run(main))
