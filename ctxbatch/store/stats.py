"""Adds up the shards of a store: counts, seconds by stage, and what held the run up."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctxbatch.config import Kept
from ctxbatch.store.commits import Commit, Counts
from ctxbatch.store.int8_fidelity import Int8Fidelity
from ctxbatch.store.reader import Store
from ctxbatch.text.fit import FitShares

# Below this share of its time at work, encoding waits too much for another stage to be the bottleneck.
_BUSY = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """What the committed shards of a store hold and took.

    Args:
        records: Records that were read; ``rejected`` of them are not in the store.
        sentences: Sentences that are in the store.
        words: Words that were found; ``rejected_words`` of them are not in the store. These, ``wordpieces``
            and ``unknown_words`` are ``None`` where ``--words`` left sentences untokenised.
        rows: Rows, each with its vectors.
        tokens: Tokens that the model computed, special ones included.
        shards_short_of_memory: Shards that ran in smaller batches, as the device's memory was too small.
        bytes_written: The size of all files on the disk.
        seconds: The union of the shards' working intervals: shards worked on side by side count once, and a
            night between two runs not at all.
        padding: The share of computed positions that were padding.
        stages: Seconds of each stage in each state, of all workers together.
        bottleneck: One sentence on what held the run up; ``None`` before any shard.
        peak_memory_bytes: The most memory that a worker has had.
        columns: Names of the vector columns.
        selection: Which occurrences are stored; ``None`` where all are.
        control_tokens: Places where the text spells a control token of the model, such as ``[SEP]``; they are
            read as text.
        fit: How well the model's vocabulary fits the text, as `ctxbatch.text.fit.FitShares` has it, of the
            shards that tell; those of before do not. ``None`` if none does.
        word_rule: What words are: ``unicode``, by version 1 of `ctxbatch.text.unicode_words`, or
            ``tokenizer``, the words of the model's tokenizer, as in stores of before.
        fidelity: How close the vectors of an int8 model are to those of fp32, as
            `ctxbatch.model.fidelity.Fidelity` has it; ``None`` for other precisions.
        int8: What int8 vectors keep of those of float32, by column, as
            `ctxbatch.store.int8_fidelity.Int8Fidelity` has it; ``None`` for other stored types.
        devices: All devices met, by name; more than one means a store of mixed origin.
        versions: All versions met, by library; likewise.

    The other fields are those of the store's configuration.
    """

    records: int
    sentences: int
    words: int | None
    rows: int
    wordpieces: int | None
    tokens: int
    rejected: int
    rejected_words: int
    unknown_words: int | None
    control_tokens: int
    fit: Mapping[str, Any] | None
    shards: int
    shards_planned: int
    shards_short_of_memory: int
    bytes_written: int
    seconds: float
    tokens_per_second: float
    padding: float
    stages: Mapping[str, Mapping[str, float]]
    bottleneck: str | None
    peak_memory_bytes: int
    model: str
    columns: tuple[str, ...]
    word_rule: str
    selection: Kept | None
    salience_layer: int | None
    salience_head: int | None
    precision: str
    runtime: str
    fidelity: Mapping[str, float] | None
    dtype: str
    int8: tuple[Int8Fidelity, ...] | None
    fingerprint: str
    devices: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them, as ``ctxbatch stats --json`` prints them."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return fields


def totals(store: Store, shards: Collection[int] | None = None) -> RunTotals:
    """Add up the committed shards of a store; with ``shards`` only these."""
    planned = range(len(store.manifest.shards)) if shards is None else shards
    commits = [commit for shard, commit in store.commits.items() if shard in planned]
    config = store.config
    counts = sum((commit.counts for commit in commits), Counts())
    seconds = _union((commit.timing.started, commit.timing.finished) for commit in commits)
    stages = _stages(commit.timing.stages for commit in commits)
    devices = devices_of(commits)
    fit = _fit(commits)
    all_tokenised = config.words is None  # else not those without one of the words
    return RunTotals(
        records=counts.records,
        sentences=counts.sentences,
        words=counts.words if all_tokenised else None,
        rows=counts.rows,
        wordpieces=counts.wordpieces if all_tokenised else None,
        tokens=counts.tokens,
        rejected=counts.rejected,
        rejected_words=counts.rejected_words,
        unknown_words=counts.unknown_words if all_tokenised else None,
        control_tokens=counts.control_tokens,
        fit=None if fit is None else asdict(fit),
        shards=len(commits),
        shards_planned=len(planned),
        shards_short_of_memory=sum(commit.tokens_per_batch < config.tokens_per_batch for commit in commits),
        bytes_written=sum(commit.size for commit in commits),
        seconds=round(seconds, 3),
        tokens_per_second=round(counts.tokens / seconds, 1) if seconds else 0.0,
        padding=round(1 - counts.tokens / counts.slots, 4) if counts.slots else 0.0,
        stages=stages,
        bottleneck=bottleneck(stages, _faster_model(devices)),
        peak_memory_bytes=max((commit.peak_memory_bytes for commit in commits), default=0),
        model=config.model,
        columns=config.columns,
        word_rule="tokenizer" if config.word_rule is None else "unicode",
        selection=config.kept,
        salience_layer=config.salience_layer,
        salience_head=config.salience_head,
        precision=config.precision,
        runtime=config.runtime,
        fidelity=None if store.manifest.fidelity is None else asdict(store.manifest.fidelity),
        dtype=config.dtype,
        int8=_int8_fidelity(config.columns, commits) if config.dtype == "int8" else None,
        fingerprint=config.fingerprint,
        devices=devices,
        versions=versions_of(commits),
    )


def _fit(commits: Iterable[Commit]) -> FitShares | None:
    telling = [commit for commit in commits if commit.counts.characters]
    if not telling:
        return None
    scripts: Counter[str] = Counter()
    for commit in telling:
        scripts.update(commit.scripts)
    return FitShares.of(asdict(sum((commit.counts for commit in telling), Counts())), scripts)


def _int8_fidelity(columns: Sequence[str], commits: Sequence[Commit]) -> tuple[Int8Fidelity, ...]:
    of_shards = [commit.int8 for commit in commits if commit.int8 is not None]
    found = (Int8Fidelity.of(name, [sums[name] for sums in of_shards if name in sums]) for name in columns)
    return tuple(each for each in found if each is not None)


def _faster_model(devices: Iterable[str]) -> str:
    if any(device.startswith("cuda") for device in devices):
        return "another GPU"
    return "a GPU, more cores"


def bottleneck(stages: Mapping[str, Mapping[str, float]], faster_model: str) -> str | None:
    """Return one sentence on what held a run up and what would help; ``None`` before any shard.

    Args:
        stages: Seconds in each state of each stage, as `totals` has them.
        faster_model: What would make the model itself faster.
    """
    encode = stages.get("encode", {})
    whole = sum(encode.values())
    if not whole:
        return None
    if encode["busy"] >= _BUSY * whole:
        return (
            f"the model: encoding is at work {encode['busy'] / whole:.0%} of its time; "
            f"{faster_model} or lower --layers would make it faster"
        )
    if encode["starved"] >= encode["blocked"]:
        return (
            f"reading: encoding waits {encode['starved'] / whole:.0%} of its time for text; more --workers, "
            "larger shards or input that is faster to read would help"
        )
    return (
        f"writing: encoding waits {encode['blocked'] / whole:.0%} of its time for the disk; fewer --vectors "
        "or a faster disk would help"
    )


def _stages(of_shards: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    total: dict[str, dict[str, float]] = {}
    for stages in of_shards:
        for stage, seconds in stages.items():
            states = total.setdefault(stage, {})
            for state, spent in seconds.items():
                states[state] = round(states.get(state, 0.0) + spent, 3)
    return total


def _union(intervals: Iterable[tuple[float, float]]) -> float:
    total, reached = 0.0, -math.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def devices_of(commits: Iterable[Commit]) -> tuple[str, ...]:
    """Return the names of all devices that shards were made on."""
    return tuple(sorted({commit.device for commit in commits}))


def versions_of(commits: Iterable[Commit]) -> dict[str, tuple[str, ...]]:
    """Return all versions that shards were made with, by library."""
    found: dict[str, set[str]] = {}
    for commit in commits:
        for name, version in commit.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}
