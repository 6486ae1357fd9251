"""Measure what salience and selections of words cost, and what they spare.

    python -m scripts.benchmarks.selection CORPUS --model NAME [--lines N] [--repeats 3]
        [--shard-size auto] [--work FOLDER]

Every round runs, on the same text: all words; all words with their salience; the most salient word of each
sentence; ten rare words; a hundredth of all words. Prints the machine, a table of medians, and a last line
of JSON; exit status 1 if salience takes more than 15 % of the tokens a second, if the most salient words are
8 % of the bytes or more or less than 1.1 times as fast, or if the rare words take more than a tenth of the
seconds.
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import shown
from scripts.command_line import Parser, positive, run, say

_RARE = 10
_RARE_OCCURRENCES = (2, 5)


def main() -> int:
    """Run all selections in turns; returns the exit status."""
    options = parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from ctxbatch.model.hub import find_model

    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        work = Path(folder)
        machine = measuring.describe_machine(work)
        lines = measuring.take_lines(options.corpus, options.lines)
        text = measuring.write_lines(work / "text.txt", lines)
        words = measuring.write_lines(work / "words.txt", rare_words(lines))
        settings = ["--model", str(find_model(options.model, None).path)]
        settings += ["--shard-size", options.shard_size]
        selections = {
            "all words": [],
            "with salience": ["--salience"],
            "most salient": ["--top-salient", "1"],
            f"{_RARE} rare words": ["--words", str(words)],
            "a hundredth": ["--sample", "0.01"],
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in selections}
        for number in range(options.repeats):
            for name, selection in list(selections.items())[:: 1 if number % 2 == 0 else -1]:
                given, environment = [*settings, *selection], measuring.child_environment(work)
                found = measuring.run_ctxbatch(text, work / "out", given, environment)
                found["tokens_per_second"] = found["tokens"] / found["seconds"]
                rounds[name].append(found)
                say(f"round {number + 1}, {name}: {found['seconds']:.1f} s, {found['rows']:,} rows")
    return report(
        options, machine, {name: measuring.medians(found) for name, found in rounds.items()}, rounds
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--lines", type=positive, metavar="N", help="lines of the corpus; all by default")
    parser.add_argument("--repeats", type=positive, default=3, metavar="R", help="rounds")
    parser.add_argument("--shard-size", default="auto", help="as of ctxbatch run")
    parser.add_work()
    return parser.parse_args()


def rare_words(lines: Sequence[str]) -> list[str]:
    """Ten words that occur a few times, drawn at random and always the same.

    Raises:
        InputError: There are fewer such words.
    """
    from ctxbatch.errors import InputError

    counts = Counter(word for line in lines for word in re.findall(r"[a-z]{4,}", line.casefold()))
    least, most = _RARE_OCCURRENCES
    rare = sorted(word for word, count in counts.items() if least <= count <= most)
    if len(rare) < _RARE:
        few = f"the text has only {len(rare)} words that occur {least} to {most} times"
        raise InputError(f"{few}: take one with {_RARE}")
    return random.Random(0).sample(rare, _RARE)


def report(
    options: argparse.Namespace,
    machine: Mapping[str, Any],
    medians: Mapping[str, Mapping[str, Any]],
    rounds: Mapping[str, Sequence[Mapping[str, Any]]],
) -> int:
    """Print everything; returns the exit status."""
    first, salience, salient, rare, _ = medians.values()
    checks = {
        "tokens a second with salience, to without": (
            ratio := salience["tokens_per_second"] / first["tokens_per_second"],
            ratio >= 0.85,
        ),
        "bytes of the most salient words": (
            ratio := salient["bytes_written"] / first["bytes_written"],
            ratio < 0.08,
        ),
        "speed of the most salient words": (ratio := first["seconds"] / salient["seconds"], ratio >= 1.1),
        "seconds of the rare words": (ratio := rare["seconds"] / first["seconds"], ratio <= 0.1),
    }
    print(measuring.machine_lines(machine))
    print(f"{options.model}, {first['precision']}; {options.repeats} rounds\n")
    heads = ["stored", "rows", "tokens", "tokens/s", "seconds", "ratio", "written MB", "ratio", "worker MB"]
    rows = [
        [
            name,
            shown(found["rows"]),
            shown(found["tokens"]),
            shown(found["tokens_per_second"]),
            shown(found["seconds"], ",.1f"),
            shown(found["seconds"] / first["seconds"], ".2f"),
            shown(found["bytes_written"] / 1e6, ",.1f"),
            shown(found["bytes_written"] / first["bytes_written"], ".3f"),
            shown(found["worker_bytes"] / 1e6),
        ]
        for name, found in medians.items()
    ]
    print(measuring.table(heads, rows))
    print()
    for name, (value, holds) in checks.items():
        print(f"{name}: {value:.3f}{'' if holds else ': FAILED'}")
    passed = all(holds for _, holds in checks.values())
    cases = {name: {**found, "rounds": rounds[name]} for name, found in medians.items()}
    ratios = {name: round(value, 4) for name, (value, _) in checks.items()}
    facts = {"machine": machine, "model": options.model, "pass": passed}
    print(json.dumps({**facts, "ratios": ratios, "cases": cases}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(run(main))
