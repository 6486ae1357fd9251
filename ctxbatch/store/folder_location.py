"""A store in a folder of this machine: which of its shards count, and how its files are got at."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.errors import StoreError
from ctxbatch.sealed import is_there
from ctxbatch.store.commits import Commit, read_commit, shard_folder
from ctxbatch.store.manifest import SHARDS, Manifest, check_folder
from ctxbatch.store.shard_writer import remove_leftovers


@dataclass(frozen=True)
class FolderLocation:
    """A store in a folder of this machine."""

    folder: Path

    is_here = True

    @property
    def out(self) -> Path:
        """What the store is called."""
        return self.folder

    def check(self) -> None:
        """Make sure that here can be, or is, a store.

        Raises:
            StoreError: Here is something else.
        """
        check_folder(self.folder)

    def manifest(self) -> Manifest | None:
        """The store's manifest; ``None`` where none was begun.

        Raises:
            StoreError: It is damaged, or of another format.
        """
        return Manifest.find(self.folder)

    def begin(self, manifest: Manifest, *, first: bool) -> bool:
        """Begin a store; false where it has a manifest by now, and this one was to be the first."""
        if first:
            return manifest.create(self.folder)
        manifest.write(self.folder)
        return True

    def make_ready(
        self,
        manifest: Manifest,  # noqa: ARG002 (as `BucketLocation` needs it)
        commits: Mapping[int, Commit],  # noqa: ARG002 (as `BucketLocation` needs them)
    ) -> None:
        """Remove what killed runs have left. Only for who holds the store alone."""
        remove_leftovers(self.folder)

    def commits(self, manifest: Manifest) -> dict[int, Commit]:
        """The commit records of all shards that count, by shard, in order.

        Raises:
            StoreError: The place of the shards is not a folder.
            ResourceError: The disk or a permission does not let one be read.
        """
        shards = self.folder / SHARDS
        if is_there(shards) and not shards.is_dir():
            raise StoreError(f"{shards} is damaged: it is not a folder")
        found = ((spec.shard, self.commit_of(manifest, spec)) for spec in manifest.shards)
        return {shard: commit for shard, commit in found if commit is not None}

    def commit_of(self, manifest: Manifest, spec: ShardSpec) -> Commit | None:
        """A shard's commit record, if the shard counts; see `ctxbatch.store.commits.read_commit`."""
        return read_commit(self.folder, manifest, spec)

    def broken(self, manifest: Manifest, commits: Mapping[int, Commit]) -> list[int]:
        """The shards that are there and do not count."""
        there = [
            spec
            for spec in manifest.shards
            if spec.shard not in commits and is_there(shard_folder(self.folder, spec.shard))
        ]
        # Another process may have committed one a moment ago.
        return [spec.shard for spec in there if self.commit_of(manifest, spec) is None]

    def publish(self, commit: Commit) -> None:
        """Make a shard that is complete in the folder the store's: here it is."""

    @contextlib.contextmanager
    def shard_files(self, shard: int) -> Iterator[Path | None]:
        """The folder of a shard's files; ``None`` where nothing is there."""
        folder = shard_folder(self.folder, shard)
        yield folder if folder.exists() else None
