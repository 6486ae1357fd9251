"""Plan and begin a run over one large .jsonl.zst, kill it, go on, and look at memory and at what is lost.

    python -m scripts.checks.compressed TEXT --model all-MiniLM-L6-v2 [--gigabytes 1] [--shards 6]

Repeats the lines of TEXT under varying ids until there are so many bytes of JSON lines. Ends in a line of
JSON; exit status 1 if a finished shard was made again or a process needed more than 1.5 GB.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa

import ctxbatch

LIMIT_BYTES = 1.5e9


def main() -> int:
    """Run the proof; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--shards", type=int, default=6, help="commit so many, kill, and so many again")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        facts = prove(arguments, arguments.folder or Path(temporary))
    print(json.dumps(facts))
    return 0 if facts["ok"] else 1


def prove(arguments: argparse.Namespace, folder: Path) -> dict:
    """Two runs that are killed, and what they left."""
    source, out = folder / "large.jsonl.zst", folder / "out"
    n_records, size = write_source(arguments.text, source, arguments.gigabytes * 1e9)
    print(f"{source}: {n_records:,} records, {size:,} bytes in {source.stat().st_size:,}", file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "ctxbatch.cli.main",
        "run",
        source,
        "-o",
        out,
        "--model",
        arguments.model,
    ]
    command += ["--force"]  # the whole result may well not fit; only the first shards are made
    seconds, memory = [], []
    first, before = {}, {}
    for goal in (arguments.shards, 2 * arguments.shards):
        before = first
        started = time.monotonic()
        process = subprocess.Popen(list(map(str, command)), start_new_session=True)
        peak = watch(process)
        while not (out / "manifest.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        seconds.append(round(time.monotonic() - started, 1))
        while len(first := committed(out)) < goal:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
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
    sys.exit(main())
