"""Trains the codebook of a run's index while the shards are being made, for workers to code them by.

The shards that the codebook is trained on are made first. When they are committed, a process of its own
trains it, ``python -m ctxbatch.execution.index_ahead OUT``; from then on each worker codes the shards that it
commits, as `ctxbatch.execution.shard_coder` does. Whatever is missing when the run ends is made then, with
the same bytes.
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
from ctxbatch.files import PROCESS_NONCE, new_nonce, process_name
from ctxbatch.search import index_build
from ctxbatch.search.index import IndexOptions
from ctxbatch.search.index_files import facts_path
from ctxbatch.search.index_parts import ensure_codebook, recipe_of, sampled_shards
from ctxbatch.store.location import StoreLocation, location_of, manifest_of
from ctxbatch.store.manifest import CODEBOOK, Manifest, parts_folder
from ctxbatch.store.reader import Store
from ctxbatch.store.shard_writer import remove_leftovers
from ctxbatch.terminal import escape_tracebacks, file_handler

log = logging.getLogger("ctxbatch")
# Its threads do not wait in a loop for each other: the workers use the cores, too.
_ENVIRONMENT = {**UNBOUND, "OMP_WAIT_POLICY": "PASSIVE"}


class IndexAhead:
    """Trains the codebook of a run as soon as the shards that it needs are committed; a context manager.

    Args:
        location: Where the store is.
        manifest: Its manifest.
        log_file: Where the process that trains writes to.
        lock: The descriptor of the store's lock, which that process inherits.
        wanted: Whether the run has an index.
        is_first_part: Whether it is this process that trains, of several that run parts.
    """

    def __init__(
        self,
        location: StoreLocation,
        manifest: Manifest,
        log_file: IO[str],
        lock: int,
        *,
        wanted: bool,
        is_first_part: bool,
    ) -> None:
        self._location = location
        self._manifest = manifest
        self._log_file = log_file
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._nonce = new_nonce()
        sampled = set(sampled_shards(len(manifest.shards)))
        column = manifest.config.column()
        there = (facts_path(location.folder, column), parts_folder(location.folder, column) / CODEBOOK)
        needs_all = len(sampled) == len(manifest.shards)
        is_needed = wanted and not needs_all and not any(path.exists() for path in there)
        self._first = sampled if is_needed else set()
        self._missing = set(self._first) if is_first_part else set()

    def __enter__(self) -> "IndexAhead":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            remove_leftovers(self._location.folder, process_name(self._process.pid, self._nonce))

    def ordered(self, todo: Sequence[ShardSpec]) -> list[ShardSpec]:
        """Return shards in the order in which to make them: first those that the codebook is trained on."""
        return sorted(todo, key=lambda spec: spec.shard not in self._first)

    def on_message(self, message: Message) -> None:
        """Take note of a shard; start to train when the last one is there that is needed."""
        if not self._missing or not isinstance(message, Committed | Found):
            return
        for shard in sorted(self._missing):
            if self._location.commit_of(self._manifest, self._manifest.shards[shard]) is not None:
                self._missing.discard(shard)
        if not self._missing and _is_wanted(self._location, self._manifest):
            self._start()

    def _start(self) -> None:
        unbind()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ctxbatch.execution.index_ahead", str(self._location.out)],
                stdin=subprocess.PIPE,  # it ends when this is closed: then nobody waits for it
                stdout=self._log_file,
                stderr=self._log_file,
                pass_fds=[self._lock],
                env={**os.environ, **_ENVIRONMENT, PROCESS_NONCE: self._nonce},
            )
        except OSError as error:  # of all that this machine may start; the index can wait
            log.debug("no process trains the index: %s", error)

    def wait(self) -> None:
        """Wait for the codebook, if it is being trained."""
        if self._process is None:
            return
        if self._process.poll() is None:
            log.info("training the index: takes seconds to minutes, and longer for many millions of rows")
        log.debug("the process that trains the index has ended: %d", self._process.wait())


def _is_wanted(location: StoreLocation, manifest: Manifest) -> bool:
    """Return True if a store will have an index, to judge by its sampled shards."""
    try:
        recipe = recipe_of(_sampled(location, manifest), IndexOptions())
    except InputError as error:  # none fits the memory, as the end of the run says
        log.debug("no index ahead: %s", error)
        return False
    return recipe is not None and recipe.rows >= index_build.SCAN_ROWS


def _sampled(location: StoreLocation, manifest: Manifest) -> Store:
    """Return the store of the sampled shards alone."""
    shards = sampled_shards(len(manifest.shards))
    found = {shard: location.commit_of(manifest, manifest.shards[shard]) for shard in shards}
    return Store(location.out, manifest, {s: commit for s, commit in found.items() if commit is not None})


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    """Train the codebook of the index that a store's run ends with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    escape_tracebacks()
    logging.getLogger("ctxbatch").addHandler(file_handler(sys.stderr))
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _train(location_of(sys.argv[1]))
    except (CtxbatchError, OSError, MemoryError) as error:
        log.warning("the index cannot be trained while the run goes on: %s", one_line(error))
    sys.stderr.flush()
    os._exit(0)  # whatever the thread is at


def _train(location: StoreLocation) -> None:
    store = _sampled(location, manifest_of(location))
    if (recipe := recipe_of(store, IndexOptions())) is not None:
        ensure_codebook(store, store.config.column(), recipe, None)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
