"""What of a store is changed, and how a mutation is declared; the checksums of what was changed.

A mutation takes a source of chance and a `Target`, changes the store, and says in words what it did. Of
those that are `Mutation.sealed`, checksums are computed again, as anybody can who makes a store up.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.checks.victims import World, rewrite

# Fields of a commit that say more of a file's content than its checksum; stores of before lack them.
EXTRA_FACTS = ("batches", "digests")


class InapplicableError(Exception):
    """This mutation cannot be made of this file."""


@dataclass(frozen=True, slots=True)
class Target:
    """A file or folder of a store, by its kind."""

    kind: str
    path: Path
    world: World
    n_shards: int = 3

    @property
    def out(self) -> Path:
        """The store."""
        return self.world.out

    @property
    def shard(self) -> Path:
        """The shard's folder that the file is in."""
        return self.path.parent

    def siblings(self) -> list[Path]:
        """Files of the same kind in the store, this one left out."""
        found = (path for path in self.out.rglob(self.path.name) if path.is_file())
        return sorted(path for path in found if path != self.path)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mutation, the kinds of files that it is for, and what it does to checksums."""

    name: str
    act: Callable[[random.Random, Target], str]
    kinds: tuple[str, ...]
    sealed: bool = False
    weight: float = 1.0


MANIFEST, COMMIT, WORDS, SENTENCES, MOMENTS, REJECTS = (
    "manifest.json", "shard.json", "words.arrow", "sentences.arrow", "moments.npy", "rejects.jsonl",
)  # fmt: skip
INDEX_FACTS, INDEX, POSTINGS = "index/*.json", "index/*.faiss", "index/words.arrow"
CODEBOOK_FACTS, CODEBOOK, PART = (
    "index/*.parts/codebook.json", "index/*.parts/codebook.f32", "index/*.parts/*.codes",
)  # fmt: skip
LOCK, LOG, FOLDERS = ".lock", "run.log", "folders"
OF_PARTS = (CODEBOOK_FACTS, CODEBOOK, PART)
FILES = (
    MANIFEST, COMMIT, WORDS, SENTENCES, MOMENTS, REJECTS, INDEX_FACTS, INDEX, POSTINGS, *OF_PARTS, LOCK, LOG,
)  # fmt: skip
KINDS = (*FILES, FOLDERS)
JSON = (MANIFEST, COMMIT, INDEX_FACTS, CODEBOOK_FACTS)
ARROW = (WORDS, SENTENCES, POSTINGS)


def declare_in(mutations: list[Mutation]) -> Any:
    """Return a decorator that adds a mutation of some kinds of files to a list."""

    def declare(*kinds: str, sealed: bool = False, weight: float = 1.0) -> Any:
        def register(act: Callable[[random.Random, Target], str]) -> Callable[[random.Random, Target], str]:
            mutations.append(Mutation(act.__name__.strip("_"), act, kinds, sealed, weight))
            return act

        return register

    return declare


def files_of(world: World, kind: str) -> list[Path]:
    """Return the files of a kind in a store; on object storage the files' names carry an attempt."""
    out = world.out
    if kind == FOLDERS:
        parts = out.glob("index/*.parts")
        return [out / "shards", *sorted(out.glob("shards/[0-9]*")), *out.glob("index"), *parts]
    if kind == INDEX_FACTS:
        return sorted(out.glob("index/*.json"))
    if kind == POSTINGS:
        return sorted(out.glob("index/words.arrow"))
    if kind in (INDEX, MANIFEST, LOCK, LOG, *OF_PARTS):
        return sorted(out.glob(kind))
    stem, _, suffix = kind.partition(".")
    return sorted({*out.glob(f"shards/*/{kind}"), *out.glob(f"shards/*/{stem}.*.{suffix}")})


def _facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def adopt(target: Target, **counts: int) -> None:
    """Have all checksums be those of a file that has been changed, as its author would."""
    path = target.path
    if target.kind == PART:
        body = path.read_bytes()[:-32]
        path.write_bytes(body + hashlib.sha256(body).digest())
        return
    if target.kind == CODEBOOK:
        rewrite(path.with_suffix(".json"), lambda facts: {**facts, **_facts(path)})
        of_index = path.parent.with_suffix(".json")
        rewrite(of_index, lambda facts: {**facts, "codebook": {**facts["codebook"], **_facts(path)}})
        return
    if path.parent.name == "index":
        rewrite(path.with_suffix(".json"), lambda facts: {**facts, **_facts(path)})
        return

    def change(commit: dict[str, Any]) -> dict[str, Any]:
        commit["files"][target.kind] = _facts(path)
        commit["counts"] |= counts
        return {name: value for name, value in commit.items() if name not in EXTRA_FACTS}

    rewrite(path.with_name("shard.json"), change)
    if target.kind == WORDS:
        shard = str(int(path.parent.name))
        for facts in target.out.glob("index/*.json"):
            rewrite(
                facts, lambda of: {**of, "built_from": {**of["built_from"], shard: _facts(path)["sha256"]}}
            )


def shown(value: Any) -> str:
    """Return a value in words of a line's length."""
    text = (
        repr(value)
        if not isinstance(value, int) or abs(value) < 1 << 70
        else f"an integer of {value.bit_length()} bits"
    )
    return text if len(text) < 60 else f"{text[:50]}…"
