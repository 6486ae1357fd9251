"""Reading word-in-context pairs: two sentences, a marked word in each, and whether it means the same.

Knows the published WiC format (a data file and a gold file) and JSON lines; nothing of vectors.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ctxbatch.errors import InputError

_FIELDS = ("lemma", "s1", "span1", "s2", "span2", "label")
_FORM = "lemma, POS, i-j, sentence, sentence between tabs"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences and the code points of the marked word in each; ``place`` is file and line."""

    lemma: str
    texts: tuple[str, str]
    spans: tuple[tuple[int, int], tuple[int, int]]
    same: bool
    place: str


def read_pairs(files: Sequence[str]) -> list[Pair]:
    """Read a file of JSON lines, or a WiC data file and its gold file.

    Raises:
        InputError: A file cannot be read, or a line of one is not as it must be.
    """
    data = Path(files[0])
    is_json = data.suffix in (".jsonl", ".ndjson")
    if len(files) > 2 or (is_json and len(files) > 1):
        raise InputError(
            f"{' '.join(files)}: give a file of JSON lines, or a WiC data file and its gold file"
        )
    if not is_json and len(files) == 1:
        raise InputError(f"{data} needs its gold file after it, a T or F a line; JSON lines end in .jsonl")
    pairs = list(_read_json(data) if is_json else _read_wic(data, Path(files[1])))
    if not pairs:
        raise InputError(f"{data} holds no pairs")
    if len({pair.same for pair in pairs}) < 2:
        raise InputError(f"{data}: all pairs have one label, so there is nothing to tell apart")
    return pairs


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line with its place, which is file and line.

    Raises:
        InputError: The file cannot be read, or a line is no UTF-8 text.
    """
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines if lines != [b""] else [], 1):
        place = f"{path}:{number}"
        try:
            yield line.decode("utf-8").removesuffix("\r"), place
        except UnicodeDecodeError:
            raise InputError(f"{place}: the line is no UTF-8 text") from None


def _read_json(path: Path) -> Iterator[Pair]:
    for line, place in numbered_lines(path):
        try:
            given = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: the line is not JSON ({error})") from None
        missing = [name for name in _FIELDS if not isinstance(given, dict) or name not in given]
        if missing:
            raise InputError(f"{place}: the line must be an object with {', '.join(missing)}")
        for name in ("lemma", "s1", "s2"):
            if not isinstance(given[name], str):
                raise InputError(f"{place}: {name} is {given[name]!r}, it must be a string")
        if given["label"] not in (0, 1):
            raise InputError(f"{place}: label is {given['label']!r}, it must be 0 or 1")
        spans = tuple(_span(given, number, place) for number in "12")
        yield Pair(given["lemma"], (given["s1"], given["s2"]), spans, bool(given["label"]), place)


def _span(given: dict[str, Any], number: str, place: str) -> tuple[int, int]:
    span, text = given[f"span{number}"], given[f"s{number}"]
    is_pair = isinstance(span, list) and len(span) == 2 and all(type(value) is int for value in span)
    if not is_pair or not 0 <= span[0] < span[1] <= len(text):
        raise InputError(
            f"{place}: span{number} is {span!r}, it must be [begin, end] within the "
            f"{len(text)} characters of s{number}"
        )
    if not text[span[0] : span[1]].strip():
        raise InputError(f"{place}: span{number} {span!r} marks nothing but white space")
    return span[0], span[1]


def _read_wic(data: Path, gold: Path) -> Iterator[Pair]:
    n_data, n_gold = (sum(1 for _ in numbered_lines(path)) for path in (data, gold))
    if n_data != n_gold:
        raise InputError(f"{data} has {n_data} lines and {gold} has {n_gold}: they must be of one split")
    for (line, place), (label, gold_place) in zip_longest(numbered_lines(data), numbered_lines(gold)):
        fields = line.split("\t")
        if len(fields) != 5:
            raise InputError(f"{place}: {len(fields)} fields, there must be 5: {_FORM}")
        if label.strip() not in ("T", "F"):
            raise InputError(f"{gold_place}: {label!r} must be T or F")
        lemma, _, indexes, *texts = fields
        first, _, second = indexes.partition("-")
        if not (first.isdecimal() and second.isdecimal()):
            raise InputError(f"{place}: {indexes!r} must be the indexes of two words, as 2-0")
        spans = (_token(texts[0], int(first), place), _token(texts[1], int(second), place))
        yield Pair(lemma, (texts[0], texts[1]), spans, label.strip() == "T", place)


def _token(text: str, index: int, place: str) -> tuple[int, int]:
    """Begin and end of a word between white space, counted from 0."""
    tokens = text.split()
    if index >= len(tokens):
        raise InputError(f"{place}: word {index} of {text!r}, which has words 0 to {len(tokens) - 1}")
    begin = 0
    for token in tokens[:index]:
        begin = text.index(token, begin) + len(token)
    begin = text.index(tokens[index], begin)
    return begin, begin + len(tokens[index])
