"""Compare codes and lists of an index of proposals: bytes, recall, speed. Decides what ctxbatch index builds.

    python -m scripts.benchmarks.index_codes STORE FOREIGN [--on COLUMN] [--rows N] [--queries 500]
        [--only NAME,...] [--rounds 3] [--out FILE]

Queries are rows of the store (each must not find itself; "other words": nor any row of its word) and rows of
a second, foreign store of the same model. An index proposes rows, and their exact cosines rank them; a hit
counts if its cosine is within two millionths of the tenth best or above. All indexes are built first, with
their recall by the share of lists that is probed and by proposals. Then they answer in turns: batches of
1,024 queries with the least effort that finds 0.95, and single queries that probe every list. Times include
the exact cosines. Prints the machine, tables, and a last line of JSON; --out keeps the same in a file.

On a machine that does other things as well, set OMP_WAIT_POLICY=PASSIVE: the threads of FAISS else wait for
each other in a loop, which makes building many times slower.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks import measuring
from scripts.benchmarks.index_recipes import RECIPES, Builder, Built
from scripts.benchmarks.measuring import shown
from scripts.command_line import Parser, existing_folder, positive, run, say, some_of

_SEED = 11
_BATCH = 1_024
_FOREIGN_ROWS = 65_536
_SINGLES = 100
# Texts repeat, so that several rows may tie for tenth.
_TIES = 200
_OTHER_WORDS = 128
_SHARES = (64, 32, 16, 8, 4, 1)
_DEPTHS = (100, 200, 400, 800, 1_600, 3_200)
_SHOWN = ((32, 100), (32, 400), (16, 200), (16, 400), (4, 1_600), (1, 100), (1, 400), (1, 1_600), (1, 3_200))
_SINGLE_DEPTHS = (400, 1_600, 3_200)
_GOAL = 0.95


@dataclass(slots=True)
class Queries:
    """Normalised queries (Q, D), the rows that each must not find, and those that are hits."""

    vectors_QD: np.ndarray
    excluded: list[np.ndarray]
    best: list[np.ndarray]
    batch_QD: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def main() -> int:
    """Build, measure and report; returns the exit status."""
    options = parse()
    machine = measuring.describe_machine(options.store)
    column, queries, builder = read(options)
    facts: dict[str, dict[str, Any]] = {}
    indexes: dict[str, Built] = {}
    for name in options.only:
        say(f"building: {name}")
        built = indexes[name] = builder.build(RECIPES[name])
        facts[name] = {"bytes": built.bytes / len(column), "train_seconds": built.train_seconds}
        facts[name] |= {"add_seconds": built.add_seconds, "recall": recalls(built, column, queries)}
        say(f"  {facts[name]}")
    timed: dict[str, list[dict[str, Any]]] = {name: [] for name in indexes}
    for number in range(options.rounds):
        for name, built in indexes.items():
            say(f"round {number + 1}: {name}")
            timed[name].append(time_searches(built, column, queries, facts[name]["recall"]))
    for name, rounds in timed.items():
        facts[name] |= measuring.medians(rounds)
    load = {"load_after": round(os.getloadavg()[0], 2)}
    text = report(options, {**machine, **load}, len(column), facts)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("store", type=existing_folder, help="a finished store")
    parser.add_argument("foreign", type=existing_folder, help="a store of another text, by the same model")
    parser.add_argument("--on", help="column of both; by default the shift of the first layer")
    parser.add_argument("--rows", type=positive, help="of the store; all by default")
    parser.add_argument("--queries", type=positive, default=500, help="of each kind")
    parser.add_argument("--only", type=some_of(RECIPES), default=list(RECIPES), help="names between commas")
    parser.add_argument("--rounds", type=positive, default=3, help="of timing")
    parser.add_argument("--out", type=Path, help="file that the output is also written to")
    return parser.parse_args()


def read(options: argparse.Namespace) -> tuple[Any, dict[str, Queries], Builder]:
    """Return the rows, in memory as half floats, each kind of queries with its answers, and a builder."""
    import ctxbatch
    from ctxbatch.errors import InputError
    from ctxbatch.search.exact import normalised
    from ctxbatch.store.columns import StoredColumn

    store, foreign = ctxbatch.open(options.store), ctxbatch.open(options.foreign)
    name = options.on or store.config.column("shift")
    say(f"reading {name}")
    try:
        source, foreign_column = store.column(name), foreign.column(name)
    except (KeyError, ValueError) as error:
        raise InputError(f"--on {name}: {error.args[0]}") from None
    rows = min(store.n_rows, options.rows or store.n_rows)
    if rows < (lists := max(RECIPES[recipe].lists for recipe in options.only)):
        raise InputError(f"{rows:,} rows are too few for {lists:,} lists: take more, or name recipes --only")
    blocks = [block.astype(np.float16) for first, block in source.blocks(65_536) if first < rows]
    vectors_ND = np.concatenate(blocks)[:rows]
    column = StoredColumn([vectors_ND], vectors_ND.shape[1], np.float16)
    chance = np.random.default_rng(_SEED)

    def draw(source: Any, n: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401 (any column)
        rows_Q = np.sort(chance.choice(len(source), min(n, len(source)), replace=False))
        return rows_Q, normalised(source.take(rows_Q))

    rows_Q, stored_QD = draw(column, options.queries)
    foreign_rows_Q, foreign_QD = draw(foreign_column, options.queries)
    others_N = chance.permutation(np.setdiff1d(np.arange(len(foreign_column)), foreign_rows_Q))
    builder = Builder(column, normalised(foreign_column.take(others_N[:_FOREIGN_ROWS])))
    say("exact search")
    other_QD, other_rows_Q = stored_QD[:_OTHER_WORDS], rows_Q[:_OTHER_WORDS]
    queries = {
        "stored": answered(column, stored_QD, [rows_Q[i : i + 1] for i in range(len(rows_Q))]),
        "foreign": answered(column, foreign_QD, [rows_Q[:0]] * len(foreign_QD)),
        "other words": answered(column, other_QD, same_words(store, other_rows_Q, rows)),
    }
    queries["stored"].batch_QD = draw(column, _BATCH)[1]
    queries["foreign"].batch_QD = draw(foreign_column, _BATCH)[1]
    return column, queries, builder


def same_words(store: Any, rows_Q: np.ndarray, n_rows: int) -> list[np.ndarray]:  # noqa: ANN401 (a store)
    """Return the sorted positions of the rows with each row's word."""
    from ctxbatch.search.postings import Postings, write

    with tempfile.TemporaryDirectory(prefix="ctxbatch-bench-") as folder:
        path = Path(folder) / "words.arrow"
        with path.open("wb") as stream:
            write(store, stream)
        postings = Postings(store, path)
        found = [postings.positions(word) for word in store.words_at(rows_Q)]
    return [positions[positions < n_rows] for positions in found]


