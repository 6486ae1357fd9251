"""Prove that a run that is killed at random moments ends with the bytes of an undisturbed one.

    python -m scripts.checks.resume CORPUS --model NAME [--kills 20] [--shard-size 100kb]
        [--work FOLDER]

Each attempt runs with another number of workers and is killed with SIGKILL, either the coordinator alone
or its whole process group. If an attempt finishes before it is killed, its files are compared and a new
store is started, so that every kill hits a run at work. Says each attempt on standard error, and prints
JSON at the end; exit status 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.command_line import Parser, positive, program, run, say, started, working_folder


def main() -> int:
    """Run the proof; returns the exit status."""
    options = parse()
    with working_folder(options.work) as work:
        facts = prove(options, work)
    print(json.dumps(facts))
    return 0 if facts["equal"] and not facts["leftovers"] else 1


def prove(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run undisturbed, then again and again until there were so many kills; returns what came of it."""
    chance = random.Random(options.seed)
    reference, victim = work / "reference", work / "victim"
    for folder in (reference, victim):
        shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    subprocess.run(command(options, reference, 2), check=True)
    seconds = time.monotonic() - began
    expected = digests(reference)
    say(f"reference: {len(expected)} Arrow files in {seconds:.0f} s")
    kills = {"group": 0, "coordinator": 0}
    finished = 0
    while sum(kills.values()) < options.kills:
        n_workers = chance.choice((1, 2, 3))
        delay = chance.uniform(0.5, min(seconds, max(20.0, seconds / 4)))
        with started(command(options, victim, n_workers)) as process:
            if (whom := kill_after(delay, process, chance)) is not None:
                kills[whom] += 1
                done = len(digests(victim))
                say(f"killed {whom} of {n_workers} workers after {delay:.1f} s, {done} files there")
                continue
        finished += 1
        same = process.returncode == 0 and digests(victim) == expected
        say(f"finished before the kill: {'equal' if same else 'DIFFERENT'}")
        if not same:
            return {"equal": False, "kills": kills, "leftovers": []}
        shutil.rmtree(victim)
    subprocess.run(command(options, victim, 1), check=True)
    return {
        "equal": digests(victim) == expected,
        "kills": kills,
        "finished_early": finished,
        "leftovers": [path.name for path in (victim / "shards").glob(".*")],
        "arrow_files": len(expected),
        "reference_seconds": round(seconds, 1),
    }


def kill_after(delay: float, process: "subprocess.Popen[bytes]", chance: random.Random) -> str | None:
    """Kill a run after some seconds; returns whom, or ``None`` where it has ended before."""
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        whom = chance.choice(("group", "coordinator"))
        (os.killpg if whom == "group" else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        return whom
    return None


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("corpus", help="what ctxbatch run reads")
    parser.add_model()
    parser.add_argument("--kills", type=positive, default=20)
    parser.add_shard_size()
    parser.add_seed()
    parser.add_kept_work()
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path, n_workers: int) -> list[str]:
    """Return the run, with another number of workers each time."""
    settings = ("--model", options.model, "--shard-size", options.shard_size)
    return program("run", options.corpus, "-o", out, "--quiet", *settings, "--workers", n_workers)


def digests(out: Path) -> dict[str, str]:
    """Checksums of the committed Arrow files."""
    files = sorted(path for path in out.glob("shards/[0-9]*/*.arrow"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(run(main))
