"""Measure which vectors find the other uses of a word's sense, and decide by a rule which a search goes by.

    python -m scripts.evaluation.senses INSTANCES... --model NAME [--pairs FILE [GOLD]] [--json]

INSTANCES are SENSEVAL's XML as published, or JSON lines with word, text, start, end (character offsets) and
sense. The package encodes the texts; shifts are computed from float32 vectors. For the contextual vector and
each shift, at every layer, plain and standardised (each dimension less its mean and over its standard
deviation; contextual vectors and shifts alike over all rows of the store, as a store would do):
precision@5, the share of an instance's five nearest other instances of its word, by cosine, that have its
sense, as a mean over the instances of each sense with 30 or more, then over senses, then over words; and the
ROC AUC of pairs of instances of a word, of one sense or not, all pairs or 200,000 drawn by chance, as a mean
over words. --pairs adds word-in-context pairs, as of wic, and those of them that are spelt differently.
Intervals are of 95 %, paired, by bootstrap over the instances within each word, of pairs over lemmas. They
do not allow for best layers being chosen on the same instances, and speak of these words alone.
Prints the rule, the machine, tables, conclusions, what the rule decides, and a last line of JSON; with --json
that line alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ctxbatch.errors import InputError
from ctxbatch.text.word_key import word_key
from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_file, positive, run, say
from scripts.evaluation.default_rule import Key, decide
from scripts.evaluation.instances import Instance, read_instances
from scripts.evaluation.marked_words import Floats, Ints, MarkedWords, encode
from scripts.evaluation.measures import Measure
from scripts.evaluation.pairs import Pair, read_pairs
from scripts.evaluation.sense_scores import FEWEST, NEAREST, Instances
from scripts.evaluation.senses_report import Facts, report
from scripts.evaluation.separating import Bools, aucs, draw
from scripts.evaluation.vector_kinds import STATES, vectors_of
from scripts.evaluation.wic_cosines import Split, encode_pairs, score


@dataclass(frozen=True, slots=True)
class Word:
    """A word, its instances that the store has, and the rows of each."""

    name: str
    kept: list[Instance]
    rows: list[Ints]
    scored: Instances


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    instances = list(chain.from_iterable(map(read_instances, options.instances)))
    pairs = read_pairs(options.pairs) if options.pairs else []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-senses-") as folder:
        machine = measuring.describe_machine(Path(folder))
        work = [Path(folder) / name for name in ("instances", "pairs")]
        for each in work:
            each.mkdir()
        found, words, missing = encode_instances(options, work[0], instances)
        precision, auc = score_instances(found, words)
        of_pairs, rows_of_pairs = score_pairs(options, work[1], pairs) if pairs else ([], [])
    other = of_pairs[1] if len(of_pairs) > 1 else None
    n_layers = found.store.config.n_layers
    facts = Facts(
        model=options.model,
        precision=options.precision,
        resamples=options.resamples,
        seed=options.seed,
        layers=sorted(found.store.config.layers),
        rows=[found.store.n_rows, *rows_of_pairs],
        words={word.name: len(word.kept) for word in words},
        missing=missing,
        measures=[precision, auc, *of_pairs],
        decisions=decide(precision, auc, other, n_layers),
    )
    report(facts, machine, only_json=options.json)
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line.

    Raises:
        InputError: There are too few resamples.
    """
    parser = Parser(__spec__.name, __doc__)
    told = "SENSEVAL's XML, or JSON lines that end in .jsonl"
    parser.add_argument("instances", nargs="+", type=existing_file, metavar="INSTANCES", help=told)
    parser.add_model()
    parser.add_argument("--pairs", nargs="+", metavar="FILE", help="word-in-context pairs, as of wic")
    parser.add_argument("--json", action="store_true", help="print the line of JSON alone")
    parser.add_argument("--resamples", type=positive, default=1000, help="of the bootstrap")
    parser.add_argument("--precision", default="fp32", help="as of ctxbatch run")
    parser.add_argument("--workers", type=positive, help="as of ctxbatch run")
    parser.add_seed()
    parser.add_work()
    options = parser.parse_args()
    if options.resamples < 100:
        raise InputError(f"--resamples {options.resamples} is too few for intervals: it must be 100 or more")
    return options


# --- instances ------------------------------------------------------------------------------------


