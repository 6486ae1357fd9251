"""Measure whether seconds per word and memory stay the same as the text grows.

    python -m scripts.benchmarks.scaling CORPUS --model NAME [--verses 4000]
        [--factors 1,2,4,8] [--workers 1,2]
        [--shard-size 256kb] [--repeats 1] [--work FOLDER]

Every run has the same size of shards. The texts are --verses lines times each of the factors, the corpus
from its beginning again where it has too few, with the largest number of workers; the largest text also
with the others. Small and large alternate. Prints the machine, a table of medians, and a last line of
JSON; exit status 1 if the seconds per word, or the memory of the largest worker, of the largest text
differ from the smallest's by more than 10 %.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import shown
from scripts.command_line import Parser, positive, positives, run, say

LIMIT = 0.1
_SHARDS_PER_WORKER = 4
_CHECKED = {"seconds_per_word": "seconds per word", "worker_bytes": "memory of the largest worker"}

# A factor of the text and a number of workers.
Case = tuple[int, int]


def main() -> int:
    """Run all sizes; returns the exit status."""
    options = parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from ctxbatch.model.hub import find_model

    model = str(find_model(options.model, None).path)
    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        work = Path(folder)
        machine = measuring.describe_machine(work)
        texts = {factor: write_text(options, work, factor) for factor in options.factors}
        rounds: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases(options)}
        for number in range(options.repeats):
            for case in in_turns(list(rounds), number):
                rounds[case].append(run_case(model, options, work, texts[case[0]], case))
    medians = {case: measuring.medians(results) for case, results in rounds.items()}
    return report(options, machine, medians, rounds)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--verses", type=positive, default=4000, metavar="N", help="lines of the factor 1")
    parser.add_argument("--factors", type=positives, default=[1, 2, 4, 8], metavar="N,...", help="sizes")
    parser.add_argument("--workers", type=positives, default=[1, 2], metavar="N,...", help="of ctxbatch run")
    parser.add_argument("--shard-size", default="256kb", help="as of ctxbatch run")
    parser.add_argument("--repeats", type=positive, default=1, metavar="R", help="rounds")
    parser.add_work()
    return parser.parse_args()


def write_text(options: argparse.Namespace, work: Path, factor: int) -> Path:
    """Write the text of a factor and return its path."""
    lines = measuring.take_lines(options.corpus, factor * options.verses)
    return measuring.write_lines(work / f"text-{factor}.txt", lines)


def cases(options: argparse.Namespace) -> list[Case]:
    """Return what is run: all sizes with the largest number of workers, then the largest with the others."""
    *fewer, most = options.workers
    return [(factor, most) for factor in options.factors] + [(options.factors[-1], n) for n in fewer]


def in_turns(listed: Sequence[Case], number: int) -> list[Case]:
    """Smallest, largest, second smallest and so on; every second round the other way round."""
    by_size = sorted(listed)
    ordered = [by_size[n // 2] if n % 2 == 0 else by_size[-1 - n // 2] for n in range(len(by_size))]
    return ordered if number % 2 == 0 else ordered[::-1]


def run_case(model: str, options: argparse.Namespace, work: Path, text: Path, case: Case) -> dict[str, Any]:
    """One run."""
    factor, workers = case
    settings = ["--model", model, "--shard-size", options.shard_size, "--workers", str(workers)]
    found = measuring.run_ctxbatch(text, work / "out", settings, measuring.child_environment(work))
    found["seconds_per_word"] = found["seconds"] / found["words"]
    found["tokens_per_second"] = found["tokens"] / found["seconds"]
    say(f"{factor} x {options.verses:,} lines, {workers} workers: {found['seconds']:.1f} s")
    if found["shards"] < _SHARDS_PER_WORKER * workers:
        say(f"only {found['shards']} shards for {workers} workers: a smaller --shard-size keeps all at work")
    return found


def report(
    options: argparse.Namespace,
    machine: Mapping[str, Any],
    medians: Mapping[Case, Mapping[str, Any]],
    rounds: Mapping[Case, Sequence[Mapping[str, Any]]],
) -> int:
    """Print everything; returns the exit status."""
    first, last = (medians[options.factors[n], options.workers[-1]] for n in (0, -1))
    ratios = {name: last[name] / first[name] for name in _CHECKED}
    print(measuring.machine_lines(machine))
    print(f"{options.model}, {last['precision']}; shards of {options.shard_size}\n")
    print(table(options, medians, first))
    print(
        "\nratio: to the first row; MB: peak resident memory of the largest worker and of the coordinator\n"
    )
    for name, ratio in ratios.items():
        if abs(ratio - 1) > LIMIT:
            sizes = f"{options.factors[-1]} x is {ratio:.2f} of that at {options.factors[0]} x"
            print(f"FAILED: {_CHECKED[name]} at {sizes}")
    passed = all(abs(ratio - 1) <= LIMIT for ratio in ratios.values())
    listed = [
        {"factor": factor, "workers": workers, **found, "rounds": rounds[factor, workers]}
        for (factor, workers), found in medians.items()
    ]
    facts = {"machine": machine, "model": options.model, "verses": options.verses, "pass": passed}
    print(json.dumps({**facts, "shard_size": options.shard_size, "ratios": ratios, "cases": listed}))
    return 0 if passed else 1


def table(
    options: argparse.Namespace, medians: Mapping[Case, Mapping[str, Any]], first: Mapping[str, Any]
) -> str:
    """Return a row for each size and number of workers."""
    heads = ["text", "words", "workers", "tokens/s", "us/word", "ratio", "worker MB", "ratio"]
    heads += ["coord. MB", "whole s", "written MB"]
    rows = [
        [
            f"{factor} x {options.verses:,}",
            shown(found["words"]),
            str(workers),
            shown(found["tokens_per_second"]),
            shown(found["seconds_per_word"] * 1e6, ",.1f"),
            shown(found["seconds_per_word"] / first["seconds_per_word"], ".2f"),
            shown(found["worker_bytes"] / 1e6),
            shown(found["worker_bytes"] / first["worker_bytes"], ".2f"),
            shown(found["coordinator_bytes"] / 1e6),
            shown(found["whole_seconds"], ",.1f"),
            shown(found["bytes_written"] / 1e6),
        ]
        for (factor, workers), found in medians.items()
    ]
    return measuring.table(heads, rows)


if __name__ == "__main__":
    sys.exit(run(main))
