"""Measure how well and how fast splitters find the sentences of treebanks.

    python -m scripts.evaluation.sentences en.conllu de.conllu... [--splitters ctxbatch,icu]

A treebank is a CoNLL-U file whose name begins with the code of its language; its `# text =` lines are the
gold sentences. Ten at a time are joined to a text: with a space, or with nothing where the language writes
none between words and sentences, which is so if a space follows fewer than one in twenty tokens (Chinese;
Thai writes spaces between sentences, but no other sign of their end). A splitter is right where a sentence of
its own begins with the first letter of a gold one; the beginning of a text does not count. A gold sentence is
found if the splitter has exactly it. Speed is that of one core, in megabytes of UTF-8, on these texts and on
all of them repeated to one line: of --line megabytes, or of so many that a splitter takes seconds. Where the
second is far below the first, time does not grow with the text alone. Intervals are of 95 %, by bootstrap
over the texts.
Prints the machine, a table, and a last line of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ctxbatch.errors import InputError
from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_file, positive, run, say, some_of
from scripts.evaluation.sentence_splitters import SPLITTERS, Splitter, load
from scripts.evaluation.separating import interval

_JOINED = 10
_PASSES, _SECONDS = 3, 0.1
_LONG = 1.0
_MEASURES = ("precision", "recall", "f1", "found")
# The distributions of the splitters.
_LIBRARIES = ("sentencex", "icu4py", "pysbd", "syntok", "blingfire", "segtok", "razdel", "spacy")


@dataclass(frozen=True)
class Text:
    """Gold sentences joined to a text, and where each begins."""

    text: str
    starts: tuple[int, ...]


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    splitters = {name: load(name) for name in options.splitters}
    treebanks = {language_of(path): read_treebank(path) for path in options.treebanks}
    machine = measuring.describe_machine(Path())
    rows = []
    for lang, texts in treebanks.items():
        for name, split in splitters.items():
            say(f"{lang} {name}")
            rows.append({"language": lang, "splitter": name, **evaluate(texts, split, lang, options)})
    report(options, machine, treebanks, rows)
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("treebanks", nargs="+", type=existing_file, metavar="TREEBANK.conllu")
    parser.add_argument(
        "--splitters",
        type=some_of(SPLITTERS),
        default=["ctxbatch", "sentencex"],
        help=f"of {', '.join(SPLITTERS)}; ctxbatch,sentencex by default",
    )
    parser.add_argument("--line", type=float, default=1.0, help="megabytes of the long line")
    parser.add_argument("--resamples", type=positive, default=1000, help="of the bootstrap")
    parser.add_seed()
    return parser.parse_args()


# --- the treebanks --------------------------------------------------------------------------------


def language_of(path: Path) -> str:
    """Return the code that a file's name begins with: ``en`` of ``en_pud-ud-test.conllu``."""
    return path.name.split(".")[0].split("_")[0]


def read_treebank(path: Path) -> list[Text]:
    """Return the sentences of a treebank, ten joined to a text.

    Raises:
        InputError: The file is not UTF-8, or has no sentences.
    """
    sentences, n_tokens, n_spaces = [], 0, 0
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text") from None
    for line in lines:
        if line.startswith("# text ="):
            sentences.append(line.partition("=")[2].strip())
        elif line[:1].isdecimal():
            n_tokens += 1
            n_spaces += "SpaceAfter=No" not in line
    if not sentences:
        raise InputError(f"{path} has no line that begins with '# text =': give a CoNLL-U treebank")
    # The last token of a sentence counts for none: what follows it is not in the sentence.
    between = " " if n_spaces - len(sentences) > n_tokens / 20 else ""
    return [join(sentences[k : k + _JOINED], between) for k in range(0, len(sentences), _JOINED)]


def join(sentences: Sequence[str], between: str) -> Text:
    """Return sentences as a text, with where each begins."""
    lengths = [len(sentence) + len(between) for sentence in sentences]
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    return Text(between.join(sentences), tuple(starts))


# --- what is measured -----------------------------------------------------------------------------


