"""Finds the moments of a column of a store: in its commits, in a file that keeps them, or by one pass.

The commits of a store carry the moments of its columns. Those of shifts that are computed, and of the columns
of older stores, are added up at their first use, and kept under OUT/index. They are the merged moments of the
shards, in order, whoever adds them up.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctxbatch.errors import StoreError
from ctxbatch.files import write_json
from ctxbatch.sealed import Count, read_json, typed
from ctxbatch.store.columns import Column
from ctxbatch.store.commits import Commit, built_from, damaged
from ctxbatch.store.manifest import INDEX
from ctxbatch.store.moments import Moments

log = logging.getLogger("ctxbatch")
_SUFFIX = ".moments"


@dataclass(frozen=True, slots=True)
class _Kept:
    """The content of a file of moments. ``built_from`` is as in an index."""

    column: str
    rows: Count
    moments: str
    built_from: dict[str, str]


def moments_of(
    out: Path, commits: Mapping[int, Commit], name: str, dimension: int, column_of: Callable[[int], Column]
) -> Moments:
    """Return the moments of a column of all committed shards.

    Args:
        out: The store's folder.
        commits: The commits, in the order of their shards.
        name: The column's full name, stored or computed.
        dimension: D.
        column_of: Returns the column of a shard.

    Raises:
        StoreError: A shard is damaged.
    """
    carried = {shard: _carried(out, commit, name, dimension) for shard, commit in commits.items()}
    if None in carried.values():
        with contextlib.suppress(FileNotFoundError, ValueError):
            return _read(out, name, commits, dimension)
    passed = False
    total = Moments.none(dimension)
    for shard, moments in carried.items():
        if moments is None:
            if not passed:
                log.info("adding up the moments of %s, once: they are kept", name)
            passed = True
            moments = Moments.of(column_of(shard).batches(), dimension)
        total += moments
    if passed:
        _keep(out, name, commits, total)
    return total


def _carried(out: Path, commit: Commit, name: str, dimension: int) -> Moments | None:
    if name not in commit.moments:
        return None
    try:
        return Moments.from_text(commit.moments[name], commit.counts.rows, dimension)
    except ValueError as error:
        raise damaged(out, f"shard {commit.shard:06d}: {error}") from error


def _path(out: Path, name: str) -> Path:
    return out / INDEX / f"{name}{_SUFFIX}"


def _read(out: Path, name: str, commits: Mapping[int, Commit], dimension: int) -> Moments:
    """Return the moments that a file keeps.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or of other shards.
    """
    path = _path(out, name)
    try:
        kept = typed(read_json(path), _Kept, path)
    except StoreError as error:
        log.warning("%s; adding up these moments again", error)
        raise ValueError(str(error)) from error
    rows = sum(commit.counts.rows for commit in commits.values())
    if (kept.column, kept.rows, kept.built_from) != (name, rows, built_from(commits)):
        raise ValueError("they are of other shards")
    return Moments.from_text(kept.moments, rows, dimension)


def _keep(out: Path, name: str, commits: Mapping[int, Commit], moments: Moments) -> None:
    """Write the moments to their file; a store that cannot be written to does without."""
    content = {
        "column": name,
        "rows": moments.count,
        "moments": moments.as_text(),
        "built_from": built_from(commits),
    }
    path = _path(out, name)
    if path.parent.is_symlink():  # which may lead out of the store
        return
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, content)
    except OSError as error:
        log.debug("%s is not kept: %s", path, error)


def moments_damage(out: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file of moments that is damaged, and a line that says so; ones of other shards are not.

    Raises:
        ResourceError: The disk or a permission prevents reading.
    """
    for path in sorted((out / INDEX).glob(f"*{_SUFFIX}")):
        try:
            kept = typed(read_json(path), _Kept, path)
            if path.name != kept.column + _SUFFIX:
                yield path, f"{path} is damaged: it names the column {kept.column!r}; remove it"
        except (FileNotFoundError, StoreError) as error:
            yield path, f"{error}; remove it: a search adds up moments again"
