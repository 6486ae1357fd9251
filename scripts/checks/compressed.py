"""Prove that a run over one large .jsonl.zst, killed, goes on without loss and in bounded memory.

    python -m scripts.checks.compressed TEXT --model all-MiniLM-L6-v2 [--gigabytes 1] [--shards 6]

Repeats the lines of TEXT under varying ids until there are so many bytes of JSON lines. Ends in a line of
JSON; exit status 1 if a finished shard was made again or a process needed more than 1.5 GB.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

import ctxbatch
from ctxbatch.model.hub import find_model
from scripts.command_line import Parser, existing_file, positive, program, run, say, started, working_folder

LIMIT_BYTES = 1.5e9


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("text", type=existing_file, help="whose lines are repeated")
    parser.add_model()
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of JSON lines")
    parser.add_argument("--shards", type=positive, default=6, help="commit so many, kill, and so many again")
    parser.add_kept_work()
    arguments = parser.parse_args()
    find_model(arguments.model, None)
    with working_folder(arguments.work) as work:
        facts = prove(arguments, work)
    print(json.dumps(facts))
    return 0 if facts["ok"] else 1


def prove(arguments: argparse.Namespace, folder: Path) -> dict:
    """Two runs that are killed, and what they left."""
    source, out = folder / "large.jsonl.zst", folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    n_records, size = write_source(arguments.text, source, arguments.gigabytes * 1e9)
    say(f"{source}: {n_records:,} records, {size:,} bytes in {source.stat().st_size:,}")
    command = program("run", source, "-o", out, "--model", arguments.model, "--quiet")
    command += ["--force"]  # the whole result may well not fit; only the first shards are made
    seconds, memory = [], []
    first, before = {}, {}
    for goal in (arguments.shards, 2 * arguments.shards):
        before = first
        began = time.monotonic()
        with started(command) as process:  # which is killed at the end
            peak = watch(process)
            wait_for((out / "manifest.json").exists, process)
            seconds.append(round(time.monotonic() - began, 1))
            wait_for(lambda goal=goal: len(committed(out)) >= goal, process)
        first = committed(out)
        memory.append(peak["bytes"])
    again = [shard for shard, when in before.items() if first[shard] != when]
    commits = ctxbatch.open(out).commits.values()
    workers = max(commit.peak_memory_bytes for commit in commits)
    return {
        "ok": not again and max(workers, *memory) < LIMIT_BYTES,
        "bytes": size,
        "shards_planned": len(ctxbatch.open(out).manifest.shards),
        "seconds_to_the_plan": seconds[0],
        "coordinator_peak_bytes": max(memory),
        "worker_peak_bytes": workers,
        "committed_before_the_kill": len(before),
        "made_again": again,
        "committed_in_the_end": len(first),
    }


def write_source(text: Path, path: Path, size: float) -> tuple[int, int]:
    """Write JSON lines until there are so many bytes; returns records and bytes."""
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    written = number = 0
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        for number, line in enumerate(itertools.cycle(lines)):
            data = json.dumps({"id": f"doc-{number:09d}", "text": line}).encode() + b"\n"
            stream.write(data)
            written += len(data)
            if written >= size:
                break
    return number + 1, written


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until something holds.

    Raises:
        SystemExit: The run has ended before that.
    """
    while not condition():
        if process.poll() is not None:
            ended = f"compressed: the run ended with exit status {process.returncode} before it was killed"
            raise SystemExit(f"{ended}: take more --gigabytes or fewer --shards")
        time.sleep(0.05)


def committed(out: Path) -> dict[str, int]:
    """When each finished shard was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("shards/[0-9]*/shard.json")}


def watch(process: subprocess.Popen) -> dict[str, int]:
    """Follow a process's peak memory until it ends."""
    peak = {"bytes": 0}

    def look() -> None:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status")
            try:
                line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            except (OSError, StopIteration):
                return
            peak["bytes"] = int(line.split()[1]) * 1024
            time.sleep(0.2)

    threading.Thread(target=look, daemon=True).start()
    return peak


if __name__ == "__main__":
    sys.exit(run(main))
