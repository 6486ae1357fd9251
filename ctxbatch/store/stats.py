"""What the shards of a store add up to: counts, seconds by stage, and what held the run up."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ctxbatch.store.commits import Counts
from ctxbatch.store.reader import Store

# Below this share of its time at work, encoding waits too much for another stage to be the bottleneck.
_BUSY = 0.85


def totals(store: Store, shards: Collection[int] | None = None) -> dict[str, Any]:
    """What the committed shards hold and took, as ``ctxbatch stats --json`` prints it.

    ``seconds`` is the union of the shards' working intervals, so shards worked on side by side count
    once and a night between two runs not at all; ``words``, ``wordpieces`` and ``unknown_words`` are
    ``None`` where ``--words`` left sentences untokenised; ``padding`` is the share of computed positions that
    were padding; ``stages`` are seconds of all workers together. With ``shards`` only these count.
    """
    planned = range(len(store.manifest.shards)) if shards is None else shards
    commits = [commit for shard, commit in store.commits.items() if shard in planned]
    counts = sum((commit.counts for commit in commits), Counts())
    seconds = _union((commit.timing.started, commit.timing.finished) for commit in commits)
    content = asdict(counts)
    del content["slots"]
    if store.config.words is not None:  # sentences without one of them were not tokenised
        content |= dict.fromkeys(("words", "wordpieces", "unknown_words"))
    budget = store.config.tokens_per_batch
    stages = _stages(commit.timing.stages for commit in commits)
    devices = sorted({commit.device for commit in commits})
    return {
        **content,
        "shards": len(commits),
        "shards_planned": len(planned),
        "shards_short_of_memory": sum(commit.tokens_per_batch < budget for commit in commits),
        "bytes_written": sum(commit.size for commit in commits),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(counts.tokens / seconds, 1) if seconds else 0.0,
        "padding": round(1 - counts.tokens / counts.slots, 4) if counts.slots else 0.0,
        "stages": stages,
        "bottleneck": bottleneck(stages, _faster_model(devices, store.config.compiled)),
        "peak_memory_bytes": max((commit.peak_memory_bytes for commit in commits), default=0),
        "model": store.config.model,
        "columns": list(store.config.columns),
        "selection": None if store.config.kept is None else asdict(store.config.kept),
        "salience_layer": store.config.salience_layer,
        "salience_head": store.config.salience_head,
        "precision": store.config.precision,
        "compiled": store.config.compiled,
        "fingerprint": store.config.fingerprint,
        "devices": devices,
        "versions": _distinct(commit.versions for commit in commits),
    }


def _faster_model(devices: Iterable[str], compiled: bool) -> str:
    if any(device.startswith("cuda") for device in devices):
        return "another GPU"
    return "a GPU or more cores" if compiled else "a GPU, more cores, --compile on"


def bottleneck(stages: Mapping[str, Mapping[str, float]], faster_model: str) -> str | None:
    """One sentence on what held a run up, and what would make it faster; ``None`` before any shard.

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
        f"writing: encoding waits {encode['blocked'] / whole:.0%} of its time for the disk; fewer --vectors, "
        "--dtype float16 or a faster disk would help"
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


def _distinct(versions: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """All versions met, by library: more than one means a store of mixed origin."""
    found: dict[str, set[str]] = {}
    for each in versions:
        for name, version in each.items():
            found.setdefault(name, set()).add(version)
    return {name: sorted(versions) for name, versions in found.items()}
