"""Checks that a store is finished, has rows, and holds shards as they were written."""

from collections.abc import Iterable

from ctxbatch.errors import StoreError
from ctxbatch.store.commits import shard_folder
from ctxbatch.store.reader import Store
from ctxbatch.store.verify import file_damage


def unfinished(store: Store, consequence: str = "") -> str:
    """Return the message about an unfinished store: its progress, the consequence, and the remedy."""
    progress = f"{len(store.commits)} of {len(store.manifest.shards)} shards"
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


def check_shards(store: Store, shards: Iterable[int]) -> None:
    """Check that the files of some shards of a store are as they were written; this reads them.

    Raises:
        StoreError: One of them is not.
        ResourceError: The disk or a permission prevents reading.
    """
    for shard in shards:
        folder = shard_folder(store.path, shard)
        for damage in file_damage(folder, str(folder), store.commits[shard]):
            raise StoreError(f"{damage}; make it again with `ctxbatch verify {store.path} --repair`")
