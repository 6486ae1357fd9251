"""Reads commit records, and decides which shards are committed.

A shard counts as committed only if its ``shard.json`` is intact and matches the manifest, and the files that
it names exist with the right sizes. Owns the names of a shard's files: a record that names any other is
damaged.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.records import Segment
from ctxbatch.errors import SHOWN_REASON, StoreError, one_line
from ctxbatch.sealed import Count, Positive, Sha256, read_bytes, size_of, typed, unseal
from ctxbatch.store.int8_fidelity import Int8Sums
from ctxbatch.store.manifest import SHARDS, Manifest

FileName = Literal["words.arrow", "sentences.arrow", "moments.npy", "rejects.jsonl"]
WORDS: FileName = "words.arrow"
SENTENCES: FileName = "sentences.arrow"
MOMENTS: FileName = "moments.npy"
REJECTS: FileName = "rejects.jsonl"
COMMIT = "shard.json"
# The name of a script, as Unicode has it.
Script = Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{1,40}\\Z")]
# Identifies an attempt to write a shard to object storage.
Attempt = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}\\Z")]


@dataclass(slots=True)
class Counts:
    """The counts of a shard; those of several shards can be added.

    ``words`` counts all words found, ``rejected_words`` those of them that were rejected; ``slots`` counts
    the positions that the model computed, padding included, ``tokens`` the unmasked ones among them. The last
    ones are those of `ctxbatch.text.fit.Fit`; stores of before have none.
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
    unknown_pieces: Count = 0
    long_words: Count = 0
    characters: Count = 0
    bare_characters: Count = 0
    control_tokens: Count = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[int, ...]:
        """Return the counts in the order of the fields."""
        return tuple(asdict(self).values())


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's size and checksum; since 0.2, also what `ctxbatch.store.arrow_files` checks of an Arrow file.

    Args:
        bytes: The size of the file.
        sha256: The checksum of the whole file.
        frame: The sha256 of everything outside the record batches' buffers.
        batches: For each record batch, the offsets at which its buffers begin, its vectors begin and its
            buffers end, and the sha256 of the buffers before the vectors.
    """

    bytes: Count
    sha256: Sha256
    frame: Sha256 | None = None
    batches: tuple[tuple[Count, Count, Count, Sha256], ...] | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """When a shard was started and finished, in seconds since 1970, and how each stage spent the time."""

    started: float
    finished: float
    stages: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit record, as ``shard.json`` holds it. Only shards on object storage have an ``attempt``.

    ``scripts`` are those of the words that do not fit the model, as `ctxbatch.text.fit.Fit` has them.
    ``int8`` says what int8 has kept of each column, if that is the stored type.
    """

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
    scripts: dict[Script, Count] = field(default_factory=dict)
    int8: dict[str, Int8Sums] | None = None

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


def built_from(commits: Mapping[int, Commit]) -> dict[str, str]:
    """Return the checksum of each shard's words.arrow, by shard: what is made from them has to match."""
    return {str(shard): commit.files[WORDS].sha256 for shard, commit in commits.items()}


def parse_commit(raw: bytes, name: object, shard: int) -> Commit:
    """Return the commit record in a shard's file; errors call the file ``name``.

    Raises:
        StoreError: The record is damaged, or of another shard.
    """
    return commit_of(unseal(raw, name), name, shard)


def commit_of(content: dict[str, Any], name: object, shard: int) -> Commit:
    """Return an unsealed object as the commit record of a shard.

    Raises:
        StoreError: The object is not a commit record, or is one of another shard.
    """
    commit = typed(content, Commit, name)
    if commit.shard != shard:
        raise StoreError(f"{name} is damaged: it is the record of shard {commit.shard:06d}")
    if not {WORDS, SENTENCES} <= commit.files.keys():
        raise StoreError(f"{name} is damaged: it does not name both {WORDS} and {SENTENCES}")
    if max(commit.counts.rows, commit.counts.sentences) > 1 << 32:
        raise StoreError(f"{name} is damaged: it counts more rows than a shard can have")
    return commit


def damaged(name: object, why: object) -> StoreError:
    """Return the error for a damaged store or a damaged file of a shard."""
    said = one_line(why)[:SHOWN_REASON]
    return StoreError(f"{name} is damaged ({said}): run `ctxbatch verify` on the store")


def shard_folder(out: Path, shard: int) -> Path:
    """Return the folder of a shard's files."""
    return out / SHARDS / f"{shard:06d}"


def read_commit(out: Path, manifest: Manifest, spec: ShardSpec) -> Commit | None:
    """Return the commit record of a shard; ``None`` if the shard is not committed.

    A shard is committed if its record is intact and has the configuration and text of the manifest, and the
    files that it names exist with the right sizes. A rerun rebuilds any other shard, and verify names it.

    Raises:
        StoreError: The record is that of a shard on object storage.
        ResourceError: The disk or a permission prevents reading, so that nothing is known about the shard.
    """
    folder = shard_folder(out, spec.shard)
    try:
        commit = parse_commit(read_bytes(folder / COMMIT), folder / COMMIT, spec.shard)
    except (FileNotFoundError, StoreError):
        return None
    if commit.attempt is not None:
        raise StoreError(
            f"{folder} was copied from object storage, where files have other names: copy the store with "
            "`ctxbatch pull`"
        )
    whole = all(size_of(folder / name) == facts.bytes for name, facts in commit.files.items())
    return commit if whole and is_of_plan(commit, manifest, spec) else None


def is_of_plan(commit: Commit, manifest: Manifest, spec: ShardSpec) -> bool:
    """Return True if a record has the configuration of the manifest and the text of the planned shard."""
    return commit.fingerprint == manifest.config.fingerprint and commit.inputs == spec.segments
