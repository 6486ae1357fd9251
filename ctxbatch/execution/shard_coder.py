"""Codes the shards of a run for its index, in the workers that commit them."""

import logging
import queue
import threading
from typing import TYPE_CHECKING

from ctxbatch.errors import CtxbatchError, one_line
from ctxbatch.store.commits import Commit
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.manifest import CODEBOOK, Manifest, parts_folder
from ctxbatch.store.reader import Store

if TYPE_CHECKING:
    from ctxbatch.search.index_parts import Codebook

log = logging.getLogger("ctxbatch")


class ShardCoder:
    """Codes shards in a thread of its own, from when on there is a codebook.

    What is not coded when the worker ends is coded when the index is built.

    Args:
        location: Where the store is; one on object storage has no index.
        manifest: Its manifest.
    """

    def __init__(self, location: StoreLocation, manifest: Manifest) -> None:
        self._location = location
        self._manifest = manifest
        self._column = manifest.config.column()
        self._facts = parts_folder(location.folder, self._column) / CODEBOOK
        self._codebook: Codebook | None = None
        self._commits: queue.SimpleQueue[Commit] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def code(self, commit: Commit) -> None:
        """Have a committed shard coded, if there is a codebook."""
        if not self._location.is_here or not self._facts.exists():
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        if self._thread.is_alive():  # else it has failed, and said so
            self._commits.put(commit)

    def _work(self) -> None:
        try:
            while True:
                self._code(self._commits.get())
        except (CtxbatchError, OSError, MemoryError, RuntimeError) as error:  # RuntimeError is FAISS's
            log.warning("shards are coded when the index is built, not now: %s", one_line(error))

    def _code(self, commit: Commit) -> None:
        from ctxbatch.search.index_parts import find_codebook  # imports FAISS, which most workers do not need

        store = Store(self._location.out, self._manifest, {commit.shard: commit})
        self._codebook = self._codebook or find_codebook(store, self._column)
        if self._codebook is not None:
            self._codebook.ensure_part(store, commit.shard, None)
