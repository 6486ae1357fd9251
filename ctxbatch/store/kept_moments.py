"""Finds the moments of a column of a store: in its shards, in a file that keeps them, or by one pass.

Shards carry the moments of their columns. Those of shifts that are computed, and of the columns of older
stores, are added up at their first use, and kept under OUT/index. They are the merged moments of the shards,
in order, whoever adds them up.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ctxbatch.arrays import Vectors
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import StoreError
from ctxbatch.files import write_json
from ctxbatch.sealed import Count, read_bytes, read_json, typed
from ctxbatch.store.commits import MOMENTS, Commit, built_from, damaged, shard_folder
from ctxbatch.store.manifest import INDEX
from ctxbatch.store.moments import Moments, moments_of_bytes

log = logging.getLogger("ctxbatch")
_SUFFIX = ".moments"


@dataclass(frozen=True, slots=True)
class _Kept:
    """The content of a file of moments. ``built_from`` is as in an index."""

    column: str
    rows: Count
    moments: str
    built_from: dict[str, str]


def kept_files(out: Path) -> list[Path]:
    """Return the files of a store that keep moments."""
    return sorted((out / INDEX).glob(f"*{_SUFFIX}"))


class ColumnMoments:
    """The moments of the columns of a store, over all rows of its committed shards.

    Args:
        out: The store's folder.
        commits: The commits, in the order of their shards.
        config: The store's configuration.
        batches: Returns the vectors of a column in a shard, by record batch.
    """

    def __init__(
        self,
        out: Path,
        commits: Mapping[int, Commit],
        config: ResolvedConfig,
        batches: Callable[[str, int], Iterable[Vectors]],
    ) -> None:
        self._out = out
        self._commits = commits
        self._config = config
        self._batches = batches
        self._found: dict[str, Moments] = {}

    def of(self, name: str) -> Moments:
        """Return the moments of a column by its full name, stored or computed.

        Raises:
            StoreError: A shard is damaged.
        """
        if name not in self._found:
            carried = self._carried if name in self._config.columns else {}
            self._found[name] = carried[name] if name in carried else self._kept_or_added_up(name)
        return self._found[name]

    @cached_property
    def _carried(self) -> dict[str, Moments]:
        """The moments of the stored columns; none if a shard carries none."""
        columns, dimension = self._config.columns, self._config.hidden_size
        total = [Moments.none(dimension) for _ in columns]
        for commit in self._commits.values():
            if MOMENTS not in commit.files:
                return {}
            moments = carried_by(shard_folder(self._out, commit.shard), commit, len(columns), dimension)
            total = [a + b for a, b in zip(total, moments, strict=True)]
        return dict(zip(columns, total, strict=True))

    # --- kept -------------------------------------------------------------------------------------

    def _kept_or_added_up(self, name: str) -> Moments:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return self._read(name)
        log.info("adding up the moments of %s", name)
        moments = self._added_up(name)
        self._keep(name, moments)
        return moments

    def _added_up(self, name: str) -> Moments:
        total = Moments.none(self._config.hidden_size)
        for shard in self._commits:
            total += Moments.of(self._batches(name, shard), self._config.hidden_size)
        return total

    def _path(self, name: str) -> Path:
        return self._out / INDEX / f"{name}{_SUFFIX}"

    def _read(self, name: str) -> Moments:
        """Return the moments that a file keeps.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged, or of other shards.
        """
        path = self._path(name)
        try:
            kept = typed(read_json(path), _Kept, path)
        except StoreError as error:
            log.warning("%s; adding up these moments again", error)
            raise ValueError(str(error)) from error
        if (kept.column, kept.built_from) != (name, built_from(self._commits)):
            raise ValueError("it is of other shards")
        return Moments.from_text(kept.moments, kept.rows, self._config.hidden_size)

    def _keep(self, name: str, moments: Moments) -> None:
        """Write moments to their file; a store that cannot be written to does without."""
        path = self._path(name)
        kept = {
            "column": name,
            "rows": moments.count,
            "moments": moments.as_text(),
            "built_from": built_from(self._commits),
        }
        if path.parent.is_symlink():  # which may lead out of the store
            return
        try:
            path.parent.mkdir(exist_ok=True)
            write_json(path, kept)
        except OSError as error:
            log.debug("%s is not kept: %s", path, error)

    def damage(self) -> Iterator[tuple[Path, str]]:
        """Yield each file of moments that does not hold what the rows give, and a line that says so.

        A file of other shards is no damage, but of no use.

        Raises:
            StoreError: A shard is damaged.
            ResourceError: The disk or a permission prevents reading.
        """
        for path in kept_files(self._out):
            name = path.name.removesuffix(_SUFFIX)
            again = "remove it: a search adds up moments again"
            try:
                kept = typed(read_json(path), _Kept, path)
            except (FileNotFoundError, StoreError) as error:
                yield path, f"{error}; {again}"
                continue
            if kept.column != name or not self._config.has_column(name):
                yield path, f"{path} names no vectors of the store; {again}"
            elif kept.built_from == built_from(self._commits):
                right = self._added_up(name)
                if (kept.rows, kept.moments) != (right.count, right.as_text()):
                    yield path, f"{path} does not hold the moments of the store's rows; {again}"


def carried_by(folder: Path, commit: Commit, n_columns: int, dimension: int) -> list[Moments]:
    """Return the moments of the stored columns of a shard, whose files are in this folder.

    Raises:
        StoreError: The file of moments is damaged.
    """
    path, facts = folder / MOMENTS, commit.files[MOMENTS]
    try:
        raw = read_bytes(path)
        found = moments_of_bytes(raw, commit.counts.rows, n_columns, dimension)
    except (FileNotFoundError, ValueError) as error:
        raise damaged(path, error) from error
    if (len(raw), hashlib.sha256(raw).hexdigest()) != (facts.bytes, facts.sha256):
        raise damaged(path, "it has changed")
    return found
