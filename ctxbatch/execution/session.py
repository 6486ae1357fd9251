"""Holds a store open for writing: its lock, its log, and the workers that make its shards."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ctxbatch.corpus.plan import ShardSpec, plan
from ctxbatch.errors import StoreError
from ctxbatch.execution.engines import Engine
from ctxbatch.execution.messages import Message
from ctxbatch.execution.progress import ProgressBar
from ctxbatch.files import as_resource_error, open_to_write
from ctxbatch.store.commits import Commit
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.locks import locked, shared
from ctxbatch.store.manifest import Manifest, log_path
from ctxbatch.store.stats import devices_of, versions_of
from ctxbatch.terminal import file_handler

log = logging.getLogger("ctxbatch")


def warn_of_mixture(commits: Collection[Commit]) -> None:
    """Say that shards differ in what their bits can depend on."""
    kinds = {"device": devices_of(commits), **versions_of(commits)}
    for name, values in kinds.items():
        if len(values) > 1:
            log.warning(
                "the shards were made with different %s: %s; for identical bytes, run again with another -o",
                name,
                " and ".join(values),
            )


@dataclass(frozen=True, slots=True)
class Session:
    """A store that this process may write to.

    ``lock`` is the descriptor of the store's lock, ``log_file`` what workers write to.
    """

    location: StoreLocation
    lock: int
    log_file: IO[str]
    quiet: bool

    def work(
        self,
        engine: Engine,
        manifest: Manifest,
        todo: Sequence[ShardSpec],
        listen: Callable[[Message], None] = lambda _: None,
        rebuild: Collection[int] = (),
        patience: float = math.inf,
        before: int = 0,
    ) -> list[int]:
        """Run shards, telling ``listen`` what workers say; returns those given up.

        The progress that is shown begins with ``before``, bytes of input that are done.
        """
        if not todo:
            return []
        if manifest.config.compiled:
            raise StoreError(
                f"{self.location.out} was started with a compiled model, which this version cannot run: "
                "search its finished shards as they are; for the rest, run again with another -o"
            )
        bar = ProgressBar({spec.shard: spec.size for spec in todo}, before, self.quiet)

        def on_message(message: Message) -> None:
            bar.on_message(message)
            listen(message)

        try:
            with engine.workers(self.location, self.lock, self.log_file) as workers:
                return workers.run([spec.shard for spec in todo], on_message, rebuild, patience)
        finally:
            bar.close()


def plan_again(location: StoreLocation, manifest: Manifest, why: str) -> Manifest:
    """Replace a plan that an earlier version made when it misread a source.

    Shards whose text is planned as before count on; the others are made again.

    Raises:
        StoreError: Sources were appended to the store since, whose shards are numbered after these.
    """
    if manifest.appended:
        raise StoreError(
            f"{why}, but it cannot be planned again, for sources were appended to {location.out} since: run "
            "again with another -o"
        )
    log.warning("%s: planning the sources again", why)
    manifest = replace(manifest, shards=tuple(plan(manifest.sources, manifest.reading)))
    location.begin(manifest, first=False)
    return manifest


@contextlib.contextmanager
def writing_to(
    location: StoreLocation, part: tuple[int, int] | None = None, *, quiet: bool
) -> Iterator[Session]:
    """Hold the store's lock, and log to it.

    Args:
        location: Where the store is.
        part: The part of the run, several of which may write at the same time; ``None`` writes alone.
        quiet: Show no progress on standard error.

    Raises:
        ResourceError: Another run holds the lock, or the disk or a permission stands in the way.
    """
    out = location.folder
    try:
        hold = locked(out) if part is None else shared(out)
        with hold as lock, _logging_to(log_path(out, part)) as log_file:
            yield Session(location, lock, log_file, quiet)
    except OSError as error:
        raise as_resource_error(error, out) from error


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[IO[str]]:
    """Append everything that is logged to a file; yields it, for the workers' messages."""
    descriptor = open_to_write(path, os.O_WRONLY | os.O_APPEND)
    # Under its path, which messages name.
    stream = open(path, "a", encoding="utf-8", errors="backslashreplace", opener=lambda *_: descriptor)  # noqa: SIM115 (closed below)
    handler = file_handler(stream)
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield stream
    except BaseException as error:
        log.debug("ended: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        with contextlib.suppress(OSError):  # a full disk: what stopped the run says so
            stream.close()
