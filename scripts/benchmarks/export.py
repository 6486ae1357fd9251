"""Measure how fast a store is exported, beside what the disk takes and what zstd and Parquet take alone.

    python -m scripts.benchmarks.export OUT [--repeats 3] [--work FOLDER]

In turns: the disk writes random bytes; zstd compresses the vectors as float32; the rows are encoded
as Parquet, with zstd, and thrown away; `ctxbatch export` writes and compares them. All but the disk work on
all cores. CPU time, that of the export with its start, is less disturbed by other programs. Prints the
machine, a table of medians, and a last line of JSON.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts import command_line
from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_folder, positive, run, say

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_ROWS = 8_192


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = parse()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        machine = measuring.describe_machine(Path(folder))
        for number in range(options.repeats):
            rounds.append(measure(options.store, Path(folder)))
            say(f"round {number + 1}: {rounds[-1]['export']:.1f} s")
    report(options, machine, rounds)
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("store", type=existing_folder, help="a store")
    parser.add_argument("--repeats", type=positive, default=3, metavar="R", help="rounds")
    parser.add_work()
    return parser.parse_args()


def measure(out: Path, folder: Path) -> dict[str, Any]:
    """Return the seconds of each, the bytes they read or wrote, and the memory of the export."""
    import pyarrow as pa

    import ctxbatch
    from ctxbatch.tables.exported_rows import ExportedWords, chosen_columns
    from ctxbatch.tables.parquet_files import write_rows

    disk = measuring.write_rate(folder)
    store = ctxbatch.open(out)
    columns, _ = chosen_columns(store, None, join=False)
    words = ExportedWords(store, columns, "float32", None)

    def compress(rows: "pa.Table") -> int:
        return sum(pa.compress(vectors_of(rows, name), codec="zstd").size for name in store.config.columns)

    def encode(rows: "pa.Table") -> int:
        sink = pa.BufferOutputStream()
        write_rows(sink, words, [rows], len(rows))
        return sink.getvalue().size

    zstd, zstd_cpu, of_zstd, raw = timed(compress, words)
    parquet, parquet_cpu, of_parquet, _ = timed(encode, words)
    dest = folder / "to"
    command = command_line.program("export", out, dest, "--json", "--quiet")
    before = children_cpu()
    finished = measuring.run_process(command, measuring.child_environment(folder))
    shutil.rmtree(dest)
    os.sync()  # what is still to be written must not slow down the next round
    said = json.loads(finished.output)
    return {
        "disk_rate": disk,
        "raw_bytes": raw,
        "zstd": zstd,
        "zstd_cpu": zstd_cpu,
        "zstd_bytes": of_zstd,
        "parquet": parquet,
        "parquet_cpu": parquet_cpu,
        "parquet_bytes": of_parquet,
        "export": said["seconds"],
        "export_cpu": children_cpu() - before,
        "export_bytes": said["size"],
        "rows": said["rows"],
        "anonymous_bytes": finished.anonymous_bytes,
    }


def children_cpu() -> float:
    """Return the CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def vectors_of(rows: "pa.Table", name: str) -> "pa.Buffer":
    """Return the bytes of a column of vectors."""
    return rows[name].combine_chunks().flatten().buffers()[1]


def timed(work: "Callable[[pa.Table], int]", words: Any) -> tuple[float, float, int, int]:  # noqa: ANN401 (loaded later)
    """Do the work on all rows, on all cores; return its seconds, those of CPU, its bytes and the rows' bytes.

    To read the rows is not counted.
    """
    seconds = cpu = 0.0
    n_bytes = raw = 0
    cores = measuring.cores()
    with ThreadPoolExecutor(cores) as threads:
        for begin in range(0, len(words), 2 * cores * _GROUP_ROWS):
            end = min(begin + 2 * cores * _GROUP_ROWS, len(words))
            firsts = range(begin, end, _GROUP_ROWS)
            groups = [words.table(first, min(first + _GROUP_ROWS, end)) for first in firsts]
            raw += sum(rows.nbytes for rows in groups)
            started, cpu_before = time.perf_counter(), time.process_time()
            n_bytes += sum(threads.map(work, groups))
            seconds += time.perf_counter() - started
            cpu += time.process_time() - cpu_before
    return seconds, cpu, n_bytes, raw


def report(options: argparse.Namespace, machine: Mapping[str, Any], rounds: Sequence[dict[str, Any]]) -> None:
    """Print everything."""
    print(measuring.machine_lines(machine))
    found = measuring.medians(rounds)
    print(f"{options.store}, {found['rows']:,.0f} rows, {options.repeats} rounds\n")
    raw = found["raw_bytes"]
    names = {"zstd": "zstd alone", "parquet": "Parquet in memory", "export": "ctxbatch export"}
    rows = [
        [
            label,
            f"{found[name]:.1f}",
            f"{found[f'{name}_cpu']:.1f}",
            f"{raw / found[name] / 1e6:,.0f}",
            f"{found[f'{name}_bytes'] / found[name] / 1e6:,.0f}",
        ]
        for name, label in names.items()
    ]
    rows.append(["the disk", "", "", "", f"{found['disk_rate'] / 1e6:,.0f}"])
    print(measuring.table(["", "seconds", "of CPU", "MB/s read", "MB/s written"], rows))
    share = found["export_bytes"] / found["export"] / found["disk_rate"]
    ratio = found["parquet_cpu"] / found["export_cpu"]
    print(f"\n{share:.0%} of the disk's rate; Parquet in memory takes {ratio:.0%} of the export's CPU time;")
    print(f"memory, without mapped files: {found['anonymous_bytes'] / 1e6:,.0f} MB\n")
    print(json.dumps({"machine": machine, "repeats": options.repeats, "rounds": rounds}))


if __name__ == "__main__":
    sys.exit(run(main))
