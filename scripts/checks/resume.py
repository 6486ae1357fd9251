"""Kill a run at random moments, finish it, and compare its Arrow files with an undisturbed run's.

    python -m scripts.checks.resume CORPUS --model NAME [--kills 20] [--shard-size 100kb] [--compile on]
        [--work FOLDER]

Each attempt runs with another number of workers and is killed with SIGKILL, either the coordinator alone
or its whole process group. Where an attempt finishes before it is killed, its files are compared and the
store is begun anew, so that every kill hits a run at work. Prints a line per attempt, and JSON at the end.
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


def main() -> int:
    """Run the proof; returns the exit status."""
    options = parse()
    chance = random.Random(options.seed)
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    reference, victim = work / "reference", work / "victim"
    for folder in (reference, victim):
        shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    subprocess.run(command(options, reference, 2), check=True)
    seconds = time.monotonic() - started
    expected = digests(reference)
    print(f"reference: {len(expected)} Arrow files in {seconds:.0f} s", flush=True)
    kills = {"group": 0, "coordinator": 0}
    finished = 0
    while sum(kills.values()) < options.kills:
        n_workers = chance.choice((1, 2, 3))
        process = subprocess.Popen(command(options, victim, n_workers), start_new_session=True)
        delay = chance.uniform(0.5, min(seconds, max(20.0, seconds / 4)))
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            whom = chance.choice(("group", "coordinator"))
            (os.killpg if whom == "group" else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            kills[whom] += 1
            done = len(digests(victim))
            print(f"killed {whom} of {n_workers} workers after {delay:.1f} s, {done} files there", flush=True)
        else:
            finished += 1
            same = process.returncode == 0 and digests(victim) == expected
            print(f"finished before the kill: {'equal' if same else 'DIFFERENT'}", flush=True)
            if not same:
                return 1
            shutil.rmtree(victim)
    subprocess.run(command(options, victim, 1), check=True)
    same = digests(victim) == expected
    leftovers = [path.name for path in (victim / "shards").glob(".*")]
    facts = {"equal": same, "kills": kills, "finished_early": finished, "leftovers": leftovers}
    print(json.dumps({**facts, "arrow_files": len(expected), "reference_seconds": round(seconds, 1)}))
    return 0 if same and not leftovers else 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--compile", choices=("on", "off"), default="on", help="as of ctxbatch run")
    parser.add_argument("--shard-size", default="100kb")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", default="/tmp/prove-resume")
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path, n_workers: int) -> list[str]:
    """The run, with another number of workers each time."""
    run = [sys.executable, "-m", "ctxbatch.cli.main", "run", options.corpus, "-o", str(out), "--quiet"]
    run += ["--model", options.model, "--shard-size", options.shard_size, "--compile", options.compile]
    return [*run, "--workers", str(n_workers)]


def digests(out: Path) -> dict[str, str]:
    """Checksums of the committed Arrow files."""
    files = sorted(path for path in out.glob("shards/[0-9]*/*.arrow"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main())
