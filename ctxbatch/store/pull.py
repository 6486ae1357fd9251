"""Copies a store from object storage into a folder, shard by shard, and skips shards copied before."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ctxbatch.errors import InputError, StoreError
from ctxbatch.files import as_resource_error, check_room, sync, temporary_name, write_json
from ctxbatch.sealed import read_json
from ctxbatch.store.bucket_location import BucketLocation
from ctxbatch.store.commits import COMMIT, Commit, commit_of, shard_folder
from ctxbatch.store.folder_location import FolderLocation
from ctxbatch.store.location import damaged_shards, location_of, manifest_of
from ctxbatch.store.locks import locked
from ctxbatch.store.manifest import SHARDS, Manifest, check_folder
from ctxbatch.store.shard_writer import put_in_place
from ctxbatch.store.verify import file_damage
from ctxbatch.terminal import bar_of_bytes


@dataclass(frozen=True, slots=True)
class PullReport:
    """The result of a pull: the folder, the number of shards it holds, and how many this pull copied.

    ``planned`` is the number of shards in the plan; ``damaged`` describes each damaged shard. Shards that are
    neither held nor damaged are not made yet.
    """

    out: Path
    held: int
    copied: int
    planned: int
    damaged: tuple[str, ...]

    def __str__(self) -> str:
        there = f", {self.held - self.copied} already there" if self.held > self.copied else ""
        return f"{self.out}: {self.held} of {self.planned} shards; copied {self.copied}{there}"


def pull(url: str, out: str | Path, *, quiet: bool = True) -> PullReport:
    """Copy a store into a folder; see `ctxbatch.pull` for arguments and errors."""
    source, target = location_of(url), location_of(out)
    if not isinstance(source, BucketLocation):
        raise InputError(f"{url} is not a URL: name a store on object storage, such as s3://bucket/store")
    if not isinstance(target, FolderLocation):
        raise InputError(f"{out} is on object storage too: name a folder to copy to")
    manifest = manifest_of(source)
    folder = target.folder
    check_folder(folder)
    try:
        with locked(folder):
            return _copy(source, target, manifest, quiet)
    except OSError as error:
        raise as_resource_error(error, folder) from error


def _copy(source: BucketLocation, target: FolderLocation, manifest: Manifest, quiet: bool) -> PullReport:
    own = target.manifest()
    if own is not None and not own.files().items() <= manifest.files().items():
        raise StoreError(f"{target.out} already holds another store, not {source.out}: name a new folder")
    if own != manifest:
        manifest.write(target.folder)
    commits, there = source.commits(manifest), target.commits(manifest)
    target.make_ready(manifest, there)
    todo = {shard: commit for shard, commit in commits.items() if not _is_same(commit, there.get(shard))}
    size = sum(commit.size for commit in todo.values())
    check_room(target.folder, size, "make room, or name another folder")
    damaged = damaged_shards(source, manifest, commits)
    copied = 0
    with bar_of_bytes(size, quiet=quiet) as bar:
        for shard, commit in todo.items():
            damage = _copy_shard(source, target, shard)
            damaged += damage
            copied += not damage
            bar.update(commit.size)
    held = len(target.commits(manifest))
    return PullReport(target.folder, held, copied, len(manifest.shards), tuple(damaged))


def _copy_shard(source: BucketLocation, target: FolderLocation, shard: int) -> list[str]:
    """Copy a whole shard; if it is damaged, copy nothing. Return a list of the damage."""
    location = shard_folder(target.folder, shard)
    name = f"{source.out}/{SHARDS}/{location.name}"
    beside = location.with_name(temporary_name(location.name))
    beside.mkdir(parents=True)
    try:
        if not source.copy_shard(shard, beside):
            return [f"{name} no longer exists"]
        content = read_json(beside / COMMIT)
        commit = commit_of(content, f"{name}/{COMMIT}", shard)
        if damage := next(file_damage(beside, name, commit), None):
            return [damage]
        for file in commit.files:
            sync(beside / file)
        content.pop("attempt", None)  # local file names do not include it
        write_json(beside / COMMIT, content)
        put_in_place(beside, location)
    except StoreError as error:
        return [str(error)]
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return []


def _is_same(commit: Commit, here: Commit | None) -> bool:
    return here is not None and commit.files == here.files
