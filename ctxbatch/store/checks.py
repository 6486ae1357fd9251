"""Checks that a store is finished and has rows."""

from ctxbatch.errors import StoreError
from ctxbatch.store.reader import Store


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
