"""Plan cases: which kind of file, which store, which command; and say how a command is called."""

import hashlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from scripts.checks import forked, targets
from scripts.checks.victims import FACTORY, VARIANTS, Base, World, run_arguments, upload

REMOTE = "object storage"
_WEIGHTS = {
    targets.MANIFEST: 14, targets.COMMIT: 18, targets.WORDS: 14, targets.SENTENCES: 12,
    targets.MOMENTS: 6, targets.REJECTS: 6, targets.INDEX_FACTS: 10, targets.INDEX: 7, targets.POSTINGS: 8,
    targets.CODEBOOK_FACTS: 3, targets.CODEBOOK: 4, targets.PART: 4, targets.LOCK: 3, targets.LOG: 3,
    targets.FOLDERS: 8, REMOTE: 14,
}  # fmt: skip
QUERY = "I want an [apple]."
READS = {
    "verify": 4, "verify --sources": 1, "search": 4, "search --json": 3, "search --row": 3,
    "search --word": 2, "search --standardise": 2,
    "search --same-word": 2, "search --queries": 1, "stats": 1, "stats --json": 1, "status": 2, "layers": 1,
    "senses": 2, "read": 4,
}  # fmt: skip
WRITES = {"run": 3, "verify --repair": 4, "index": 2}
_OF_INDEX = {
    "search": 4, "search --row": 4, "search --word": 4, "search --same-word": 3, "verify": 3, "senses": 2,
    **WRITES,
}  # fmt: skip
_OF_PARTS = {"search": 1, "verify": 4, "verify --repair": 6, "index": 1, "run": 1}
_COMMANDS = {
    targets.INDEX_FACTS: _OF_INDEX,
    targets.INDEX: _OF_INDEX,
    targets.POSTINGS: _OF_INDEX,
    targets.CODEBOOK_FACTS: _OF_PARTS,
    targets.CODEBOOK: _OF_PARTS,
    targets.PART: _OF_PARTS,
    targets.MOMENTS: {"verify": 3, "search --standardise": 4, "stats": 2, "status": 1, **WRITES},
    targets.REJECTS: {"verify": 3, "read": 4, "stats": 1, **WRITES},
    targets.LOCK: {"status": 1, "verify": 1, **WRITES},
    targets.LOG: {"verify": 1, **WRITES},
    REMOTE: {"pull": 8, "verify": 5, "stats": 1, "status": 2, "verify --repair": 1, "run": 1},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A case before it is run; all of it follows from the seed and the case's number."""

    seed: int
    number: int
    kind: str
    variant: str
    command: str

    @property
    def key(self) -> str:
        """Where `Base.answers` has what the command says of the intact store."""
        return f"{self.variant} {self.command}{' remote' if self.kind == REMOTE else ''}"


def plan(seed: int, number: int, *, remote: bool) -> Plan:
    """Choose the kind of file, the variant of the store, and the command."""
    chance = random.Random(f"{seed} {number}")
    weights = {kind: weight for kind, weight in _WEIGHTS.items() if remote or kind != REMOTE}
    kind = _weighted(chance, weights)
    variant = "parts" if kind in targets.OF_PARTS else chance.choice(list(VARIANTS))
    return Plan(seed, number, kind, variant, _weighted(chance, _COMMANDS.get(kind, {**READS, **WRITES})))


def _weighted(chance: random.Random, weights: dict[str, Any]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


# --- commands -------------------------------------------------------------------------------------


def action(base: Base, world: World, variant: str, name: str, out: str) -> Callable[[], int]:
    """Return the function that a case runs in its child."""
    arguments: dict[str, list[Any]] = {
        "verify": ["verify", out],
        "verify --sources": ["verify", out, "--sources"],
        "verify --repair": ["verify", out, "--repair", "-q"],
        "search": ["search", out, QUERY, "-k", "5", "--context", "1", "--explain"],
        "search --json": ["search", out, QUERY, "--json", "--distinct", "document", "--source", "*.jsonl"],
        "search --row": ["search", out, "--row", str((1 << 32) + 5), "--json"],
        "search --word": ["search", out, QUERY, "--word", "orange", "--exclude-word", "want"],
        "search --same-word": ["search", out, QUERY, "--same-word", "--doc", "doc 3", "--doc", "doc 4"],
        "search --standardise": ["search", out, QUERY, "--standardise", "--json"],
        "search --queries": ["search", out, "--queries", base.queries, "--json"],
        "stats": ["stats", out],
        "stats --json": ["stats", out, "--json"],
        "status": ["status", out],
        "layers": ["layers", out, "apple", "want"],
        "senses": ["senses", out, "apple"],
        "pull": ["pull", out, world.pulled, "-q"],
        "index": ["index", out, "--factory", FACTORY, "--recall", "0.5", "-q"],
        "run": [*run_arguments(base, variant, out), "-q"],
    }
    return partial(read, out) if name == "read" else forked.command(arguments[name])


def read(out: str) -> int:
    """Print digests of what a Python program reads of a store, those of vectors on lines of their own."""
    import pyarrow as pa

    import ctxbatch
    from ctxbatch.errors import CtxbatchError
    from ctxbatch.store.rejects import rejects

    try:
        store = ctxbatch.open(out)
        print(store.n_rows, len(store.commits))
        datasets = (store.words, store.sentences)
        print("rejects", _digest(list(rejects(store))))
        if store.n_rows:
            print("rows", _digest(store.rows(np.array([0, store.n_rows // 2, store.n_rows - 1]))))
        for block in store.vectors():
            print("vectors", _digest(block.tobytes()))
        for dataset in datasets:
            try:
                table = dataset.to_table()
            except (pa.ArrowException, OSError) as error:  # pyarrow's own reader, which the user calls
                sys.stderr.write(f"pyarrow: {str(error)!a}\n")
                return 3
            plain = [name for name in table.column_names if name not in store.config.columns]
            print("table", _digest(table.select(plain).to_pylist()))
    except CtxbatchError as error:
        sys.stderr.write(f"ctxbatch: {error}\n")
        return error.exit_status
    return 0 if store.complete else 3


def _digest(value: object) -> str:
    raw = value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
    return hashlib.sha256(raw).hexdigest()


def forked_call(base: Base, variant: str, command: str, world: World, out: str) -> tuple[Any, ...]:
    """Return what `forked.run` takes."""
    act = action(base, world, variant, command, out)
    return act, world.said, world.home / "here", world.environment(base.url)


def upload_to(base: Base, bucket: str, world: World) -> str:
    """Copy a world's store to object storage; returns its URL."""
    assert base.url is not None
    upload(base.url, bucket, world.out)
    return f"s3://{bucket}/out"


def use_small_indexes() -> None:
    """Have searches go through an index also where so few rows are compared one by one; tune it quickly."""
    from ctxbatch.search import index
    from tests.helpers.indexes import QUICK

    for module, name, value in ((index, "_SCANNED_ROWS", 0), (index, "_SCANNED_SHARE", 0), *QUICK):
        setattr(module, name, value)
