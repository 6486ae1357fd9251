"""Encode the sentences of word-in-context pairs, and compare the marked words by every kind of vector.

Array names end in the letters of their shape: K pairs, D hidden size.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctxbatch.errors import InputError
from scripts.command_line import say
from scripts.evaluation.marked_words import Floats, MarkedWords, cosines, encode
from scripts.evaluation.pairs import Pair
from scripts.evaluation.separating import Bools
from scripts.evaluation.vector_kinds import State, vectors_of

Column = tuple[str, int]  # a kind of vector and a layer; static has layer 0


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
    found, records = encode_pairs(options, work, pairs + others)
    return score(found, records, pairs), score(found, records, others) if others else None


def encode_pairs(
    options: argparse.Namespace, work: Path, pairs: list[Pair]
) -> tuple[MarkedWords, dict[str, int]]:
    """Encode the distinct sentences of pairs; returns them, and the record of each."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair.texts))
    say(f"encoding {len(texts):,} sentences with {options.model}")
    given = {"workers": options.workers, "precision": options.precision}
    found = encode(texts, work, options.model, keep_punctuation=True, **given)
    return found, {text: number for number, text in enumerate(texts)}


def score(found: MarkedWords, records: Mapping[str, int], pairs: list[Pair], state: State = "plain") -> Split:
    """Return the cosine of every pair's vectors, for every kind and layer."""
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
        for kind, vectors in vectors_of(found, layer, both, state).items():
            found_cosines[kind, layer] = rounded_cosines(*vectors)
    return Split(kept, missing, found_cosines)


def rounded_cosines(first_KD: Floats, second_KD: Floats) -> Floats:
    """Cosines to six places: equal words at equal places have equal static vectors, up to the last bits."""
    return np.round(cosines(first_KD, second_KD), 6)
