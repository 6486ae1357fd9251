"""Measure how well the vector of a sentence tells the true next sentence from a random one of its source.

    python -m scripts.evaluation.next_sentence CORPUS... --model NAME [--layers 4,6] [--limit N] [--json]

The package runs each corpus, with salience of the highest of the layers, over all heads. A pair is a sentence
and the next one of the same document; both must have a row, and texts that differ. Each pair gets one random
sentence of the same source, never one with the text of either. Accuracy is the share of pairs where the
cosine with the next sentence is above that with the random one, ties half; AUC compares all cosines with next
sentences with all those with random ones. Vectors: of the most salient word, and means over all words, each
of static and contextual vectors and of the three shifts. Intervals are of 95 %, paired, by bootstrap over
blocks of 25 pairs in a row, because single pairs are not independent: a sentence is in two, and a passage
keeps to its subject for some sentences.
A corpus must not have headings or numbers that tell which sentences are neighbours.
Prints the machine, tables, conclusions, and a last line of JSON; with --json that line alone.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxbatch.choices import RecordKind
from ctxbatch.errors import InputError
from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_file, positive, run, say
from scripts.evaluation import summaries, summaries_report
from scripts.evaluation.marked_words import Floats, Ints
from scripts.evaluation.measures import Measure
from scripts.evaluation.separating import aucs, draw_clusters
from scripts.evaluation.summaries_report import RESERVATION, Scores
from scripts.evaluation.wic_cosines import rounded_cosines
from scripts.evaluation.wic_report import rounded, wrapped

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store

BLOCK = 25
FEWEST_BLOCKS = 8
_AT_ONCE = 100  # resamples: as many times the pairs are held in memory


@dataclass(frozen=True, slots=True)
class Pairs:
    """Numbers of sentences, (P,): each of a pair, the next, and a random one; and the block of the pair.

    ``equal`` counts the neighbours that are left out because their texts are equal.
    """

    first_P: Ints
    next_P: Ints
    random_P: Ints
    block_P: Ints
    equal: int


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    summaries.check_options(options)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-next-sentence-") as folder:
        machine = measuring.describe_machine(Path(folder))
        found = []
        for number, corpus in enumerate(options.corpora):
            store = make_store(options, corpus, Path(folder) / str(number))
            found.append(evaluate(options, corpus, store))
    named = ("model", "precision", "layers", "limit", "resamples", "seed")
    facts = {"machine": machine, **{name: getattr(options, name) for name in named}, "block": BLOCK}
    if not options.json:
        print(measuring.machine_lines(machine))
        limit = f", at most {options.limit:,} records of each" if options.limit else ""
        print(f"{options.model}, {options.precision}{limit}; cosines with the next and a random sentence")
        for counts, scores in found:
            print(f"\n{heading(counts)}\n\n{summaries_report.sections(scores, options.layers)}")
        print(f"\n{wrapped(f'{RESERVATION}; {options.resamples:,} resamples of blocks of {BLOCK} pairs')}\n")
    corpora = [{**counts, **summaries_report.as_json(scores, options.layers)} for counts, scores in found]
    print(json.dumps(rounded({**facts, "corpora": corpora})))
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("corpora", nargs="+", type=existing_file, metavar="CORPUS", help="running text")
    summaries.add_options(parser)
    parser.add_argument("--limit", type=positive, help="take this many records of each; all by default")
    parser.add_argument("--record", default="auto", help="as of ctxbatch run")
    return parser.parse_args()


def make_store(options: argparse.Namespace, corpus: Path, out: Path) -> "Store":
    """Run a corpus through the package; returns its store."""
    import ctxbatch

    say(f"running {corpus.name}")
    record: RecordKind = options.record
    config = ctxbatch.RunConfig(
        model=options.model,
        layers=tuple(options.layers),
        vectors=("static", "contextual"),
        salience=True,
        record=record,
        dtype="float32",
        precision=options.precision,
        limit=options.limit,
        workers=options.workers,
        index=False,
    )
    ctxbatch.run(corpus, out, config, quiet=False)
    return ctxbatch.open(out)


def evaluate(
    options: argparse.Namespace, corpus: Path, store: "Store"
) -> tuple[dict[str, Any], list[Scores]]:
    """Return what a corpus has, and the scores of all vectors on it.

    Raises:
        InputError: The corpus has too few pairs.
    """
    sentences = store.sentences.to_table(columns=["sentence_id", "source", "doc_id", "text"]).to_pydict()
    documents = list(zip(sentences["source"], sentences["doc_id"], strict=True))
    ids = summaries.sentences_with_rows(store)
    there = np.isin(sentences["sentence_id"], ids)
    pairs = draw_pairs(documents, sentences["text"], there, options.seed)
    blocks = len(set(pairs.block_P.tolist()))
    if blocks < FEWEST_BLOCKS:
        raise InputError(
            f"{corpus} has {len(pairs.first_P)} pairs of neighbouring sentences that can be compared: "
            f"{FEWEST_BLOCKS} blocks of {BLOCK} are needed"
        )
    at = np.cumsum(there) - 1  # the number of a sentence among those with rows
    cosines = {}
    for summary, vectors_SD in summaries.vectors_of_sentences(store, options.layers):
        say(f"scoring {summary}")
        of_first, of_next, of_random = (
            vectors_SD[at[each]] for each in (pairs.first_P, pairs.next_P, pairs.random_P)
        )
        cosines[summary] = (rounded_cosines(of_first, of_next), rounded_cosines(of_first, of_random))
    counts = {
        "name": corpus.name,
        "sentences": len(there),
        "words": store.n_rows,
        "pairs": len(pairs.first_P),
        "blocks": blocks,
        "equal_neighbours": pairs.equal,
    }
    return counts, score(cosines, draw_clusters(pairs.block_P, options.resamples, options.seed))


# --- pairs ----------------------------------------------------------------------------------------


def draw_pairs(documents: Sequence[object], texts: Sequence[str], there: Ints, seed: int) -> Pairs:
    """Return neighbours of one document, and for each pair a random sentence of its source.

    Args:
        documents: The source and the document of each sentence.
        texts: Its text.
        there: Whether it has rows, as ``True`` or ``False``.
        seed: Of all chance.
    """
    rng = np.random.default_rng(seed)
    _, text_S = np.unique(np.array(texts, object), return_inverse=True)
    _, source_S = np.unique([str(source) for source, _ in documents], return_inverse=True)
    same = [one == other for one, other in pairwise(documents)]
    neighbours = np.flatnonzero(np.array(same, bool) & there[:-1] & there[1:])
    differ = text_S[neighbours] != text_S[neighbours + 1]
    first_P = neighbours[differ]
    random_P = np.full(len(first_P), -1)
    for source in np.unique(source_S[first_P]).tolist():
        members = np.flatnonzero((source_S == source) & there)
        mine = source_S[first_P] == source
        if len(set(text_S[members].tolist())) > 2:  # else there is no third text
            random_P[mine] = draw_others(text_S, members, first_P[mine], rng)
    known = random_P >= 0
    first_P, random_P = first_P[known], random_P[known]
    block_P = np.concatenate([[0], np.cumsum(breaks(source_S[first_P]))]).astype(np.int64)[: len(first_P)]
    return Pairs(first_P, first_P + 1, random_P, block_P, int((~differ).sum()))


def breaks(source_P: Ints) -> Ints:
    """Return 1 for each pair but the first that begins a block: after `BLOCK` pairs, and in a new source."""
    begins, length = [], 1
    for one, other in pairwise(source_P.tolist()):
        is_new = one != other or length == BLOCK
        length = 1 if is_new else length + 1
        begins.append(int(is_new))
    return np.array(begins, np.int64)


def draw_others(text_S: Ints, members: Ints, first_P: Ints, rng: np.random.Generator) -> Ints:
    """Return for each pair one of some sentences whose text is that of neither; there must be three texts."""
    drawn_P = rng.choice(members, len(first_P))
    while True:
        taken = (text_S[drawn_P] == text_S[first_P]) | (text_S[drawn_P] == text_S[first_P + 1])
        if not taken.any():
            return drawn_P
        drawn_P[taken] = rng.choice(members, int(taken.sum()))


# --- scores ---------------------------------------------------------------------------------------


def score(cosines: dict[summaries.Summary, tuple[Floats, Floats]], draws_RP: Ints) -> list[Scores]:
    """Return accuracy and AUC of every vector.

    Args:
        cosines: For every vector, the cosines with the next and with the random sentence, (P,) each.
        draws_RP: How often each resample takes each pair.
    """
    once = np.ones((1, draws_RP.shape[1]), np.int64)

    def measure(name: str, figure: Callable[[Floats, Floats, Ints], Floats]) -> Measure:
        values = {key: float(figure(*each, once)[0]) for key, each in cosines.items()}
        return Measure(name, values, lambda key: figure(*cosines[key], draws_RP))

    return [Scores(measure("accuracy", accuracies), 0.5), Scores(measure("AUC", pair_aucs), 0.5)]


def accuracies(next_P: Floats, random_P: Floats, draws_RP: Ints) -> Floats:
    """Return the share of pairs whose next sentence is nearer, of each resample, (R,); ties half."""
    won_P = (next_P > random_P) + (next_P == random_P) / 2
    return draws_RP @ won_P / draws_RP.sum(axis=1)


def pair_aucs(next_P: Floats, random_P: Floats, draws_RP: Ints) -> Floats:
    """Return the AUC of next against random sentences of each resample, (R,)."""
    both = np.concatenate([next_P, random_P])
    is_next = np.arange(len(both)) < len(next_P)
    parts = []
    for begin in range(0, len(draws_RP), _AT_ONCE):
        some = draws_RP[begin : begin + _AT_ONCE]
        parts.append(aucs(both, is_next, np.concatenate([some, some], axis=1)))
    return np.concatenate(parts)


# --- the report -----------------------------------------------------------------------------------


def heading(counts: dict[str, Any]) -> str:
    """Return what a corpus has, in lines."""
    shown = ", ".join(f"{counts[name]:,} {name}" for name in ("sentences", "words", "pairs"))
    left_out = f"{counts['equal_neighbours']} neighbours of equal text left out"
    return wrapped(f"{counts['name']}: {shown}; {left_out}")


if __name__ == "__main__":
    sys.exit(run(main))
