"""Decides which shard a worker runs next: hands shards out, retries them, leaves them to others, gives up.

Knows neither processes nor machines. Whoever runs workers asks it, and passes on their messages.
"""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

from ctxbatch.execution.messages import (
    Committed,
    Found,
    GivenUp,
    Job,
    Left,
    Message,
    Retried,
    Taken,
)

# Of a shard whose worker dies, and of starting a worker. So many shards that raise an error end a run.
TRIES = 3
# A shard that another process has claimed is asked for again this often, when there is nothing else to do.
_ASK_SECONDS = 1.0


class Dispatch:
    """The unfinished shards of a run, and their failures.

    A worker reads its next shard while it finishes the last, so a death can cost several. A shard that has
    failed before therefore runs alone: one that kills its worker takes no other down with it.

    Args:
        shards: Their numbers.
        rebuild: Those of them that are made although they are committed.
        patience: Seconds after which a shard that another process has claimed is left to that one.
    """

    def __init__(self, shards: Iterable[int], rebuild: Collection[int], patience: float) -> None:
        self._pending = deque(shards)
        self._open = set(self._pending)
        self._rebuild = rebuild
        self._patience = patience
        self._failures: dict[int, int] = {}
        self._given_up: list[int] = []
        self.reasons: list[str] = []  # why shards were given up that raise an error
        self._taken: deque[int] = deque()
        self._taken_since: dict[int, float] = {}
        self._asked = 0.0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def given_up(self) -> list[int]:
        """The shards that have failed too often, in order."""
        return sorted(self._given_up)

    def next(self, running: Sequence[int], n_workers: int) -> Job | None:
        """Return a job for a worker that holds these shards; ``None`` if there is none now.

        The last shards are read ahead by nobody: who is free first gets them.
        """
        self._ask_again()
        if running and n_workers > 1 and len(self._pending) <= n_workers:
            return None
        if not self._pending or any(shard in self._failures for shard in running):
            return None
        if running and self._pending[0] in self._failures:
            return None
        shard = self._pending.popleft()
        return Job(shard, shard in self._rebuild)

    def heard(self, message: Message) -> Message:
        """Take note of what a worker says; returns what is to be told of it."""
        if isinstance(message, Committed | Found):
            self._open.discard(message.shard)
        elif isinstance(message, Taken):
            return self._after_refusal(message.shard)
        return message

    def lost(self, shards: Iterable[int]) -> Iterator[Retried | GivenUp]:
        """Take note that a worker died with these shards; yield for each the message of what follows."""
        yield from self._tried(shards, 1, "its worker died three times")

    def failed(self, shards: Sequence[int], reason: str) -> Iterator[Retried | GivenUp]:
        """Take note that a worker raised an error with these shards; yield what `lost` does.

        The same shard would raise it again. Which of several did is not known: each runs once more, alone.
        """
        if len(shards) == 1:
            self.reasons.append(reason)
        yield from self._tried(shards, TRIES if len(shards) == 1 else 1, reason)

    def _tried(self, shards: Iterable[int], tries: int, why: str) -> Iterator[Retried | GivenUp]:
        for shard in shards:
            self._failures[shard] = self._failures.get(shard, 0) + tries
            if self._failures[shard] >= TRIES:
                self._open.discard(shard)
                self._given_up.append(shard)
                yield GivenUp(shard, why)
            else:
                self._pending.append(shard)
                yield Retried(shard)

    def _after_refusal(self, shard: int) -> Taken | Left:
        now = time.monotonic()
        if now - self._taken_since.setdefault(shard, now) < self._patience:
            self._taken.append(shard)
            return Taken(shard)
        self._open.discard(shard)
        return Left(shard)

    def _ask_again(self) -> None:
        """Try what was claimed by others once more, now and then, where nothing else waits."""
        now = time.monotonic()
        if self._taken and not self._pending and now - self._asked >= _ASK_SECONDS:
            self._pending, self._taken, self._asked = self._taken, deque(), now
