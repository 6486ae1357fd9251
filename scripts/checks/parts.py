"""Prove that the parts of a run, however often they are killed, end with the bytes of a local run.

    python -m scripts.checks.parts CORPUS --model NAME [--parts 4] [--kills 8] [--shard-size 100kb]
        [--work FOLDER]

All parts start at the same moment, each with one worker. They are killed at random moments with SIGKILL, the
coordinator alone or its whole process group, and started again at once, while the others go on; at the end
every part is started once more. Says each kill on standard error, and prints JSON at the end; exit status 1
if anything differs, or if the run ended before there were so many kills.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scripts.checks.resume import digests
from scripts.command_line import Parser, positive, program, run, say, started, working_folder


def main() -> int:
    """Run the proof; returns the exit status."""
    options = parse()
    with working_folder(options.work) as work:
        facts = prove(options, work)
    print(json.dumps(facts))
    fine = facts["equal"] and not any(facts["statuses"]) and not facts["leftovers"]
    return 0 if fine and sum(facts["kills"].values()) == options.kills else 1


def prove(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run locally, then in parts that are killed; returns what came of it."""
    reference, out = work / "reference", work / "parts"
    for folder in (reference, out):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(command(options, reference), check=True)
    expected = digests(reference)
    say(f"reference: {len(expected)} Arrow files")
    parts = range(1, options.parts + 1)
    with contextlib.ExitStack() as stack:
        start = partial(start_part, options, out, stack)
        running = {number: start(number) for number in parts}
        kills = disturb(options, out, running, start)
        for process in running.values():
            process.wait()
        statuses = [process.wait() for process in [start(number) for number in parts]]
    return {
        "equal": digests(out) == expected,
        "parts": options.parts,
        "kills": dict(kills),
        "statuses": statuses,
        "arrow_files": len(expected),
        "leftovers": [path.name for path in (out / "shards").glob(".*")],
    }


def disturb(
    options: argparse.Namespace,
    out: Path,
    running: dict[int, "subprocess.Popen[bytes]"],
    start: Callable[[int], "subprocess.Popen[bytes]"],
) -> Counter[str]:
    """Kill parts at work and start them again, while there are any; returns how often who was killed."""
    chance = random.Random(options.seed)
    kills: Counter[str] = Counter()
    before = 0
    while sum(kills.values()) < options.kills:
        while len(digests(out)) == before and any(each.poll() is None for each in running.values()):
            time.sleep(0.2)  # until something was committed since the last kill
        before = len(digests(out))
        time.sleep(chance.uniform(0, 4.0))
        at_work = [number for number, process in running.items() if process.poll() is None]
        if not at_work:
            break
        number, whom = chance.choice(at_work), chance.choice(("group", "coordinator"))
        (os.killpg if whom == "group" else os.kill)(running[number].pid, signal.SIGKILL)
        running[number].wait()
        kills[whom] += 1
        say(f"killed {whom} of part {number}, {len(digests(out))} files there")
        running[number] = start(number)
    return kills


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("corpus", help="what ctxbatch run reads")
    parser.add_model()
    parser.add_argument("--parts", type=positive, default=4, help="of the run")
    parser.add_argument("--kills", type=positive, default=8, help="of all parts together")
    parser.add_shard_size()
    parser.add_seed()
    parser.add_kept_work()
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """Return the run, on one worker."""
    settings = ("--model", options.model, "--shard-size", options.shard_size, "--workers", 1)
    return program("run", options.corpus, "-o", out, "--quiet", *settings)


def start_part(
    options: argparse.Namespace, out: Path, stack: contextlib.ExitStack, number: int
) -> "subprocess.Popen[bytes]":
    """Start a part, which does not outlive the stack."""
    part = ["--shard-range", f"{number}/{options.parts}"]
    return stack.enter_context(started([*command(options, out), *part]))


if __name__ == "__main__":
    sys.exit(run(main))
