"""Measure how many of a row's nearest neighbours stay the same at lower precision of computing and storing.

    python -m scripts.evaluation.stability CORPUS --model NAME [--limit N] [--int8] [--json]

The package runs the corpus, a record a line, in fp32 and bf16, in fp16 where there is a GPU, and with --int8
in int8. From the static and contextual vectors of each run, as stored in float32, float16 or int8, every
shift is computed; float16* and int8* are shifts that are computed from float32 vectors and stored in this
type themselves, as columns of a store. The reference is fp32, stored in float32. For 500 rows drawn by
chance: the share of the ten nearest rows, by exact cosine, that are those of the reference, among all other
rows and among rows of other words (`ctxbatch.text.word_key`). At the last layer and at two thirds of the
depth.
Prints the machine, a table, and a last line of JSON; with --json that line alone.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctxbatch.choices import default_layer
from ctxbatch.errors import InputError
from ctxbatch.store.int8_vectors import Int8Vectors
from ctxbatch.text.word_key import word_key
from scripts.benchmarks import measuring
from scripts.command_line import Parser, positive, run, say
from scripts.evaluation.sense_scores import normalised
from scripts.evaluation.vector_kinds import KINDS, SHIFTS, kinds_of
from scripts.evaluation.wic_report import rounded, short

if TYPE_CHECKING:
    from ctxbatch.store.reader import Store

_NEAREST, _QUERIES, _AT_ONCE = 10, 500, 100
_STORED = ("float32", "float16", "float16*", "int8", "int8*")
_REFERENCE = ("fp32", "float32")

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Neighbours = tuple[Ints, Ints]  # of all rows and of other words, a row a query


def main() -> int:
    """Run the evaluation; returns the exit status."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="ctxbatch-stability-") as folder:
        machine = measuring.describe_machine(Path(folder))
        stores = make_stores(options, Path(folder))
        rows = compare(stores, options.seed)
        facts = {
            "model": options.model,
            "records": options.limit,
            "stored_rows": stores["fp32"].n_rows,
            "queries": min(_QUERIES, stores["fp32"].n_rows),
            "seed": options.seed,
            "shifts": SHIFTS,
            "rows": rows,
        }
    if not options.json:
        report(machine, facts)
    print(json.dumps(rounded({"machine": machine, **facts})))
    return 0


def parse() -> argparse.Namespace:
    """Return the options of the command line.

    Raises:
        InputError: int8 is asked for, and nncf is not installed.
    """
    parser = Parser(__spec__.name, __doc__)
    parser.add_text()
    parser.add_model()
    parser.add_argument("--limit", type=positive, help="take this many records; all by default")
    parser.add_argument("--int8", action="store_true", help="also run in int8, which needs nncf")
    parser.add_argument("--json", action="store_true", help="print the line of JSON alone")
    parser.add_argument("--workers", type=positive, help="as of ctxbatch run")
    parser.add_seed()
    parser.add_work()
    options = parser.parse_args()
    if options.int8 and importlib.util.find_spec("nncf") is None:
        raise InputError("--int8 needs nncf: pip install 'ctxbatch[int8]'")
    return options


def make_stores(options: argparse.Namespace, work: Path) -> "dict[str, Store]":
    """Run the corpus in each precision that this machine has; returns the stores by it.

    Raises:
        InputError: The corpus has too few words.
    """
    import ctxbatch
    from ctxbatch.model.facts import read_facts
    from ctxbatch.model.gpus import find_gpus
    from ctxbatch.model.hub import find_model

    n_layers = read_facts(find_model(options.model, None)).n_layers
    precisions = ["fp32", "bf16"] + ["fp16"] * bool(find_gpus().gpus) + ["int8"] * options.int8
    stores = {}
    for precision in precisions:
        say(f"running in {precision}")
        config = ctxbatch.RunConfig(
            model=options.model,
            layers=tuple(sorted({default_layer(n_layers), n_layers})),
            vectors=("static", "contextual"),
            record="line",
            dtype="float32",
            precision=precision,
            limit=options.limit,
            workers=options.workers,
            index=False,
            force=True,  # int8 that keeps few neighbours is what is to be measured
        )
        ctxbatch.run(options.corpus, work / precision, config, quiet=False)
        stores[precision] = ctxbatch.open(work / precision)
    if stores["fp32"].n_rows <= _NEAREST:
        raise InputError(f"{options.corpus} has {stores['fp32'].n_rows} words, it needs more than {_NEAREST}")
    return stores


# --- from vectors to shares -----------------------------------------------------------------------