def answered(column: Any, vectors_QD: np.ndarray, excluded: list[np.ndarray]) -> Queries:  # noqa: ANN401
    """Return queries with their exact answers."""
    from ctxbatch.search.exact import scan

    positions_QK, scores_QK = scan(column, vectors_QD, _TIES, excluded)
    hits_QK = scores_QK >= scores_QK[:, 9:10] - 2e-6
    return Queries(vectors_QD, excluded, [row[hit] for row, hit in zip(positions_QK, hits_QK, strict=True)])


# --- recall ---------------------------------------------------------------------------------------


def recalls(built: Built, column: Any, queries: dict[str, Queries]) -> dict[str, dict[str, float]]:  # noqa: ANN401
    """Return recall@10 by the kind of queries and by "share of lists/proposals"."""
    found: dict[str, dict[str, float]] = {}
    for kind, asked in queries.items():
        shares = _SHARES if kind != "other words" else (8, 1)
        found[kind] = {}
        for share in shares:
            n_lists = max(1, built.n_lists // share)
            if kind == "other words":
                rows_QC = propose_among_others(built, asked, n_lists, len(column))
            else:
                rows_QC = built.propose(asked.vectors_QD, n_lists, _DEPTHS[-1])
            for depth, recall in zip(_DEPTHS, recall_by_depth(asked, rows_QC), strict=True):
                found[kind][f"{share}/{depth}"] = recall
    return found


def propose_among_others(built: Built, asked: Queries, n_lists: int, n_rows: int) -> np.ndarray:
    """Return proposals (Q, C) among the rows that each query may find; each query is a search of its own."""
    from ctxbatch.search.exact import Selection

    found = [
        built.propose(vector[None], n_lists, _DEPTHS[-1], Selection.all_but(n_rows, out))
        for vector, out in zip(asked.vectors_QD, asked.excluded, strict=True)
    ]
    return np.concatenate(found)


def recall_by_depth(asked: Queries, rows_QC: np.ndarray) -> list[float]:
    """Return the recall@10 of the first 100, 200, ... proposals, ranked by their exact cosines."""
    hits_QC = np.zeros(rows_QC.shape, np.bool_)
    for hits_C, row_C, best_K in zip(hits_QC, rows_QC, asked.best, strict=True):
        # Rows in several lists are proposed several times: only the first counts.
        first = np.unique(row_C, return_index=True)[1]
        hits_C[first] = np.isin(row_C[first], best_K)
    counted = [np.minimum(10, hits_QC[:, :depth].sum(axis=1)) for depth in _DEPTHS]
    return [round(float(np.mean(counts) / 10), 4) for counts in counted]


# --- time -----------------------------------------------------------------------------------------


def time_searches(
    built: Built,
    column: Any,  # noqa: ANN401 (a column)
    queries: dict[str, Queries],
    recall: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Return queries a second of each cell that may be the fastest to find 0.95, and single queries' ms."""
    facts: dict[str, Any] = {}
    for kind in ("stored", "foreign"):
        vectors_QD = queries[kind].batch_QD
        for share, depth in cells(recall[kind]):
            started, worked = time.perf_counter(), time.process_time()
            search(built, column, vectors_QD, max(1, built.n_lists // share), depth)
            facts[f"{kind} q/s {share}/{depth}"] = len(vectors_QD) / (time.perf_counter() - started)
            worked = time.process_time() - worked
            facts[f"{kind} core ms {share}/{depth}"] = 1000 * worked / len(vectors_QD)
    for depth in _SINGLE_DEPTHS:
        taken, worked = [], time.process_time()
        for vector in queries["foreign"].batch_QD[:_SINGLES]:
            started = time.perf_counter()
            search(built, column, vector[None], built.n_lists, depth)
            taken.append(1000 * (time.perf_counter() - started))
        facts[f"single ms {depth}"] = statistics.median(taken)
        facts[f"single core ms {depth}"] = 1000 * (time.process_time() - worked) / len(taken)
    return facts


def cells(recall: dict[str, float]) -> list[tuple[int, int]]:
    """Return for each share of the lists the fewest proposals that reach the goal, but no useless share."""
    found: list[tuple[int, int]] = []
    for share in _SHARES:
        enough = [depth for depth in _DEPTHS if recall[f"{share}/{depth}"] >= _GOAL]
        if enough and (not found or enough[0] < found[-1][1]):
            found.append((share, enough[0]))
    return found


def search(built: Built, column: Any, vectors_QD: np.ndarray, n_lists: int, depth: int) -> None:  # noqa: ANN401
    """Find the ten best rows: proposals, then their exact cosines, in a thread a core."""
    from ctxbatch.search.exact import among

    def rank(first: int, rows_QC: np.ndarray) -> None:
        query_C, place_C = np.nonzero(rows_QC >= 0)
        among(column, vectors_QD[first : first + len(rows_QC)], query_C, rows_QC[query_C, place_C], 10)

    built.propose(vectors_QD, n_lists, depth, take=rank)


# --- the report -----------------------------------------------------------------------------------


def report(
    options: argparse.Namespace, machine: dict[str, Any], rows: int, facts: dict[str, dict[str, Any]]
) -> str:
    """Return what is printed."""
    lines = [measuring.machine_lines(machine), f"load after {machine['load_after']}"]
    lines.append(f"{rows:,} rows of {options.on or 'the shift'}; proposals of the share 1/x of the lists")
    for kind in ("stored", "foreign"):
        heads = [f"recall@10, {kind}", *(f"1/{share} {depth:,}" for share, depth in _SHOWN)]
        lines += ["", recall_table(heads, facts, kind, _SHOWN)]
    shown_cells = [(share, depth) for share in (8, 1) for depth in (400, 1_600, 3_200)]
    heads = ["recall@10, other words", *(f"1/{share} {depth:,}" for share, depth in shown_cells)]
    lines += ["", recall_table(heads, facts, "other words", shown_cells)]
    heads = ["", "bytes", "train s", "add s", "stored q/s", "core ms", "by", "foreign q/s", "core ms", "by"]
    heads += [f"single ms (core ms), {depth:,}" for depth in _SINGLE_DEPTHS]
    table = []
    for name, found in facts.items():
        numbers = [shown(found["bytes"], ".1f"), shown(found["train_seconds"]), shown(found["add_seconds"])]
        for kind in ("stored", "foreign"):
            numbers += fastest(found, kind)
        for depth in _SINGLE_DEPTHS:
            numbers.append(f"{found[f'single ms {depth}']:.1f} ({found[f'single core ms {depth}']:.1f})")
        table.append([name, *numbers])
    lines += ["", measuring.table(heads, table), ""]
    lines += [f"{name}: {RECIPES[name].told}" for name in facts]
    lines += ["", "bytes a vector: codes, ids, padding of lists, and centroids once, in single precision"]
    lines.append(f"q/s: batches of {_BATCH:,} with the least effort that finds {_GOAL}; single: every list")
    lines.append("core ms: processor time a query, which other programs on the machine change little")
    lines.append(json.dumps({"machine": machine, "rows": rows, "facts": facts}))
    return "\n".join(lines)


def recall_table(
    heads: Sequence[str], facts: dict[str, dict[str, Any]], kind: str, shown_cells: Sequence[tuple[int, int]]
) -> str:
    """Return the recall of each index in some cells."""
    rows = [
        [name, *(shown(found["recall"][kind][f"{share}/{depth}"], ".3f") for share, depth in shown_cells)]
        for name, found in facts.items()
    ]
    return measuring.table(heads, rows)


def fastest(found: dict[str, Any], kind: str) -> list[str]:
    """Return what reaches the goal with the least work: queries a second, core ms, lists and proposals."""
    start = f"{kind} core ms "
    work = {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}
    if not work:
        return ["-", "-", "-"]
    best = min(work, key=lambda key: work[key])
    return [shown(found[f"{kind} q/s {best}"]), shown(work[best], ".2f"), "1/" + best.replace("/", " ")]


if __name__ == "__main__":
    sys.exit(run(main))
