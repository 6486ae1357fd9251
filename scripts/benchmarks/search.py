"""Measure how fast and how complete the search is, beside exact search and FAISS's IVF-Flat.

    python -m scripts.benchmarks.search CORPUS --model NAME [--store OUT] [--foreign TEXT] [--queries 1000]
        [--repeats 3] [--recalls 0.9,0.95] [--memory 100MB]

Makes a store of the corpus with a row for each wordpiece (or takes a finished one, which is left as it is:
indexes are built on a copy of links), and searches by shift. Fresh queries are sentences of the corpus with
a quarter of their words replaced by others of it, and, with --foreign, those of another text. A hit counts if
its cosine is within a millionth of the k-th best or above, since texts repeat. Contenders answer all queries
in turns; the medians are compared. Prints the machine, tables, and a last line of JSON.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks import measuring
from scripts.benchmarks.measuring import shown
from scripts.command_line import Parser, existing_file, existing_folder, positive, program, run, say

_KS = (1, 10, 100)
_SINGLES = 200
_SEED = 7


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = parse()
    if options.child:
        return answer_in_child(options.corpus)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-bench-") as folder:
        work = Path(folder)
        machine = measuring.describe_machine(work)
        environment = measuring.child_environment(work)
        out = work / "store"
        if options.store:
            shutil.copytree(options.store, out, copy_function=os.link, ignore=shutil.ignore_patterns("index"))
        else:
            encode(options, options.corpus, out, environment)
        texts = {"altered": write_altered(options.corpus, work / "altered.txt")}
        if options.foreign:
            texts["foreign"] = options.foreign
        queries = {}
        for name, text in texts.items():
            encode(options, text, work / name, environment, "--limit", "3000")
            queries[name] = draw(work / name, options.queries)
        report(options, machine, measure(options, out, queries, environment))
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__spec__.name, __doc__)
    parser.add_argument("corpus", type=Path, help="text, a sentence or more a line")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="name or folder of a model")
    parser.add_argument("--store", type=existing_folder, help="a finished store of it, made with --pool none")
    parser.add_argument("--foreign", type=existing_file, help="another text, to take queries from")
    parser.add_argument("--queries", type=positive, default=1000, help="of each kind")
    parser.add_argument("--repeats", type=positive, default=3, help="rounds")
    parser.add_argument("--recalls", type=recalls, default="0.9,0.95", help="what indexes are tuned to")
    parser.add_argument("--memory", default="100MB", help="of the index whose memory is measured")
    parser.add_work()
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child and not options.corpus.is_file():
        parser.error(f"{options.corpus}: no such file")
    return options


def recalls(text: str) -> list[str]:
    """Shares between commas, as of ctxbatch index."""
    if any(not 0 < float(part) <= 1 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers above 0, up to 1")
    return text.split(",")


def encode(
    options: argparse.Namespace, text: Path, out: Path, environment: dict[str, str], *more: str
) -> None:
    """Make a store with a row for each wordpiece."""
    say(f"encoding {text.name}")
    settings = ("--model", options.model, "--pool", "none", "--keep-punctuation", *more)
    command = program("run", text, "-o", out, "--quiet", "--no-index", *settings)
    measuring.run_process(command, environment)


def write_altered(corpus: Path, path: Path) -> Path:
    """Sentences of the corpus in which a quarter of the words are others of the corpus."""
    chance = random.Random(_SEED)
    lines = [line for line in corpus.read_text(encoding="utf-8").splitlines() if line.strip()]
    words = [
        word for line in chance.sample(lines, min(len(lines), 5000)) for word in re.findall(r"\w+", line)
    ]
    sample = chance.sample(lines, min(len(lines), 3000))
    altered = (
        " ".join(chance.choice(words) if chance.random() < 0.25 else word for word in line.split())
        for line in sample
    )
    return measuring.write_lines(path, altered)


def draw(out: Path, n: int) -> np.ndarray:
    """Normalised shift vectors of so many rows of a store."""
    import ctxbatch
    from ctxbatch.search.exact import normalised

    store = ctxbatch.open(out)
    column = store.column(store.config.column("shift"))
    chosen = np.random.default_rng(_SEED).choice(len(column), min(n, len(column)), replace=False)
    vectors = normalised(column.take(np.sort(chosen)))
    return vectors[np.linalg.norm(vectors, axis=1) > 0]


# --- the contenders -------------------------------------------------------------------------------

Search = Callable[[np.ndarray, int], np.ndarray]


def measure(
    options: argparse.Namespace, out: Path, queries: dict[str, np.ndarray], environment: dict[str, str]
) -> dict[str, Any]:
    """Build what is compared, one after another, and let all answer in turns."""
    import ctxbatch
    from ctxbatch.search.exact import scan

    store = ctxbatch.open(out)
    name = store.config.column("shift")
    column = store.column(name)
    say("exact search")
    best = {kind: scan(column, vectors, max(_KS))[1] for kind, vectors in queries.items()}
    facts: dict[str, dict[str, Any]] = {"exact": {"bytes": 0}}
    searches: dict[str, Search] = {"exact": lambda vectors, k: scan(column, vectors, k)[1]}
    for recall in options.recalls:
        contender = f"ctxbatch, --recall {recall}"
        facts[contender], searches[contender] = build(out, name, ["--recall", recall], environment)
    facts["IVF-Flat"], searches["IVF-Flat"] = build_flat(column, queries["altered"], best["altered"])
    rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in searches}
    for number in range(options.repeats):
        for contender, search in searches.items():
            say(f"round {number + 1}: {contender}")
            slow = contender == "exact"
            rounds[contender].append(time_search(search, queries, best, slow=slow))
    return {
        "rows": len(column),
        "dimension": column.dimension,
        "contenders": {each: {**facts[each], **measuring.medians(rounds[each])} for each in searches},
        "singles": time_filters(out),
        "memory": measure_memory(options, out, environment),
    }


def build(
    out: Path, column: str, settings: Sequence[str], environment: dict[str, str]
) -> tuple[dict[str, Any], Search]:
    """Build the index of ctxbatch by its command and load it.

    Raises:
        InputError: The store is so small that it makes none.
    """
    import ctxbatch
    from ctxbatch.errors import InputError
    from ctxbatch.search.index_files import open_index

    say(f"building: ctxbatch index {' '.join(settings)}")
    command = program("index", out, "--on", "shift", *settings)
    finished = measuring.run_process(command, environment)
    store = ctxbatch.open(out)
    index = open_index(store, column)
    if index is None:
        raise InputError(f"ctxbatch builds no index of {store.n_rows:,} rows: take a longer text")
    facts = json.loads((out / "index" / f"{column}.json").read_text())
    return {
        "factory": facts["factory"],
        "bytes": facts["bytes"] / len(store.column(column)),
        "said": facts["recall_at_10"],
        "build_seconds": facts["seconds"],
        "build_bytes": finished.anonymous_bytes,
        "whole_build_bytes": finished.root_bytes,
    }, lambda vectors, k: index.nearest(vectors, k)[1]


def build_flat(column: Any, sample: np.ndarray, best: np.ndarray) -> tuple[dict[str, Any], Search]:  # noqa: ANN401
    """IVF-Flat: whole vectors in memory, as many probes as find 0.95 of the ten nearest."""
    import faiss

    from ctxbatch.search.exact import normalised

    say("building: IVF-Flat")
    started = time.perf_counter()
    lists = 2 ** max(0, round(np.log2(len(column) / 1024)))
    index: Any = faiss.index_factory(column.dimension, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    rows = np.random.default_rng(_SEED).choice(len(column), min(len(column), lists * 64), replace=False)
    index.train(normalised(column.take(np.sort(rows))))
    for _, block in column.blocks(65_536):
        index.add(normalised(block))
    seconds = time.perf_counter() - started
    index.nprobe = 4
    while index.nprobe < lists and recall_of(index.search(sample[:200], 10)[0], best[:200], 10) < 0.95:
        index.nprobe *= 2
    size = column.dimension * 4 + 8
    facts = {"factory": f"IVF{lists},Flat, nprobe {index.nprobe}", "bytes": size, "build_seconds": seconds}
    return facts, lambda vectors, k: index.search(vectors, k)[0]


def recall_of(found: np.ndarray, best: np.ndarray, k: int) -> float:
    """Return the share of the k best that were found, by their scores."""
    return float(np.mean(found[:, :k] >= best[:, k - 1 : k] - 2e-6))


def time_search(
    search: Search, queries: dict[str, np.ndarray], best: dict[str, np.ndarray], *, slow: bool
) -> dict[str, Any]:
    """Recall@k and queries a second in one batch; and one query at a time, in milliseconds."""
    facts: dict[str, Any] = {}
    for kind, vectors in queries.items():
        for k in _KS:
            used = vectors[: 256 if slow else None]
            started = time.perf_counter()
            found = search(used, k)
            facts[f"{kind} q/s @{k}"] = len(used) / (time.perf_counter() - started)
            facts[f"{kind} recall@{k}"] = recall_of(found, best[kind][: len(used)], k)
    singles = []
    for vector in queries["altered"][: 3 if slow else _SINGLES]:
        started = time.perf_counter()
        search(vector[None], 10)
        singles.append(1000 * (time.perf_counter() - started))
    facts["single ms"] = statistics.median(singles)
    return facts


def time_filters(out: Path) -> dict[str, float]:
    """Milliseconds of one query with its hits read, by what is filtered; nothing is encoded."""
    import ctxbatch
    from ctxbatch import Filters

    searcher = ctxbatch.searcher(out, "shift")
    store = ctxbatch.open(out)
    rows = store.row_ids(np.sort(np.random.default_rng(_SEED).choice(store.n_rows, _SINGLES, replace=False)))
    filters = {
        "no filter": Filters(),
        "--same-word": Filters(same_word=True),
        "--other-words": Filters(other_words=True),
        "--other-words --distinct word": Filters(other_words=True, distinct="word"),
    }
    medians = {}
    for name, wanted in filters.items():
        say(f"single queries: {name}")
        taken = []
        for row in rows.tolist():
            started = time.perf_counter()
            searcher.search(row, 10, wanted)
            taken.append(1000 * (time.perf_counter() - started))
        medians[name] = statistics.median(taken)
    return medians


def measure_memory(options: argparse.Namespace, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Build with little memory, and let a process of its own open the index and answer."""
    _, search = build(out, "shift_" + out_layer(out), ["--memory", options.memory], environment)
    del search
    command = [sys.executable, "-m", "scripts.benchmarks.search", str(out), "--child"]
    facts: dict[str, Any] = json.loads(measuring.run_process(command, environment).output.splitlines()[-1])
    return {"asked": options.memory, **facts}


