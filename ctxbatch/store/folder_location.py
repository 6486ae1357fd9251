"""Reads and writes a store in a local folder: finds its committed shards and their files."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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
    """A store in a local folder."""

    folder: Path

    is_here = True

    @property
    def out(self) -> Path:
        """The store's name in messages."""
        return self.folder

    def check(self) -> None:
        """Check that the folder is a store, or can become one.

        Raises:
            StoreError: The path is a file, or a folder of other things.
        """
        check_folder(self.folder)

    def manifest(self) -> Manifest | None:
        """Return the store's manifest; ``None`` if there is none yet.

        Raises:
            StoreError: The manifest is damaged, or of another format.
        """
        return Manifest.find(self.folder)

    def begin(self, manifest: Manifest, *, first: bool) -> bool:
        """Create the store by writing its manifest, or append a plan by writing that.

        Return False if ``first`` is set and the store already has such a file, which is then kept.
        """
        if first:
            return manifest.create(self.folder)
        manifest.write(self.folder)
        return True

    def make_ready(
        self,
        manifest: Manifest,  # noqa: ARG002 (`BucketLocation` needs it)
        commits: Mapping[int, Commit],  # noqa: ARG002 (`BucketLocation` needs them)
    ) -> None:
        """Remove what killed runs have left; the caller must hold the exclusive lock."""
        remove_leftovers(self.folder)

    def commits(self, manifest: Manifest) -> dict[int, Commit]:
        """Return the commit records of all committed shards, by shard, in order.

        Raises:
            StoreError: ``shards`` is not a folder.
            ResourceError: The disk or a permission prevents reading.
        """
        shards = self.folder / SHARDS
        if is_there(shards) and not shards.is_dir():
            raise StoreError(f"{shards} is damaged: it is not a folder")
        found = ((spec.shard, self.commit_of(manifest, spec)) for spec in manifest.shards)
        return {shard: commit for shard, commit in found if commit is not None}

    def commit_of(self, manifest: Manifest, spec: ShardSpec) -> Commit | None:
        """Return the commit record of a shard, as `ctxbatch.store.commits.read_commit` does."""
        return read_commit(self.folder, manifest, spec)

    def broken(self, manifest: Manifest, commits: Mapping[int, Commit]) -> list[int]:
        """Return the shards that exist but do not count."""
        there = [
            spec
            for spec in manifest.shards
            if spec.shard not in commits and is_there(shard_folder(self.folder, spec.shard))
        ]
        # Another process may have committed one a moment ago.
        return [spec.shard for spec in there if self.commit_of(manifest, spec) is None]

    def publish(self, commit: Commit) -> None:
        """Do nothing: a shard that is complete in the folder is already published."""

    def publish_files(self, names: Sequence[str]) -> None:
        """Do nothing: files in the folder are already published."""

    def fetch_files(self, names: Sequence[str]) -> None:
        """Do nothing: files of the store are in the folder if they exist."""

    @contextlib.contextmanager
    def shard_files(self, shard: int) -> Iterator[Path | None]:
        """Yield the folder of a shard's files; ``None`` if it does not exist."""
        folder = shard_folder(self.folder, shard)
        yield folder if folder.exists() else None
