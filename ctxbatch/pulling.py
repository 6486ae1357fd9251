"""Copying a store from object storage into a folder, shard by shard; what is there is not copied again."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctxbatch.errors import InputError, StoreError
from ctxbatch.forecast import check_room
from ctxbatch.layout import (
    SHARDS,
    Manifest,
    as_resource_error,
    check_folder,
    sync,
    temporary_name,
    write_json,
)
from ctxbatch.locking import locked
from ctxbatch.places import LocalPlace, RemotePlace, manifest_of, place_of
from ctxbatch.verify import file_damage
from ctxbatch.writer import COMMIT, put_in_place, shard_folder


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull ends with: the folder, how many shards it holds, how many of them it copied.

    ``planned`` is how many the store is to have, ``damaged`` what is not as it was written, in words. What is
    neither held nor damaged is still to be made.
    """

    out: Path
    held: int
    copied: int
    planned: int
    damaged: tuple[str, ...]

    def __str__(self) -> str:
        there = f", {self.held - self.copied} were there" if self.held > self.copied else ""
        return f"{self.out}: {self.held} of {self.planned} shards; copied {self.copied}{there}"


def pull(url: str, out: str | Path, *, quiet: bool = True) -> PullReport:
    """What `ctxbatch.pull` does; arguments and errors are described there."""
    source, target = place_of(url), place_of(out)
    if not isinstance(source, RemotePlace):
        raise InputError(f"{url} is no URL: name a store on object storage, as s3://bucket/store")
    if not isinstance(target, LocalPlace):
        raise InputError(f"{out} is on object storage too: name a folder to copy to")
    manifest = manifest_of(source)
    folder = target.folder
    check_folder(folder)
    try:
        with locked(folder):
            return _copy(source, target, manifest, quiet)
    except OSError as error:
        raise as_resource_error(error, folder) from error


def _copy(source: RemotePlace, target: LocalPlace, manifest: Manifest, quiet: bool) -> PullReport:
    own = target.manifest()
    if own is None:
        manifest.write(target.folder)
    elif own.as_bytes() != manifest.as_bytes():
        raise StoreError(f"{target.out} is another store than {source.out}: name a new folder")
    commits, there = source.commits(manifest), target.commits(manifest)
    target.make_ready(manifest, there)
    todo = {shard: commit for shard, commit in commits.items() if not _is_same(commit, there.get(shard))}
    size = sum(file["bytes"] for commit in todo.values() for file in commit["files"].values())
    check_room(target.folder, size)
    damaged = [
        f"{source.out}/{SHARDS}/{shard:06d} is damaged: `ctxbatch verify {source.out}` says how"
        for shard in source.broken(manifest, commits)
    ]
    copied = 0
    with tqdm(
        total=size,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        leave=False,
        disable=quiet or not sys.stderr.isatty(),
        bar_format="{percentage:3.0f}% {bar} {n_fmt}B/{total_fmt}B, {remaining} left",
    ) as bar:
        for shard, commit in todo.items():
            damage = _copy_shard(source, target, shard, commit)
            damaged += damage
            copied += not damage
            bar.update(sum(file["bytes"] for file in commit["files"].values()))
    held = len(target.commits(manifest))
    return PullReport(target.folder, held, copied, len(manifest.shards), tuple(damaged))


def _copy_shard(source: RemotePlace, target: LocalPlace, shard: int, commit: Mapping[str, Any]) -> list[str]:
    """Copy a shard, whole or not at all; returns what is wrong with it, and then it is not."""
    place = shard_folder(target.folder, shard)
    beside = place.with_name(temporary_name(place.name))
    beside.mkdir(parents=True)
    try:
        source.copy_shard(shard, beside)
        if damage := next(file_damage(beside, f"{source.out}/{SHARDS}/{place.name}", commit), None):
            return [damage]
        for name in commit["files"]:
            sync(beside / name)
        write_json(beside / COMMIT, _as_here(commit))
        put_in_place(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return []


def _is_same(commit: Mapping[str, Any], here: Mapping[str, Any] | None) -> bool:
    return here is not None and _as_here(commit)["files"] == here["files"]


def _as_here(commit: Mapping[str, Any]) -> dict[str, Any]:
    """The commit record of a folder's shard, which knows no attempts."""
    return {name: value for name, value in commit.items() if name != "attempt"}