def out_layer(out: Path) -> str:
    """Return the layer that is searched by default."""
    import ctxbatch

    return ctxbatch.open(out).config.column("shift").partition("_")[2]


def answer_in_child(out: Path) -> int:
    """Open an index and answer; prints how much anonymous memory came on top of what was there before."""
    import ctxbatch
    from ctxbatch import Filters

    store = ctxbatch.open(out)
    rows = store.row_ids(np.arange(0, store.n_rows, max(1, store.n_rows // 1000))).tolist()
    import ctxbatch.search.searcher

    before = measuring.status(os.getpid(), "RssAnon:")
    with measuring.MemoryWatch([os.getpid()]) as watch:
        searcher = ctxbatch.searcher(out, "shift")
        opened = measuring.status(os.getpid(), "RssAnon:")
        for begin in range(0, len(rows), 100):
            searcher.ask(rows[begin : begin + 100], 10)
        for row in rows[:50]:
            searcher.search(row, 10, Filters(other_words=True))
            searcher.search(row, 10, Filters(same_word=True))
    facts = {"before": before, "opened": opened - before, "peak": watch.anonymous_bytes - before}
    print(json.dumps(facts))
    return 0


# --- the report -----------------------------------------------------------------------------------


def report(options: argparse.Namespace, machine: dict[str, Any], facts: dict[str, Any]) -> None:
    """Print the tables and the line of JSON."""
    print(measuring.machine_lines(machine))
    print(f"{options.model}, {facts['rows']:,} shift vectors of {facts['dimension']}\n")
    contenders = facts["contenders"]
    kinds = [kind for kind in ("altered", "foreign") if f"{kind} recall@10" in contenders["exact"]]
    for kind in kinds:
        heads = [f"{kind} queries", *(f"recall@{k}" for k in _KS), *(f"q/s @{k}" for k in _KS)]
        rows = [
            [
                name,
                *(f"{found[f'{kind} recall@{k}']:.3f}" for k in _KS),
                *(shown(found[f"{kind} q/s @{k}"]) for k in _KS),
            ]
            for name, found in contenders.items()
        ]
        print(measuring.table(heads, rows) + "\n")
    heads = ["index", "bytes per vector", "recall said", "built in s", "build MB", "single ms", "what"]
    rows = [
        [
            name,
            shown(found["bytes"]),
            shown(found.get("said"), ".3f"),
            shown(found.get("build_seconds"), ".0f"),
            shown(found["build_bytes"] / 1e6) if "build_bytes" in found else "-",
            shown(found["single ms"], ".2f"),
            found.get("factory", "-"),
        ]
        for name, found in contenders.items()
    ]
    print(measuring.table(heads, rows) + "\n")
    singles = [[name, f"{value:.2f}"] for name, value in facts["singles"].items()]
    print(measuring.table(["a single query, hits read", "ms"], singles) + "\n")
    memory = facts["memory"]
    print(
        f"--memory {memory['asked']}: {memory['opened'] / 1e6:.0f} MB more when opened, "
        f"{memory['peak'] / 1e6:.0f} MB more at most (mapped files apart)"
    )
    print("\nbuild MB: peak of anonymous memory, mapped files apart")
    print(json.dumps({"machine": machine, "model": options.model, **facts}))


if __name__ == "__main__":
    sys.exit(run(main))
