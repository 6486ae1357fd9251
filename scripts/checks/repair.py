"""Prove that every flipped byte of a finished store is found, one by one, and many at once repaired.

    python -m scripts.checks.repair OUT [--flips 50] [--seed 1]

Works on a copy beside OUT, whose sources and model must still be there. Every byte of a store counts:
vectors, sentences, rejects, commit records, the manifest and indexes. Ends in a line of JSON; exit status 1
if a flip was missed or the repaired store differs.
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import ctxbatch
from ctxbatch.errors import StoreError
from ctxbatch.execution.repair import find_damage
from scripts.command_line import Parser, existing_folder, positive, program, run, say


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("out", type=existing_folder, help="a finished store")
    parser.add_argument("--flips", type=positive, default=50, help="one after another")
    parser.add_seed()
    options = parser.parse_args()
    ctxbatch.open(options.out)
    copy = options.out.with_name(options.out.name + ".flipped")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(options.out, copy)
    facts = prove(copy, random.Random(options.seed), options.flips)
    shutil.rmtree(copy)
    print(json.dumps(facts))
    return 0 if facts["ok"] else 1


def prove(out: Path, chance: random.Random, n_flips: int) -> dict:
    """One flip after another, each undone; then one in every shard and index, repaired."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("run.log", ".lock"))
    expected = digests(out)
    missed, flipped = [], Counter()
    for number in range(n_flips):
        path = files[number % len(files)] if number < len(files) else chance.choice(files)
        place, before = flip(path, chance)
        flipped[path.name] += 1
        try:
            if not list(find_damage(out)):
                missed.append(f"{path} at {place}")
        except StoreError:
            assert path.name == "manifest.json"
        write(path, place, before)
        if not (number + 1) % 10:
            say(f"{number + 1} of {n_flips} flips, {len(missed)} missed")
    assert not list(find_damage(out))
    for path in files:
        if path.name != "manifest.json" and chance.random() < 0.5:
            flip(path, chance)
    damages = len(list(find_damage(out)))
    say(f"repairing {damages} damages")
    started = time.monotonic()
    command = program("verify", out, "--repair", "-q")
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    same = digests(out) == expected
    return {
        "ok": not missed and status == 0 and same,
        "flips": n_flips,
        "by_file": flipped,
        "missed": missed,
        "damages_repaired": damages,
        "seconds_to_repair": round(time.monotonic() - started, 1),
        "arrow_files_equal": same,
    }


def flip(path: Path, chance: random.Random) -> tuple[int, int]:
    """Change a random bit of a file; returns where, and the byte that was there."""
    place = chance.randrange(path.stat().st_size)
    with path.open("rb") as stream:
        stream.seek(place)
        before = stream.read(1)[0]
    write(path, place, before ^ (1 << chance.randrange(8)))
    return place, before


def write(path: Path, place: int, value: int) -> None:
    """Write a byte."""
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes([value]))


def digests(out: Path) -> dict[str, str]:
    """Checksums of all Arrow files."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("shards/*/*.arrow"))
    }


if __name__ == "__main__":
    sys.exit(run(main))