def evaluate(
    texts: Sequence[Text], split: Splitter, lang: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the measures of a splitter on a treebank, with intervals, and its speeds."""
    counts_TK = np.array([count(each, split(each.text, lang)) for each in texts])
    rng = np.random.default_rng(options.seed)
    draws_RT = rng.multinomial(len(texts), [1 / len(texts)] * len(texts), size=options.resamples)
    resampled = measures(draws_RT @ counts_TK)
    values = measures(counts_TK.sum(axis=0))
    figures: dict[str, Any] = {name: float(values[name]) for name in _MEASURES}
    figures["intervals"] = {name: interval(resampled[name]) for name in _MEASURES}
    figures["mb_per_s"] = speed([each.text for each in texts], split, lang)
    figures["line_mb_per_s"], figures["line_mb"] = line_speed(texts, split, lang, options.line)
    return figures


def count(gold: Text, found: Iterable[int]) -> tuple[int, int, int, int, int]:
    """Count the boundaries that are in both, in gold, found, and the gold sentences: all, exactly found."""
    text = gold.text
    starts = {start + len(text[start:]) - len(text[start:].lstrip()) for start in found}
    inner = starts - {0, len(text)}
    wanted = set(gold.starts) - {0}
    exact = 0
    for begin, end in zip(gold.starts, [*gold.starts[1:], len(text)], strict=True):
        both = (begin in inner or begin == 0) and (end in inner or end == len(text))
        exact += both and not any(begin < start < end for start in inner)
    return len(wanted & inner), len(wanted), len(inner), len(gold.starts), exact


def measures(counts: "np.ndarray[Any, Any]") -> dict[str, Any]:
    """Return precision, recall, F1 and the share of sentences found, of what `count` counts: (…, 5)."""
    both, wanted, inner, sentences, exact = np.moveaxis(counts, -1, 0).astype(float)
    return {
        "precision": both / np.maximum(inner, 1),
        "recall": both / np.maximum(wanted, 1),
        "f1": 2 * both / np.maximum(wanted + inner, 1),
        "found": exact / sentences,
    }


def speed(texts: Sequence[str], split: Splitter, lang: str) -> float:
    """Return the megabytes a second of one core: the best of some passes."""
    size, best = sum(len(text.encode()) for text in texts) / 1e6, 0.0
    for _ in range(_PASSES):
        begun, n = time.process_time(), 0
        while not n or time.process_time() - begun < _SECONDS:
            for text in texts:
                split(text, lang)
            n += 1
        best = max(best, n * size / (time.process_time() - begun))
    return best


def line_speed(texts: Sequence[Text], split: Splitter, lang: str, most: float) -> tuple[float, float]:
    """Return the megabytes a second in one line, and its megabytes: ``most``, or fewer if they take long."""
    line = " ".join(each.text for each in texts)
    while True:
        size = len(line.encode()) / 1e6
        begun = time.process_time()
        split(line, lang)
        seconds = time.process_time() - begun
        if seconds > _LONG or size >= most:
            return size / seconds, size
        line = " ".join([line] * 2)


# --- the report -----------------------------------------------------------------------------------


def report(
    options: argparse.Namespace,
    machine: dict[str, Any],
    treebanks: dict[str, list[Text]],
    rows: list[dict[str, Any]],
) -> None:
    """Print the machine, the table and the line of JSON."""
    for name in _LIBRARIES:
        if any(row["splitter"].startswith(name[:3]) for row in rows):
            machine["versions"][name] = metadata.version(name)
    print(measuring.machine_lines(machine))
    for lang, texts in treebanks.items():
        sentences = sum(len(each.starts) for each in texts)
        print(f"{lang}: {sentences} sentences in {len(texts)} texts")
    print()
    heads = ["precision", "recall", "F1", "found"]
    print(f"{'':5}{'':13}" + "".join(f"{head:>22}" for head in heads) + f"{'MB/s':>8}{'in a line of MB':>18}")
    for row in rows:
        cells = [f"{row[name]:.3f} [{low:.3f}, {high:.3f}]" for name, low, high in spans(row)]
        speeds = f"{row['mb_per_s']:8.2f}{row['line_mb_per_s']:11.2f}{row['line_mb']:7.2f}"
        print(f"{row['language']:5}{row['splitter']:13}" + "".join(f"{c:>22}" for c in cells) + speeds)
    given = {"line": options.line, "resamples": options.resamples, "seed": options.seed}
    print(json.dumps({"machine": machine, "options": given, "rows": rows}))


def spans(row: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return the measures of a row with their intervals."""
    return [(name, *row["intervals"][name]) for name in _MEASURES]


if __name__ == "__main__":
    sys.exit(run(main))
