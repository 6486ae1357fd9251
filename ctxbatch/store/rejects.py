"""Reads what was not processed: the rejects of a store's shards, each with its reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctxbatch.corpus.read_errors import is_our_trouble
from ctxbatch.sealed import is_intact, open_regular, typed
from ctxbatch.store.commits import REJECTS, Commit, damaged, shard_folder
from ctxbatch.store.reader import Store


def rejects(store: Store) -> Iterator[dict[str, Any]]:
    """Yield what was not processed: source, record, byte_start and reason, and the word if it is only that.

    Raises:
        StoreError: A file of rejects is not what was written.
    """
    store.check_is_here()
    for shard, commit in store.commits.items():
        yield from read_rejects(shard_folder(store.path, shard), commit)


def read_rejects(folder: Path, commit: Commit) -> Iterator[dict[str, Any]]:
    """Yield the rejects of a shard whose files lie in a folder.

    Raises:
        StoreError: Their file is not what was written.
    """
    if REJECTS not in commit.files:
        return
    path = folder / REJECTS
    try:
        facts = commit.files[REJECTS]
        intact = is_intact(path, facts.bytes, facts.sha256)
        with open_regular(path) as lines:
            for line in lines if intact else ():
                yield typed(json.loads(line), dict[str, Any], path)
    except (FileNotFoundError, ValueError, RecursionError):
        intact = False
    if not intact:
        raise damaged(path, "it is not what was written")


def misread(folder: Path, commit: Commit) -> str | None:
    """Return a reject of a shard that blames intact text for what this machine lacked; ``None`` if none does.

    Versions before 0.2 took a lack of memory, or of a codec, for damage in a source.

    Raises:
        StoreError: The file of rejects is not what was written.
    """
    for line in read_rejects(folder, commit):
        reason, source = line.get("reason"), line.get("source")
        if isinstance(reason, str) and is_our_trouble(reason):
            return f"rejects what is not known to be damaged: {source}: {reason}"
    return None
