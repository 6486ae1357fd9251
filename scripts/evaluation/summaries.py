"""Give every sentence of a store the vectors that may summarise it: of its most salient word, and means.

Array names end in the letters of their shape: S sentences, D hidden size.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ctxbatch.choices import SENTENCE_VECTORS, SentenceVector, default_layer
from ctxbatch.errors import InputError
from scripts.command_line import Parser, positive, positives
from scripts.evaluation.marked_words import Floats, Ints
from scripts.evaluation.vector_kinds import SHIFTS

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store

WAYS: tuple[SentenceVector, ...] = SENTENCE_VECTORS[::-1]  # salient first: it is what is in question


class Summary(NamedTuple):
    """A vector of a sentence: of its most salient word or a mean, its kind and layer, 0 for static."""

    by: SentenceVector
    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.by} {self.kind}" + (f" {self.layer}" if self.layer else "")


def add_options(parser: Parser) -> None:
    """Add the options of evaluations of sentences' vectors."""
    parser.add_model()
    told = "numbers between commas; by default, two thirds of the depth and the last"
    parser.add_argument("--layers", type=positives, help=told)
    parser.add_argument("--json", action="store_true", help="print the line of JSON alone")
    parser.add_argument("--resamples", type=positive, default=1000, help="of the bootstrap")
    parser.add_argument("--precision", default="fp32", help="as of ctxbatch run")
    parser.add_argument("--workers", type=positive, help="as of ctxbatch run")
    parser.add_seed()
    parser.add_work()


def check_options(options: argparse.Namespace) -> None:
    """Check what argparse does not, and choose the layers.

    Raises:
        InputError: There are too few resamples, or no such model or layer.
    """
    from ctxbatch.model.facts import read_facts
    from ctxbatch.model.hub import find_model

    if options.resamples < 100:
        raise InputError(f"--resamples {options.resamples} is too few for intervals: it must be 100 or more")
    n_layers = read_facts(find_model(options.model, None)).n_layers
    options.layers = options.layers or sorted({default_layer(n_layers), n_layers})
    if max(options.layers) > n_layers:
        raise InputError(f"--layers {max(options.layers)}: {options.model} has layers 1 to {n_layers}")


def summaries(layers: Sequence[int]) -> list[Summary]:
    """Return all vectors of sentences, in the order of a table."""
    return [
        Summary(by, kind, layer)
        for by in WAYS
        for layer in (0, *layers)
        for kind in ((*SHIFTS, "contextual") if layer else ("static",))
    ]


def summary_vectors(store: "Store", summary: Summary) -> tuple[Ints, Floats]:
    """Return the sentence_ids of sentences with rows, (S,), and a vector of each, (S, D)."""
    parameters = SHIFTS.get(summary.kind, {})
    found = store.sentence_vectors(summary.by, summary.kind, summary.layer or None, **parameters)
    ids, vectors = zip(*found, strict=True)
    return np.concatenate(ids), np.concatenate(vectors)


def vectors_of_sentences(store: "Store", layers: Sequence[int]) -> Iterator[tuple[Summary, Floats]]:
    """Yield every vector, each of all sentences with rows, (S, D)."""
    for summary in summaries(layers):
        yield summary, summary_vectors(store, summary)[1]


def sentences_with_rows(store: "Store") -> Ints:
    """Return the sentence_ids of sentences with rows, (S,)."""
    return np.unique(store.words.to_table(columns=["sentence_id"])["sentence_id"].to_numpy())
