"""Measure how many gold words of treebanks are found, with tokenizers of several kinds.

    python -m scripts.evaluation.words en.conllu th.conllu... [--model NAME ...]

A treebank is a CoNLL-U file whose name begins with the code of its language. Its gold words are its tokens
with a letter or digit; a token of several syntactic words, such as *don't* in English or *zum* in German, is
one. A gold word is found if a word has exactly its place. That is compared with the words of the tokenizer's
own rule, which stores of before have. A mark of a gold word (an accent, a vowel sign) is cut off if it is not
in the word of the character before it.
Tokenizers of the kinds that models have are trained on the treebank's own text; those of the models that are
given are added. Prints a table and a last line of JSON; exit status 1 if a mark is cut off, or if the words
of two tokenizers differ.
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ctxbatch.errors import InputError
from ctxbatch.text.batching import BatchMaker
from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_file, run, say
from tests.helpers.tokenizers import KINDS, maker_of, rows_in, train

Place = tuple[int, int]
_ID, _FORM, _MISC, _COLUMNS = 0, 1, 9, 10


@dataclass(frozen=True)
class Sentence:
    """A text, and where its gold words begin and end."""

    text: str
    words: tuple[Place, ...]


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    machine = measuring.describe_machine(Path())
    rows: list[dict[str, Any]] = []
    for path in options.treebanks:
        sentences = read_treebank(path)
        first: list[list[Place]] | None = None
        for name, tokenizer in tokenizers(options.model, [each.text for each in sentences]):
            say(f"{path.name} {name}")
            found = places(maker_of(tokenizer), sentences)
            first = first or found
            own = evaluate(sentences, places(maker_of(tokenizer, word_rule=None), sentences))
            rows.append(
                {
                    "treebank": path.name.split(".")[0].split("_")[0],
                    "model": name,
                    "sentences": len(sentences),
                    **evaluate(sentences, found),
                    "own_recall": own["recall"],
                    "own_marks_cut": own["marks_cut"],
                    "same": found == first,
                }
            )
    report(machine, rows)
    return int(any(row["marks_cut"] or not row["same"] for row in rows))


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("treebanks", nargs="+", type=existing_file, metavar="TREEBANK.conllu")
    told = "name or folder of a model, any number of times"
    parser.add_argument("--model", action="append", default=[], help=told)
    return parser.parse_args()


def tokenizers(models: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, Tokenizer]]:
    """Yield a tokenizer of each kind, trained on some texts, and those of models."""
    from ctxbatch.model.hub import find_model

    for kind in KINDS:
        yield kind, train(kind, texts)
    for model in models:
        folder = find_model(model, None)
        yield model.rstrip("/").rpartition("/")[2], Tokenizer.from_file(f"{folder.path}/tokenizer.json")


# --- the treebanks --------------------------------------------------------------------------------


def read_treebank(path: Path) -> list[Sentence]:
    """Return the sentences of a treebank.

    Raises:
        InputError: The file is not UTF-8, has no sentences, or one does not have its words.
    """
    try:
        blocks = path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n\n")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None
    sentences = [read_sentence(block.split("\n"), path) for block in blocks if block.strip()]
    if not sentences:
        raise InputError(f"{path} has no sentences: give a CoNLL-U treebank")
    return sentences


def read_sentence(lines: Sequence[str], path: Path) -> Sentence:
    """Return a sentence from its lines.

    Raises:
        InputError: It has no line that begins with ``# text =``, or its words are not in that text.
    """
    text = next((line.partition("=")[2].strip() for line in lines if line.startswith("# text =")), None)
    rows = [line.split("\t") for line in lines if line[:1].isdecimal()]
    if text is None or any(len(row) < _COLUMNS for row in rows):
        raise InputError(f"{path} has a sentence without '# text =' or ten columns: give a CoNLL-U treebank")
    words: list[Place] = []
    position = 0
    for form in gold_forms(rows):
        begin = text.find(form, position)
        if begin < 0 or text[position:begin].strip():
            raise InputError(f"{path}: {form!r} does not follow in {text!r}")
        position = begin + len(form)
        if any(map(str.isalnum, form)):
            words.append((begin, position))
    return Sentence(text, tuple(words))


def gold_forms(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the forms of tokens."""
    until = 0
    for row in rows:
        first, _, last = row[_ID].partition("-")
        if last:
            until = int(last)
            yield row[_FORM]
        elif first.isdecimal() and int(first) > until:
            yield row[_FORM]


# --- what is measured -----------------------------------------------------------------------------


def places(maker: BatchMaker, sentences: Sequence[Sentence]) -> list[list[Place]]:
    """Return where the words that are found in each sentence begin and end."""
    rows = rows_in(maker, [sentence.text for sentence in sentences])
    return [[(row.start, row.end) for row in each] for each in rows]


def evaluate(sentences: Sequence[Sentence], found: Sequence[Sequence[Place]]) -> dict[str, Any]:
    """Return how many gold words there are and are found, and how many of their marks are cut off."""
    n_gold = sum(len(sentence.words) for sentence in sentences)
    n_found = sum(len({*sentence.words} & {*words}) for sentence, words in zip(sentences, found, strict=True))
    n_cut = sum(marks_cut(sentence, words) for sentence, words in zip(sentences, found, strict=True))
    return {"gold": n_gold, "recall": n_found / n_gold, "marks_cut": n_cut}


def marks_cut(sentence: Sentence, words: Sequence[Place]) -> int:
    """Count the marks of gold words that are not in the word of the character before them."""
    joined = {place for start, end in words for place in range(start + 1, end)}
    return sum(
        unicodedata.category(sentence.text[place])[0] == "M" and place not in joined
        for start, end in sentence.words
        for place in range(start + 1, end)
    )


# --- the report -----------------------------------------------------------------------------------


def report(machine: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Print the table and the line of JSON."""
    print(measuring.machine_lines(machine))
    heads = ["treebank", "model", "sentences", "gold words", "recall", "marks cut"]
    heads += ["its own recall", "its own marks cut", "same words as the first"]
    cells = [
        [
            row["treebank"],
            row["model"],
            f"{row['sentences']}",
            f"{row['gold']}",
            f"{row['recall']:.3f}",
            f"{row['marks_cut']}",
            f"{row['own_recall']:.3f}",
            f"{row['own_marks_cut']}",
            "yes" if row["same"] else "no",
        ]
        for row in rows
    ]
    print(f"\n{measuring.table(heads, cells)}\n")
    print(json.dumps({"machine": machine, "rows": rows}))


if __name__ == "__main__":
    sys.exit(run(main))
