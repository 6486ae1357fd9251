"""Measure what it costs to find words by Unicode's rule instead of the tokenizer's.

    python -m scripts.benchmarks.words CORPUS --model NAME [--repeats 7] [--work FOLDER]

Reads a text, cuts it into sentences and tokenises them, by both rules in turns; nothing is encoded. The text
is also read with typographic quotes and dashes, and with an accent in every line. Prints the machine, a table
of medians of CPU time (of minima too, which other programs disturb less), and a last line of JSON; exit
status 1 if the new rule has less than 0.95 of the speed of the old one on the text as it is.
"""

import argparse
import gzip
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.benchmarks import measuring
from scripts.benchmarks.contenders import run_sentences
from scripts.command_line import Parser, positive, run, say

if TYPE_CHECKING:
    from ctxbatch.config import ResolvedConfig
    from ctxbatch.run_config import RunConfig

_LEAST_RATIO = 0.95
_NEW, _OLD = "Unicode's", "the tokenizer's"
Seconds = Mapping[str, Sequence[float]]


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = parse()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in the workers of a run
    from ctxbatch.model import resolve
    from ctxbatch.run_config import RunConfig

    config = RunConfig(model=options.model, precision="fp32", index=False)
    new = resolve.resolve(config, "cpu")
    rules = {_NEW: new, _OLD: replace(new, word_rule=None)}
    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        machine = measuring.describe_machine(Path(folder))
        cases = []
        for name, text in variants(read(options.corpus)).items():
            path = Path(folder) / "text.txt"
            path.write_text(text, encoding="utf-8")
            seconds, counts = measure(path, config, rules, options.repeats)
            cases.append({"text": name, **counts, **compared(seconds), "seconds": seconds})
            say(f"{name}: {cases[-1]['ratio']:.3f}")
    report(options, machine, cases)
    return int(cases[0]["ratio"] < _LEAST_RATIO)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--repeats", type=positive, default=7, metavar="R", help="rounds")
    parser.add_work()
    return parser.parse_args()


def read(path: Path) -> str:
    """Return a text in UTF-8, also one that gzip has compressed."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def variants(text: str) -> dict[str, str]:
    """Return a text as it is, with typographic quotes and dashes, and with an accent in every line."""
    typographic = re.sub(r'(?<!\S)"', "\u201c", text).replace('"', "\u201d")
    typographic = typographic.replace("'", "\u2019").replace("--", "\u2014")
    accented = "".join(line.replace("e", "\u00e9", 1) for line in text.splitlines(keepends=True))
    return {"as it is": text, "typographic": typographic, "accented": accented}


def measure(
    text: Path, config: "RunConfig", rules: "Mapping[str, ResolvedConfig]", repeats: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the CPU seconds of each rule in each round, and what the text comes to."""
    from ctxbatch.model.resolve import read_tokenizer
    from ctxbatch.text.batching import BatchMaker

    makers = {name: BatchMaker(read_tokenizer(resolved), resolved) for name, resolved in rules.items()}
    seconds: dict[str, list[float]] = {name: [] for name in rules}
    counts: dict[str, Any] = {}
    for number in range(repeats + 1):  # the first warms up
        for name in list(rules)[:: 1 if number % 2 == 0 else -1]:
            started = time.process_time()
            n_words = n_sentences = n_ascii = 0
            for sentences in run_sentences(text, config, rules[name]):
                for buffer in makers[name].buffers(sentences):
                    n_words += len(buffer.rows)
                    n_sentences += len(buffer.sentences)
                    n_ascii += sum(each.text.isascii() for each in buffer.sentences)
            if number:
                seconds[name].append(time.process_time() - started)
            counts[f"words by {name}"] = n_words
            counts["sentences"], counts["ascii"] = n_sentences, n_ascii / n_sentences
    return seconds, counts


def compared(seconds: Seconds) -> dict[str, float]:
    """Return the speed of the new rule, as a share of that of the old one: by medians and by minima."""
    return {
        "ratio": statistics.median(seconds[_OLD]) / statistics.median(seconds[_NEW]),
        "ratio_of_minima": min(seconds[_OLD]) / min(seconds[_NEW]),
    }


def report(options: argparse.Namespace, machine: Mapping[str, Any], cases: Sequence[dict[str, Any]]) -> None:
    """Print everything."""
    print(measuring.machine_lines(machine))
    print(f"{options.corpus.name}, {options.model}, {options.repeats} rounds; seconds of CPU\n")
    heads = ["text", "sentences", "in ASCII", f"{_NEW} rule", f"{_OLD}", "speed", "of minima"]
    rows = [
        [
            case["text"],
            f"{case['sentences']:,}",
            f"{case['ascii']:.0%}",
            f"{statistics.median(case['seconds'][_NEW]):.3f}",
            f"{statistics.median(case['seconds'][_OLD]):.3f}",
            f"{case['ratio']:.3f}",
            f"{case['ratio_of_minima']:.3f}",
        ]
        for case in cases
    ]
    print(measuring.table(heads, rows))
    print()
    found = {"machine": machine, "corpus": options.corpus.name, "model": options.model}
    print(json.dumps({**found, "repeats": options.repeats, "cases": cases}))


if __name__ == "__main__":
    sys.exit(run(main))
