"""Shows the progress of a run: a bar on a terminal, a line a minute elsewhere, nothing if quiet."""

import logging
import sys
import time
from collections.abc import Mapping

from ctxbatch.execution.messages import (
    Committed,
    Found,
    GivenUp,
    Left,
    Message,
    Progress,
    Ready,
    Retried,
    Taken,
)
from ctxbatch.terminal import bar_of_bytes

_LOG_SECONDS = 60.0
# What is shown until the first batches are computed.
_STARTING = "starting"
log = logging.getLogger("ctxbatch")


class ProgressBar:
    """Counts bytes, sentences and tokens of all shards; work of a shard that failed is taken back.

    Args:
        sizes: Bytes of input of each shard to run.
        before: Bytes of input of the shards that are done. They count in the share that is done, but not in
            the sentences and the speed.
        quiet: Show nothing; what is logged is logged all the same.
    """

    def __init__(self, sizes: Mapping[int, int], before: int, quiet: bool) -> None:
        self._sizes = sizes
        self._before = before
        self._total = before + sum(sizes.values())
        self._open: dict[int, tuple[int, int, int]] = {}
        self._done = (0, 0, 0)
        self._started: float | None = None
        self._logged = 0.0
        self._terminal = not quiet and sys.stderr.isatty()
        self._lines = not quiet and not self._terminal
        self._bar = bar_of_bytes(self._total, quiet=quiet, before=before)
        self._bar.set_postfix_str(_STARTING)

    def on_message(self, message: Message) -> None:
        """Take note of what is said of a shard."""
        if self._started is None:
            if not isinstance(message, Ready):
                return
            self._started = self._logged = time.monotonic()  # the model is loaded, the work begins
        match message:
            case Progress():
                new = (message.bytes, message.sentences, message.tokens)
                self._open[message.shard] = _add(self._open.get(message.shard, (0, 0, 0)), new)
            case Committed():
                self._done = _add(self._done, self._open.pop(message.shard, (0, 0, 0)))
                log.debug("shard %06d committed: %s rows", message.shard, f"{message.counts.rows:,}")
            case Found():
                self._before += self._sizes[message.shard]
                log.debug("shard %06d was committed by another process", message.shard)
            case Taken():
                log.debug("another process is building shard %06d: trying again later", message.shard)
            case Left():
                log.info("another process is building shard %06d: leaving it to that process", message.shard)
            case Retried():
                self._open.pop(message.shard, None)
                log.warning("a worker died in shard %06d: running it again", message.shard)
            case GivenUp():
                self._open.pop(message.shard, None)
                log.error("gave up shard %06d: %s", message.shard, message.why)
        self._show()

    def _show(self) -> None:
        total = self._done
        for part in self._open.values():
            total = _add(total, part)
        size, sentences, tokens = total
        done = self._before + size
        now = time.monotonic()
        elapsed = now - (self._started or now)
        rate = tokens / max(elapsed, 1e-9)
        if self._terminal:
            self._bar.n, self._bar.initial = done, self._before
            shown = f"{sentences:,} sentences, {rate:,.0f} tokens/s" if tokens else _STARTING
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.refresh()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            left = elapsed * (self._total - done) / size if size else 0
            level = logging.INFO if self._lines else logging.DEBUG
            log.log(
                level,
                "%3.0f %%, %s sentences, %s tokens/s, %s left",
                100 * done / max(self._total, 1),
                f"{sentences:,}",
                f"{rate:,.0f}",
                self._bar.format_interval(left) if size else "unknown time",
            )

    def close(self) -> None:
        """Clear the bar."""
        self._bar.close()


def _add(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
