"""Divides a run into parts for several machines, and reports how a part ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.errors import shortened

# How long a shard that another process has claimed is waited for: a worker whose coordinator was killed is
# gone by then.
PATIENCE_SECONDS = 5.0
_SHOWN_SHARDS = 8


@dataclass(frozen=True, slots=True)
class PartReport:
    """What the ``number``-th of ``of`` parts ends with: its own shards, and how the whole store stands.

    ``left`` are shards of its own that another process is making, ``missing`` all that the store lacks.
    ``to_index`` is the column of the index that is still to be built, once the store is complete.
    """

    number: int
    of: int
    shards: tuple[int, ...]
    left: tuple[int, ...]
    missing: tuple[int, ...]
    planned: int
    to_index: str | None

    def __str__(self) -> str:
        n_own = len(self.shards)
        n_done = n_own - len(set(self.shards).intersection(self.missing))
        own = f"{n_done} of {n_own} shards" if n_own else "empty, as there are fewer shards than parts"
        in_store = f"{self.planned - len(self.missing)} of {self.planned} in the store"
        found = [f"part {self.number} of {self.of}: {own}", in_store]
        if self.missing:
            found.append(f"missing: {shard_list(self.missing)}")
        if self.left:
            found.append(f"another process is building: {shard_list(self.left)}")
        return "; ".join(found)


def part_of(shards: Sequence[ShardSpec], part: tuple[int, int] | None) -> Sequence[ShardSpec]:
    """Return the shards of the i-th of n parts, i from 1; all shards without a part.

    Parts are contiguous, because a compressed source is read from its beginning up to where a shard starts,
    and differ by one shard at most. Where there are more parts than shards some are empty.
    """
    if part is None:
        return shards
    number, of = part
    return shards[len(shards) * (number - 1) // of : len(shards) * number // of]


def shard_list(shards: Iterable[int]) -> str:
    """Return the numbers of shards: as many as fit a line, and of more also how many there are."""
    numbers = [f"{shard:06d}" for shard in shards]
    in_all = f" ({len(numbers):,} in all)" if len(numbers) > _SHOWN_SHARDS else ""
    return f"{shortened(numbers, _SHOWN_SHARDS)}{in_all}"
