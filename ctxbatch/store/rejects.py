"""Reads the rejects of a store's shards: what was not processed, and why."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctxbatch.corpus.read_errors import is_our_trouble
from ctxbatch.sealed import is_intact, open_regular, typed
from ctxbatch.store.commits import REJECTS, Commit, damaged, shard_folder
from ctxbatch.store.reader import Store

# What differs between rejects of one kind: numbers, and what is quoted.
_CHANGING = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")
_MOST_COUNTED = 100_000


def rejects(store: Store) -> Iterator[dict[str, Any]]:
    """Yield the rejects: source, record, byte_start and reason, and the word if only a word was rejected.

    Raises:
        StoreError: A file of rejects is damaged.
    """
    store.check_is_here()
    for shard, commit in store.commits.items():
        yield from read_rejects(shard_folder(store.path, shard), commit)


def read_rejects(folder: Path, commit: Commit) -> Iterator[dict[str, Any]]:
    """Yield the rejects of the shard whose files are in this folder.

    Raises:
        StoreError: The file of rejects is damaged.
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
        raise damaged(path, "it is missing or has changed")


def most_frequent_reason(store: Store) -> str | None:
    """Return in words the reason of most rejects and their number, or ``None`` if there are none.

    Reasons that differ only in numbers and in what they quote count as one, of which the first is an example.
    Only the first hundred thousand rejects are counted.

    Raises:
        StoreError: A file of rejects is damaged.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    various: set[str] = set()
    for line in itertools.islice(rejects(store), _MOST_COUNTED):
        reason = str(line.get("reason"))
        kind = _CHANGING.sub("", reason)
        counts[kind] += 1
        if examples.setdefault(kind, reason) != reason:
            various.add(kind)
    if not counts:
        return None
    kind, count = counts.most_common(1)[0]
    return f"most often, {count:,}{', such as' if kind in various else ''}: {examples[kind]}"


def misread(folder: Path, commit: Commit) -> str | None:
    """Describe a reject of a shard that may wrongly call its text damaged; return ``None`` if there is none.

    Versions before 0.2 mistook a lack of memory, or of a codec, for damage in a source.

    Raises:
        StoreError: The file of rejects is damaged.
    """
    for line in read_rejects(folder, commit):
        reason, source = line.get("reason"), line.get("source")
        if isinstance(reason, str) and is_our_trouble(reason):
            return f"rejected text of {source} that may be intact ({reason})"
    return None
