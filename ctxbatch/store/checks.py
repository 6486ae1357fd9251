"""Checks that a store is finished, has rows, and holds vectors as they were written."""

import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Literal

from ctxbatch.cores import count_cores
from ctxbatch.errors import StoreError
from ctxbatch.sealed import is_intact
from ctxbatch.store.commits import COMMIT, WORDS, shard_folder
from ctxbatch.store.reader import Store


def state_of(store: Store) -> Literal["finished", "interrupted", "damaged"]:
    """Return whether all shards of a store count; it is damaged if those that do not are all there."""
    if store.complete:
        return "finished"
    n_missing = len(store.manifest.shards) - len(store.commits)
    n_broken = len(store.location.broken(store.manifest, store.commits))
    return "damaged" if n_broken == n_missing else "interrupted"


def unfinished(store: Store, consequence: str = "") -> str:
    """Return the message about a store without all shards: its progress, the consequence, and the remedy."""
    planned = len(store.manifest.shards)
    if state_of(store) == "damaged":
        damaged = f"{planned - len(store.commits)} of {planned} shards"
        return (
            f"{store.path} is damaged ({damaged}){consequence}: run its `ctxbatch run` command again to "
            f"rebuild them; `ctxbatch verify {store.path}` names the damage"
        )
    progress = f"{len(store.commits)} of {planned} shards"
    return f"{store.path} is unfinished ({progress}){consequence}: run its `ctxbatch run` command again"


def check_finished(store: Store) -> None:
    """Check that every planned shard is committed.

    Raises:
        StoreError: Some shards are not.
    """
    if not store.complete:
        raise StoreError(unfinished(store))


def check_has_rows(store: Store) -> None:
    """Check that a store has rows.

    Raises:
        StoreError: The store has no rows; the message says why.
    """
    store.check_is_here()
    if store.n_rows:
        return
    if not store.complete:
        raise StoreError(unfinished(store, " and holds no rows yet"))
    kept = store.config.kept or "all words"
    raise StoreError(
        f"{store.path} is empty: none of the text matches its selection ({kept}); run again with another -o "
        "and a wider selection or other text"
    )


def check_words(store: Store, shard: int, stopped: threading.Event | None = None) -> None:
    """Check that the words and vectors of a shard are as they were written; this reads them.

    Args:
        store: The store.
        shard: The shard.
        stopped: When set, this gives up.

    Raises:
        CancelledError: ``stopped`` was set.
        StoreError: They are not.
        ResourceError: The disk or a permission prevents reading.
    """

    def look() -> None:
        if stopped is not None and stopped.is_set():
            raise CancelledError

    path, facts = shard_folder(store.path, shard) / WORDS, store.commits[shard].files[WORDS]
    try:
        intact = is_intact(path, facts.bytes, facts.sha256, look)
    except FileNotFoundError:
        intact = False
    if not intact:
        raise StoreError(
            f"{path} is damaged: its content does not match the checksum in {COMMIT}; make it again with "
            f"`ctxbatch verify {store.path} --repair`"
        )


def check_all(store: Store, shards: Iterable[int]) -> None:
    """Check that the vectors of some shards are as they were written, several at once.

    Raises:
        StoreError: A shard is damaged.
        ResourceError: The disk or a permission prevents reading.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(count_cores()) as threads:
        try:
            list(threads.map(lambda shard: check_words(store, shard, stopped), shards))
        finally:
            stopped.set()  # after an error or a signal, nobody waits for the rest of large shards
