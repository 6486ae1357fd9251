"""Measure the time to count the words of a store with SQL beside DuckDB on a copy of its columns in Parquet.

    python -m scripts.benchmarks.sql STORE [--repeats 15] [--work FOLDER]

DuckDB writes the copy, of all columns but the vectors. Both count in this process, one after the other and
again, on as many threads; the time to open the store, which reads and checks all of its text, is told
apart. Prints the machine, medians, the highest memory, and a last line of JSON; exit status 1 if the store
takes more than twice as long.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from scripts.benchmarks import measuring
from scripts.command_line import Parser, existing_folder, positive, run

_MOST = 2.0
_QUERY = "SELECT word, count(*) AS n FROM {} GROUP BY word ORDER BY n DESC, word"


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = parse()
    import duckdb

    import ctxbatch
    from ctxbatch.cores import count_cores
    from ctxbatch.tables.database import opened
    from ctxbatch.tables.engine import batches

    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-", dir=options.work) as folder:
        machine = measuring.describe_machine(Path(folder))
        begin = time.perf_counter()
        store = ctxbatch.open(options.store)
        with opened([store]) as connected:
            opening = time.perf_counter() - begin
            peer = duckdb.connect(config={"threads": count_cores()})
            path = f"'{folder}/words.parquet'"
            peer.register("words", store.words.scanner(columns=plain(store)).to_reader())
            peer.execute(f"COPY words TO {path} (COMPRESSION zstd)")

            def ours() -> int:
                with closing(batches(connected, _QUERY.format("words"))) as found:
                    return sum(map(len, found))

            def theirs() -> int:
                return peer.sql(_QUERY.format(path)).to_arrow_table().num_rows

            forms = {ours(), theirs()}
            assert len(forms) == 1, forms
            seconds = measure({"ctxbatch sql": ours, "DuckDB on Parquet": theirs}, options.repeats)
            peer.close()
    ratio = statistics.median(seconds["ctxbatch sql"]) / statistics.median(seconds["DuckDB on Parquet"])
    print(measuring.machine_lines(machine))
    print(f"{options.store.name}: {store.n_rows:,} rows, {forms.pop():,} forms, {options.repeats} rounds\n")
    shown = {name: (statistics.median(each), min(each)) for name, each in seconds.items()}
    rows = [[name, *(f"{1000 * each:.1f}" for each in values)] for name, values in shown.items()]
    print(measuring.table(["", "median, ms", "least, ms"], rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(f"\n{ratio:.2f} times; opened in {opening:.2f} s; highest memory {peak / 1e6:,.0f} MB\n")
    found = {"machine": machine, "rows": store.n_rows, "seconds": seconds, "ratio": ratio}
    print(json.dumps({**found, "opening": opening, "memory": peak}))
    return int(ratio > _MOST)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("store", type=existing_folder, help="a store")
    parser.add_argument("--repeats", type=positive, default=15, metavar="R", help="rounds")
    parser.add_work()
    return parser.parse_args()


def plain(store) -> list[str]:  # noqa: ANN001 (ctxbatch.Store, slow to import)
    """Return the names of the columns of words.arrow that hold no vectors."""
    return [name for name in store.words.schema.names if name not in store.config.columns]


def measure(what: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each, by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(repeats):
        for name, each in what.items():
            begin = time.perf_counter()
            each()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    sys.exit(run(main))