def compare(stores: "Mapping[str, Store]", seed: int) -> list[dict[str, Any]]:
    """Return the shares kept of each kind and layer, by each precision and type, against the reference."""
    reference = stores["fp32"]
    words = reference.words.to_table(columns=["word"])["word"].to_pylist()
    _, key_N = np.unique([word_key(word) for word in words], return_inverse=True)
    queries_Q = np.sort(np.random.default_rng(seed).permutation(len(words))[:_QUERIES])
    found = []
    for layer in sorted(reference.config.layers):
        say(f"comparing layer {layer}")
        exact: dict[str, Neighbours] = {}
        for precision, store in stores.items():
            for stored in _STORED:
                for kind, vectors_ND in read(store, layer, stored).items():
                    nearest = neighbours(vectors_ND, key_N, queries_Q)
                    if (precision, stored) == _REFERENCE:
                        exact[kind] = nearest
                        continue
                    everywhere, others = map(shared, nearest, exact[kind])
                    names = {"kind": kind, "layer": layer, "precision": precision, "stored": stored}
                    found.append({**names, "all": everywhere, "other_words": others})
    return found


def read(store: "Store", layer: int, stored: str) -> dict[str, Floats]:
    """Return the vectors of each kind, (N, D) in float32, as a store of this type has them."""
    names = (f"contextual_{layer}", "static")
    contextual_ND, static_ND = (np.concatenate([*store.column(name).batches()]) for name in names)
    dtype = stored.removesuffix("*")
    if dtype == stored:
        return kinds_of(rounded_to(dtype, contextual_ND), rounded_to(dtype, static_ND))
    kinds = kinds_of(contextual_ND, static_ND)
    return {name: rounded_to(dtype, kinds[name]) for name in SHIFTS}


def rounded_to(dtype: str, vectors_ND: Floats) -> Floats:
    """Return float32 vectors as a store of this type gives them back."""
    if dtype == "int8":
        return Int8Vectors.of(vectors_ND.astype(np.float32))[:]
    return vectors_ND.astype(dtype).astype(np.float32)


def neighbours(vectors_ND: Floats, key_N: Ints, queries_Q: Ints) -> Neighbours:
    """Return the nearest rows of each query by exact cosine, (Q, nearest), among all and of other words.

    A query without so many rows of other words has rows of its own word after them.
    """
    unit_ND = normalised(vectors_ND)
    everywhere, others = [], []
    for begin in range(0, len(queries_Q), _AT_ONCE):
        some = queries_Q[begin : begin + _AT_ONCE]
        cosines_QN = unit_ND[some] @ unit_ND.T
        cosines_QN[np.arange(len(some)), some] = -np.inf
        everywhere.append(highest(cosines_QN))
        cosines_QN[key_N[some][:, None] == key_N] = -np.inf
        others.append(highest(cosines_QN))
    return np.concatenate(everywhere), np.concatenate(others)


def highest(cosines_QN: Floats) -> Ints:
    """Return the numbers of the highest of each row, in no order."""
    found: Ints = np.argpartition(-cosines_QN, _NEAREST - 1, axis=1)[:, :_NEAREST]
    return found


def shared(found: Ints, exact: Ints) -> float:
    """Return the mean share of the neighbours that are those of the reference."""
    same = (found[:, :, None] == exact[:, None, :]).any(axis=2)
    return float(same.mean())


# --- the report -----------------------------------------------------------------------------------


def report(machine: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Print the machine and a table for each layer: all rows, and other words."""
    print(measuring.machine_lines(machine))
    n_rows, n_queries = facts["stored_rows"], facts["queries"]
    print(f"{facts['model']}, {n_rows:,} rows, {n_queries} queries; neighbours of fp32, float32 kept")
    for layer in sorted({row["layer"] for row in facts["rows"]}):
        print(f"\n{table([row for row in facts['rows'] if row['layer'] == layer], layer)}")
    print("\nfloat16*, int8*: shifts computed from float32 and stored so; else from vectors as stored\n")


def table(rows: Sequence[Mapping[str, Any]], layer: int) -> str:
    """Return the table of a layer."""
    cells = {(row["precision"], row["stored"], row["kind"]): row for row in rows}
    lines = [
        [
            f"{precision}, {stored}",
            *(cell(cells.get((precision, stored, kind))) for kind in KINDS),
        ]
        for precision, stored in dict.fromkeys(key[:2] for key in cells)
    ]
    return measuring.table([f"layer {layer}: all, other words", *KINDS], lines)


def cell(row: Mapping[str, Any] | None) -> str:
    """Return the two shares of a row; a dash where there is none."""
    return "-" if row is None else f"{short(row['all'])} {short(row['other_words'])}"


if __name__ == "__main__":
    sys.exit(run(main))
