"""Measure how well vectors of sentences say how related two sentences are, and if one entails the other.

    python -m scripts.evaluation.entailment FILE --model NAME [--layers 4,6] [--folds N] [--json]

FILE has pairs of sentences in the form of SICK: a line of names, then tab-separated lines, with columns
sentence_A, sentence_B, relatedness_score (1 to 5) and entailment_judgment (or entailment_label). The package
encodes each distinct sentence, with salience of the highest of the layers, over all heads. Relatedness:
Spearman's correlation of the cosine with the score. Entailment: accuracy of a logistic regression on |a - b|
and a * b of the two vectors, cross-validated; each dimension is scaled by the other folds, and no sentence is
in two folds. Vectors: of the most salient word, and means over all words, each of static and contextual
vectors and of the three shifts. Intervals are of 95 %, paired, by bootstrap over groups of pairs that share
sentences: such pairs are not independent.
Prints the machine, tables, conclusions, and a last line of JSON; with --json that line alone.
Needs scikit-learn: pip install 'ctxbatch[senses]'.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxbatch.errors import InputError
from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_file, positive, run, say
from scripts.evaluation import summaries, summaries_report
from scripts.evaluation.entailment_scores import make_folds, score
from scripts.evaluation.marked_words import Floats, Ints, encode
from scripts.evaluation.sentence_pairs import SentencePair, groups_of, read_sentence_pairs
from scripts.evaluation.separating import draw_clusters
from scripts.evaluation.summaries import Summary
from scripts.evaluation.wic_report import missing_lines, rounded, wrapped

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    pairs = read_sentence_pairs(options.pairs)
    summaries.check_options(options)
    group_P = groups_of(pairs)
    fold_P = make_folds([pair.judgment for pair in pairs], group_P, options.folds, options.seed)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-entailment-") as folder:
        machine = measuring.describe_machine(Path(folder))
        store, sentences_P = encode_pairs(options, pairs, Path(folder))
        there_P = (sentences_P >= 0).all(axis=1)
        kept = [pair for pair, is_there in zip(pairs, there_P, strict=True) if is_there]
        if not kept:
            raise InputError(f"{options.pairs}: no pair has a word of both sentences in the store")
        draws_RP = draw_clusters(group_P[there_P], options.resamples, options.seed)
        vectors = vectors_of_pairs(store, options.layers, sentences_P[there_P])
        found = score(vectors, kept, fold_P[there_P], draws_RP)
    facts = {
        **{name: getattr(options, name) for name in ("model", "precision", "layers", "folds")},
        **{name: getattr(options, name) for name in ("resamples", "seed")},
        "file": options.pairs.name,
        "pairs": len(kept),
        "sentences": len({text for pair in kept for text in pair.texts}),
        "groups": len(set(group_P[there_P].tolist())),
        "judgments": Counter(pair.judgment for pair in kept),
        "missing": [pair.place for pair, is_there in zip(pairs, there_P, strict=True) if not is_there],
    }
    if not options.json:
        print(measuring.machine_lines(machine))
        print(heading(facts) + "\n")
        print(summaries_report.sections(found, options.layers))
        print(f"\n{reservation(facts)}\n")
    told = {"machine": machine, **facts, **summaries_report.as_json(found, options.layers)}
    print(json.dumps(rounded(told)))
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line.

    Raises:
        InputError: scikit-learn is not installed.
    """
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("pairs", type=existing_file, metavar="FILE", help="pairs in the form of SICK")
    summaries.add_options(parser)
    parser.add_argument("--folds", type=positive, default=5, help="of the cross-validation")
    options = parser.parse_args()
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("this evaluation needs scikit-learn: pip install 'ctxbatch[senses]'")
    return options


def encode_pairs(
    options: argparse.Namespace, pairs: Sequence[SentencePair], work: Path
) -> "tuple[Store, Ints]":
    """Encode the distinct sentences; returns their store, and the numbers of the sentences of pairs, (P, 2).

    They count the sentences with rows; -1 is one without.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair.texts))
    say(f"encoding {len(texts):,} sentences with {options.model}")
    given = {"workers": options.workers, "precision": options.precision}
    store = encode(
        texts, work, options.model, salience=True, salience_layer=max(options.layers), **given
    ).store
    sentences = store.sentences.to_table(columns=["sentence_id", "record"])
    ids = summaries.sentences_with_rows(store)
    at = np.searchsorted(sentences["sentence_id"].to_numpy(), ids)
    number_T = np.full(len(texts), -1)
    number_T[sentences["record"].to_numpy()[at]] = np.arange(len(ids))
    number_of = dict(zip(texts, number_T.tolist(), strict=True))
    return store, np.array([[number_of[text] for text in pair.texts] for pair in pairs])


def vectors_of_pairs(
    store: "Store", layers: Sequence[int], sentences_P: Ints
) -> Iterator[tuple[Summary, tuple[Floats, Floats]]]:
    """Yield every vector, of the first and of the second sentences of pairs, (P, D) each."""
    for summary, vectors_SD in summaries.vectors_of_sentences(store, layers):
        say(f"scoring {summary}")
        yield summary, (vectors_SD[sentences_P[:, 0]], vectors_SD[sentences_P[:, 1]])


# --- the report -----------------------------------------------------------------------------------


def heading(facts: dict) -> str:
    """Return what was measured, in lines."""
    counts = ", ".join(f"{n:,} {judgment.lower()}" for judgment, n in facts["judgments"].most_common())
    said = (
        f"{facts['model']}, {facts['precision']}, {facts['file']}: {facts['pairs']:,} pairs of "
        f"{facts['sentences']:,} sentences; {counts}"
    )
    left_out = missing_lines(facts["missing"]).rstrip()
    meant = (
        "relatedness: Spearman's correlation of the cosine with the score; entailment: accuracy of a "
        f"logistic regression on |a - b| and a * b, {facts['folds']} folds"
    )
    return "\n".join([wrapped(said), *filter(None, [left_out]), wrapped(meant)])


def reservation(facts: dict) -> str:
    """Return what the figures do not allow for."""
    drawn = f"{facts['resamples']:,} resamples of {facts['groups']:,} groups of pairs that share sentences"
    return wrapped(f"{summaries_report.RESERVATION}; {drawn}")


if __name__ == "__main__":
    sys.exit(run(main))
