"""Which shard a worker runs next: handing out, trying again, giving up.

Knows neither processes nor machines; whoever runs workers asks it, and tells it how shards ended.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# Of a shard whose worker dies, and of starting a worker.
TRIES = 3


class Dispatch:
    """The shards of a run that are not committed yet.

    A worker reads its next shard while it finishes the last, so a death can cost two. A shard that has
    failed before therefore runs alone: one that kills its worker takes no other down with it.

    Args:
        shards: Their numbers.
    """

    def __init__(self, shards: Iterable[int]) -> None:
        self._pending = deque(shards)
        self._open = set(self._pending)
        self._failures: dict[int, int] = {}
        self._given_up: list[int] = []

    def __len__(self) -> int:
        return len(self._open)

    @property
    def given_up(self) -> list[int]:
        """The shards that have failed too often, in order."""
        return sorted(self._given_up)

    def next(self, running: Sequence[int]) -> int | None:
        """A shard for a worker that has these at hand; ``None`` if there is none for it now."""
        if not self._pending or any(shard in self._failures for shard in running):
            return None
        if running and self._pending[0] in self._failures:
            return None
        return self._pending.popleft()

    def committed(self, shard: int) -> None:
        """A shard is done."""
        self._open.discard(shard)

    def lost(self, shards: Iterable[int]) -> Iterator[dict[str, Any]]:
        """A worker has died with these shards; yields for each the message that says what follows."""
        for shard in shards:
            self._failures[shard] = self._failures.get(shard, 0) + 1
            if self._failures[shard] >= TRIES:
                self._open.discard(shard)
                self._given_up.append(shard)
                yield {"say": "given up", "shard": shard}
            else:
                self._pending.append(shard)
                yield {"say": "retry", "shard": shard}
