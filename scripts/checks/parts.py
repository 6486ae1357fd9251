"""Start parts of a run at the same moment, kill some, start those again, and compare with a local run.

    python -m scripts.checks.parts CORPUS --model NAME [--parts 4] [--kills 8] [--shard-size 100kb]
        [--work FOLDER]

Every part runs with one worker. Parts are killed at random moments with SIGKILL, the coordinator alone or its
whole process group, and started again at once, while the others go on; at the end every part is started once
more. Prints a line per kill, and JSON at the end.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from scripts.checks.resume import digests


def main() -> int:
    """Run the proof; returns the exit status."""
    options = parse()
    chance = random.Random(options.seed)
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    reference, out = work / "reference", work / "parts"
    for folder in (reference, out):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(command(options, reference), check=True)
    expected = digests(reference)
    print(f"reference: {len(expected)} Arrow files", flush=True)
    parts = range(1, options.parts + 1)
    running = {number: start(options, out, number) for number in parts}
    kills: Counter[str] = Counter()
    before = 0
    while sum(kills.values()) < options.kills:
        while len(digests(out)) == before and any(each.poll() is None for each in running.values()):
            time.sleep(0.2)  # until something was committed since the last kill
        before = len(digests(out))
        time.sleep(chance.uniform(0, 4.0))
        at_work = [number for number in parts if running[number].poll() is None]
        if not at_work:
            break
        number, whom = chance.choice(at_work), chance.choice(("group", "coordinator"))
        (os.killpg if whom == "group" else os.kill)(running[number].pid, signal.SIGKILL)
        running[number].wait()
        kills[whom] += 1
        print(f"killed {whom} of part {number}, {len(digests(out))} files there", flush=True)
        running[number] = start(options, out, number)
    for process in running.values():
        process.wait()
    statuses = [process.wait() for process in [start(options, out, number) for number in parts]]
    facts = {
        "equal": digests(out) == expected,
        "parts": options.parts,
        "kills": dict(kills),
        "statuses": statuses,
        "arrow_files": len(expected),
        "leftovers": [path.name for path in (out / "shards").glob(".*")],
    }
    print(json.dumps(facts))
    return 0 if facts["equal"] and not any(statuses) and not facts["leftovers"] else 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--model", required=True)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--shard-size", default="100kb")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", default="/tmp/prove-parts")
    return parser.parse_args()


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """The run, on one worker."""
    run = [sys.executable, "-m", "ctxbatch.cli.main", "run", options.corpus, "-o", str(out), "--quiet"]
    return [*run, "--model", options.model, "--shard-size", options.shard_size, "--workers", "1"]


def start(options: argparse.Namespace, out: Path, number: int) -> subprocess.Popen[bytes]:
    """Start a part."""
    part = ["--shard-range", f"{number}/{options.parts}"]
    return subprocess.Popen([*command(options, out), *part], start_new_session=True)


if __name__ == "__main__":
    sys.exit(main())
