"""Prepares a run's index while its shards are being made: trains the codebook, and codes each shard.

The shards that the codebook is trained on are made first. When they are committed, a process of its own
trains it, ``python -m ctxbatch.execution.index_ahead OUT``; from then on each worker codes the shards that it
commits. Whatever is missing when the run ends is made then, with the same bytes.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from ctxbatch.cores import UNBOUND, unbind
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.errors import CtxbatchError, InputError, one_line
from ctxbatch.execution.messages import Committed, Found, Message
from ctxbatch.store.commits import Commit
from ctxbatch.store.location import StoreLocation, location_of, manifest_of
from ctxbatch.store.manifest import CODEBOOK, Manifest, parts_folder
from ctxbatch.store.reader import Store
from ctxbatch.terminal import file_handler

log = logging.getLogger("ctxbatch")
# Its threads do not wait in a loop for each other: the workers use the cores, too.
_ENVIRONMENT = {**UNBOUND, "OMP_WAIT_POLICY": "PASSIVE"}


class ShardCoder:
    """Codes the shards that a worker commits, from when on there is a codebook.

    Args:
        location: Where the store is; one on object storage has no index.
        manifest: Its manifest.
    """

    def __init__(self, location: StoreLocation, manifest: Manifest) -> None:
        self._location = location
        self._manifest = manifest
        self._column = manifest.config.column()
        self._facts = parts_folder(location.folder, self._column) / CODEBOOK

    def code(self, commit: Commit) -> None:
        """Code a committed shard, if there is a codebook.

        Raises:
            ResourceError: The disk or a permission stands in the way.
            OSError: The disk refuses.
        """
        if not self._location.is_here or not self._facts.exists():
            return
        from ctxbatch.search.index_parts import find_codebook  # imports FAISS, which most workers do not need

        store = Store(self._location.out, self._manifest, {commit.shard: commit})
        if (codebook := find_codebook(store, self._column)) is not None:
            codebook.ensure_part(store, commit.shard, None)


def sampled_first(manifest: Manifest, todo: Sequence[ShardSpec]) -> list[ShardSpec]:
    """Return the shards of a run in the order in which to make them: first those that train the codebook."""
    from ctxbatch.search.index_parts import sampled_shards

    sampled = set(sampled_shards(len(manifest.shards)))
    return sorted(todo, key=lambda spec: spec.shard not in sampled)


class IndexAhead:
    """Trains the codebook of a run as soon as the shards that it needs are committed; a context manager.

    Args:
        location: Where the store is.
        manifest: Its manifest.
        log_file: Where the process that trains writes to.
        lock: The descriptor of the store's lock, which that process inherits.
        wanted: Whether the run has an index, which this prepares.
    """

    def __init__(
        self, location: StoreLocation, manifest: Manifest, log_file: IO[str], lock: int, *, wanted: bool
    ) -> None:
        from ctxbatch.search.index_files import facts_path
        from ctxbatch.search.index_parts import sampled_shards

        self._location = location
        self._manifest = manifest
        self._log_file = log_file
        self._lock = lock
        self._missing = set(sampled_shards(len(manifest.shards)))
        self._process: subprocess.Popen[bytes] | None = None
        column = manifest.config.column()
        there = (facts_path(location.folder, column), parts_folder(location.folder, column) / CODEBOOK)
        needs_all = len(self._missing) == len(manifest.shards)
        self._is_over = not wanted or needs_all or any(path.exists() for path in there)

    def __enter__(self) -> "IndexAhead":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def on_message(self, message: Message) -> None:
        """Take note of a shard; start to train when the last one is there that is needed."""
        if self._is_over or not isinstance(message, Committed | Found):
            return
        for shard in sorted(self._missing):
            if self._location.commit_of(self._manifest, self._manifest.shards[shard]) is not None:
                self._missing.discard(shard)
        if not self._missing:
            self._is_over = True
            if _is_wanted(self._location, self._manifest):
                self._start()

    def _start(self) -> None:
        unbind()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ctxbatch.execution.index_ahead", str(self._location.out)],
            stdin=subprocess.PIPE,  # it ends when this is closed: then nobody waits for it
            stdout=self._log_file,
            stderr=self._log_file,
            pass_fds=[self._lock],
            env={**os.environ, **_ENVIRONMENT},
        )

    def wait(self) -> None:
        """Wait for the codebook, if it is being trained."""
        if self._process is not None and self._process.poll() is None:
            log.info("training the index: takes seconds to minutes, and longer for many millions of rows")
            self._process.wait()


def _is_wanted(location: StoreLocation, manifest: Manifest) -> bool:
    """Return True if a store will have an index, to judge by its sampled shards."""
    from ctxbatch.search.index import IndexOptions
    from ctxbatch.search.index_build import SCAN_ROWS
    from ctxbatch.search.index_parts import recipe_of

    try:
        recipe = recipe_of(_sampled(location, manifest), IndexOptions())
    except InputError as error:  # none fits the memory, as the end of the run says
        log.debug("no index ahead: %s", error)
        return False
    return recipe is not None and recipe.rows >= SCAN_ROWS


def _sampled(location: StoreLocation, manifest: Manifest) -> Store:
    """Return the store of the sampled shards alone."""
    from ctxbatch.search.index_parts import sampled_shards

    shards = sampled_shards(len(manifest.shards))
    found = {shard: location.commit_of(manifest, manifest.shards[shard]) for shard in shards}
    return Store(location.out, manifest, {s: commit for s, commit in found.items() if commit is not None})


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    """Train the codebook of the index that a store's run ends with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.getLogger("ctxbatch").addHandler(file_handler(sys.stderr))
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _train(location_of(sys.argv[1]))
    except (CtxbatchError, OSError, MemoryError) as error:
        log.warning("the index cannot be trained while the run goes on: %s", one_line(error))
    sys.stderr.flush()
    os._exit(0)  # whatever the thread is at


def _train(location: StoreLocation) -> None:
    from ctxbatch.search.index import IndexOptions
    from ctxbatch.search.index_parts import ensure_codebook, recipe_of

    store = _sampled(location, manifest_of(location))
    if (recipe := recipe_of(store, IndexOptions())) is not None:
        ensure_codebook(store, store.config.column(), recipe, None)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
