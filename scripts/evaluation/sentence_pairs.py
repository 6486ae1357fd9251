"""Read pairs of sentences with relatedness and entailment, in the form of SICK, and group those that meet.

Knows the format; nothing of vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctxbatch.errors import InputError
from scripts.evaluation.marked_words import Ints
from scripts.evaluation.pairs import numbered_lines

JUDGMENTS = ("NEUTRAL", "ENTAILMENT", "CONTRADICTION")
# Each column, and another name that it has in some editions.
_COLUMNS = {
    "sentence_A": "sentence_A",
    "sentence_B": "sentence_B",
    "relatedness_score": "relatedness_score",
    "entailment_judgment": "entailment_label",
}
_LOWEST, _HIGHEST = 1, 5


@dataclass(frozen=True, slots=True)
class SentencePair:
    """Two sentences, how related they are, from 1 to 5, and the judgment; ``place`` is file and line."""

    texts: tuple[str, str]
    relatedness: float
    judgment: str
    place: str


def read_sentence_pairs(path: Path) -> list[SentencePair]:
    """Read a file of pairs.

    Raises:
        InputError: The file cannot be read, a line is not as it must be, or there is nothing to rank.
    """
    pairs = list(_read(path))
    if not pairs:
        raise InputError(f"{path} holds no pairs")
    if len({pair.relatedness for pair in pairs}) < 2:
        raise InputError(f"{path}: all pairs have one relatedness, so there is nothing to rank")
    return pairs


def _read(path: Path) -> Iterator[SentencePair]:
    lines = numbered_lines(path)
    head, place = next(lines, ("", f"{path}:1"))
    names = head.removeprefix("\ufeff").split("\t")
    columns = [_column(names, name, other, place) for name, other in _COLUMNS.items()]
    for line, line_place in lines:
        fields = line.split("\t")
        if len(fields) != len(names):
            raise InputError(f"{line_place}: {len(fields)} fields, the line of names has {len(names)}")
        yield _pair([fields[column] for column in columns], line_place)


def _column(names: Sequence[str], name: str, other: str, place: str) -> int:
    for known in (name, other):
        if known in names:
            return names.index(known)
    raise InputError(
        f"{place}: no column {name}; the first line must name {', '.join(_COLUMNS)} between tabs"
    )


def _pair(fields: Sequence[str], place: str) -> SentencePair:
    first, second, score, judgment = (field.strip() for field in fields)
    for name, text in (("sentence_A", first), ("sentence_B", second)):
        if not text:
            raise InputError(f"{place}: {name} is empty")
    try:
        relatedness = float(score)
    except ValueError:
        relatedness = float("nan")
    if not _LOWEST <= relatedness <= _HIGHEST:
        needed = f"a number from {_LOWEST} to {_HIGHEST}"
        raise InputError(f"{place}: relatedness_score is {score!r}, it must be {needed}")
    if judgment not in JUDGMENTS:
        raise InputError(f"{place}: entailment_judgment is {judgment!r}, it must be {', '.join(JUDGMENTS)}")
    return SentencePair((first, second), relatedness, judgment, place)


def groups_of(pairs: Sequence[SentencePair]) -> Ints:
    """Return the number of each pair's group, from 0 up: pairs that share a sentence, even through others."""
    above: dict[str, str] = {}

    def root(text: str) -> str:
        while above.setdefault(text, text) != text:
            above[text] = above[above[text]]
            text = above[text]
        return text

    for pair in pairs:
        first, second = map(root, pair.texts)
        above[first] = second
    _, group_P = np.unique([root(pair.texts[0]) for pair in pairs], return_inverse=True)
    return group_P
