"""Commit records: what makes a shard count, and which files a shard has.

A shard counts if and only if its ``shard.json`` is there, intact, of the manifest's plan, and names files
that are there in full length. Owns the names of a shard's files: a record that names any other is damaged.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.records import Segment
from ctxbatch.errors import SHOWN_REASON, StoreError, one_line
from ctxbatch.sealed import Count, Positive, Sha256, read_bytes, size_of, typed, unseal
from ctxbatch.store.manifest import SHARDS, Manifest

FileName = Literal["words.arrow", "sentences.arrow", "rejects.jsonl"]
WORDS: FileName = "words.arrow"
SENTENCES: FileName = "sentences.arrow"
REJECTS: FileName = "rejects.jsonl"
COMMIT = "shard.json"
# What tells two attempts to write a shard to object storage apart.
Attempt = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}\\Z")]


@dataclass(slots=True)
class Counts:
    """What a shard holds and what it took; `Counts` of several shards add up.

    ``words`` are all words found, ``rejected_words`` those of them that were rejected; ``slots`` are the
    positions that the model computed, padding included, ``tokens`` the unmasked ones among them.
    """

    records: Count = 0
    sentences: Count = 0
    words: Count = 0
    rows: Count = 0
    wordpieces: Count = 0
    tokens: Count = 0
    slots: Count = 0
    rejected: Count = 0
    rejected_words: Count = 0
    unknown_words: Count = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, ...]:
        """Return the counts in the order of the fields."""
        return tuple(asdict(self).values())


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's size and checksum; of an Arrow file since 0.2 also what `ctxbatch.store.arrow_files` checks.

    Args:
        bytes: Its size.
        sha256: Of the whole file.
        frame: The sha256 of everything outside the record batches' buffers.
        batches: Of each record batch where its buffers begin, where those of the vectors do, where they end,
            and the sha256 of the buffers before the vectors.
    """

    bytes: Count
    sha256: Sha256
    frame: Sha256 | None = None
    batches: tuple[tuple[Count, Count, Count, Sha256], ...] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """When a shard was begun and finished, in seconds since 1970, and what each stage did meanwhile."""

    started: float
    finished: float
    stages: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit record, as ``shard.json`` holds it. ``attempt`` is that of a shard on object storage."""

    format_version: Positive
    shard: Count
    counts: Counts
    files: dict[FileName, FileFacts]
    fingerprint: str
    inputs: tuple[Segment, ...]
    timing: Timing
    tokens_per_batch: Positive
    device: str
    versions: dict[str, str]
    peak_memory_bytes: Count
    attempt: Attempt | None = None

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(facts.bytes for facts in self.files.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the record as its file holds it."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        files = {name: _without_none(facts) for name, facts in content["files"].items()}
        return _without_none({**content, "files": files})


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}


def parse_commit(raw: bytes, name: object, shard: int) -> Commit:
    """Return the commit record that a shard's file holds; ``name`` is what the file is called.

    Raises:
        StoreError: It is damaged, or of another shard.
    """
    return commit_of(unseal(raw, name), name, shard)


def commit_of(content: dict[str, Any], name: object, shard: int) -> Commit:
    """Return an unsealed object as the commit record of a shard.

    Raises:
        StoreError: It is none, or one of another shard.
    """
    commit = typed(content, Commit, name)
    if commit.shard != shard:
        raise StoreError(f"{name} is damaged: it is the record of shard {commit.shard:06d}")
    if not {WORDS, SENTENCES} <= commit.files.keys():
        raise StoreError(f"{name} is damaged: it names no {WORDS} or no {SENTENCES}")
    if max(commit.counts.rows, commit.counts.sentences) > 1 << 32:
        raise StoreError(f"{name} is damaged: it counts more rows than a shard can have")
    return commit


def damaged(name: object, why: object) -> StoreError:
    """Return the error for a store, or a file of a shard, that is not what was written."""
    said = one_line(why)[:SHOWN_REASON]
    return StoreError(f"{name} is damaged ({said}): run `ctxbatch verify` on the store")


def shard_folder(out: Path, shard: int) -> Path:
    """Return where a shard's files are."""
    return out / SHARDS / f"{shard:06d}"


def read_commit(out: Path, manifest: Manifest, spec: ShardSpec) -> Commit | None:
    """Return the commit record of a shard, if the shard counts.

    It counts if its record is intact and of this manifest's configuration and text, and the files that the
    record names are there in full length. A rerun makes any other again, and verify names it.

    Raises:
        StoreError: The record is that of a shard on object storage.
        ResourceError: The disk or a permission does not let it be read, so that nobody can tell.
    """
    folder = shard_folder(out, spec.shard)
    try:
        commit = parse_commit(read_bytes(folder / COMMIT), folder / COMMIT, spec.shard)
    except (FileNotFoundError, StoreError):
        return None
    if commit.attempt is not None:
        raise StoreError(
            f"{folder} was copied from object storage under other names than files have here: copy it with "
            "`ctxbatch pull`"
        )
    whole = all(size_of(folder / name) == facts.bytes for name, facts in commit.files.items())
    return commit if whole and is_of_plan(commit, manifest, spec) else None


def is_of_plan(commit: Commit, manifest: Manifest, spec: ShardSpec) -> bool:
    """Return True if a record is of a manifest's configuration and of the text of one of its shards."""
    return commit.fingerprint == manifest.config.fingerprint and commit.inputs == spec.segments
