"""Stops a run that rejects more of its input than ``--max-rejects`` allows."""

from collections.abc import Mapping
from pathlib import Path

from ctxbatch.errors import TooManyRejectsError
from ctxbatch.execution.messages import Found, Message, Progress
from ctxbatch.store.commits import Commit
from ctxbatch.store.manifest import rejects_of

# A share of rejected records means nothing before so many have been read.
_MIN_RECORDS_FOR_SHARE = 100


class RejectWatch:
    """Stops a run whose rejected records are more than ``--max-rejects``."""

    def __init__(self, out: Path | str, limit: float | None, done: Mapping[int, Commit]) -> None:
        self._out = out
        self._limit = limit
        self._counts = {
            shard: (commit.counts.records, commit.counts.rejected) for shard, commit in done.items()
        }
        # What stood in shards that are not committed is nowhere to be read.
        rejected = any(commit.counts.rejected for commit in done.values())
        self._example = f" (see {rejects_of(out)})" if rejected else ""

    def on_message(self, message: Message) -> None:
        """Take note of what is said of a shard.

        Raises:
            TooManyRejectsError: More is rejected than the limit allows.
        """
        if isinstance(message, Found):
            self._counts[message.shard] = (message.counts.records, message.counts.rejected)
        if isinstance(message, Progress):
            self._counts[message.shard] = (message.records, message.rejected)
            if message.first_reject:
                self._example = f" (the first: {message.first_reject})"
            self.check()

    def check(self, finished: bool = False) -> None:
        """Compare what was rejected so far with the limit.

        Raises:
            TooManyRejectsError: It is more.
        """
        if self._limit is None:
            return
        records = sum(count for count, _ in self._counts.values())
        rejected = sum(count for _, count in self._counts.values())
        is_share = isinstance(self._limit, float)
        if is_share and records < _MIN_RECORDS_FOR_SHARE and not finished:
            return
        if rejected > (self._limit * records if is_share else self._limit):
            limit = f"{100 * self._limit:g}%" if is_share else f"{self._limit:,}"
            raise TooManyRejectsError(
                f"{rejected:,} of {records:,} records are rejected, more than --max-rejects {limit}"
                f"{self._example}: fix the input or the options, or raise --max-rejects, then run again"
            )