def encode_instances(
    options: argparse.Namespace, work: Path, instances: Sequence[Instance]
) -> tuple[MarkedWords, list[Word], list[str]]:
    """Encode the texts of instances; returns them, their words, and the places of instances without a row.

    Raises:
        InputError: A word does not have two senses with enough instances.
    """
    texts = list(dict.fromkeys(each.text for each in instances))
    say(f"encoding {len(texts):,} texts with {options.model}")
    given = {"workers": options.workers, "precision": options.precision}
    found = encode(texts, work, options.model, **given)
    records = {text: number for number, text in enumerate(texts)}
    rows = [found.rows(records[each.text], each.span) for each in instances]
    there = [(each, its_rows) for each, its_rows in zip(instances, rows, strict=True) if len(its_rows)]
    words = []
    for name in sorted({each.word for each in instances}):
        kept = [each for each, _ in there if each.word == name]
        scored = Instances([each.sense for each in kept], options.resamples, options.seed)
        if not scored.can_be_scored:
            needed = f"it needs two senses with {FEWEST} instances or more, to be told apart"
            raise InputError(f"{name!r} has too few instances in the store: {needed}")
        words.append(Word(name, kept, [its_rows for each, its_rows in there if each.word == name], scored))
    missing = [each.place for each, its_rows in zip(instances, rows, strict=True) if not len(its_rows)]
    return found, words, missing


def score_instances(found: MarkedWords, words: Sequence[Word]) -> tuple[Measure, Measure]:
    """Return precision@5 and AUC of pairs of every vector, as means over words."""
    hits: dict[Key, list[Floats]] = {}
    cosines: dict[Key, list[Floats]] = {}
    for layer in sorted(found.store.config.layers):
        say(f"scoring layer {layer}")
        for state in STATES:
            for kind, vectors in vectors_of(found, layer, [word.rows for word in words], state).items():
                each = list(zip(words, vectors, strict=True))
                key = Key(state, kind, layer)
                hits[key] = [word.scored.hits(its_vectors) for word, its_vectors in each]
                cosines[key] = [word.scored.pair_cosines(its_vectors) for word, its_vectors in each]

    def precision(key: Key, draws: Mapping[str, Any]) -> Floats:
        each = zip(words, hits[key], strict=True)
        return np.mean([word.scored.precision(its_hits, draws[word.name]) for word, its_hits in each], axis=0)

    def auc(key: Key, draws: Mapping[str, Any]) -> Floats:
        each = zip(words, cosines[key], strict=True)
        return np.mean([word.scored.auc(of_pairs, draws[word.name]) for word, of_pairs in each], axis=0)

    once = {word.name: word.scored.all_once for word in words}
    drawn = {word.name: word.scored.draws_RK for word in words}
    return (
        Measure(
            f"precision@{NEAREST}",
            {key: float(precision(key, once)[0]) for key in hits},
            lambda key: precision(key, drawn),
        ),
        Measure("AUC of pairs", {key: float(auc(key, once)[0]) for key in hits}, lambda key: auc(key, drawn)),
    )


# --- word-in-context pairs ------------------------------------------------------------------------


def score_pairs(
    options: argparse.Namespace, work: Path, pairs: list[Pair]
) -> tuple[list[Measure], list[int]]:
    """Return the AUC of word-in-context pairs, and of those spelt differently, and the number of rows."""
    found, records = encode_pairs(options, work, pairs)
    splits = {state: score(found, records, pairs, state) for state in STATES}
    first = splits["plain"]
    differ = np.array([len(set(spellings(pair))) > 1 for pair in first.pairs])
    chosen = {
        f"AUC of {len(first.pairs):,} word-in-context pairs": np.ones_like(differ),
        f"AUC of the {differ.sum():,} spelt differently": differ,
    }
    both = {name: some for name, some in chosen.items() if len(set(first.same[some])) > 1}
    measures = [measure_pairs(options, name, splits, some) for name, some in both.items()]
    return measures, [found.store.n_rows]


def spellings(pair: Pair) -> list[str]:
    """Return the keys of the two words of a pair."""
    return [word_key(text[slice(*span)]) for text, span in zip(pair.texts, pair.spans, strict=True)]


def measure_pairs(
    options: argparse.Namespace, name: str, splits: Mapping[Any, Split], chosen: Bools
) -> Measure:
    """Return the AUC of some of the pairs, resampled by lemma."""
    some = splits["plain"]
    same = some.same[chosen]
    draws_RK = draw(same, some.lemmas[chosen], options.resamples, options.seed)
    cosines = {
        Key(state, kind, layer): values[chosen]
        for state, split in splits.items()
        for (kind, layer), values in split.cosines.items()
        if layer
    }
    once = np.ones((1, len(same)), np.int64)
    values = {key: float(aucs(each, same, once)[0]) for key, each in cosines.items()}
    return Measure(name, values, lambda key: aucs(cosines[key], same, draws_RK))


if __name__ == "__main__":
    sys.exit(run(main))
