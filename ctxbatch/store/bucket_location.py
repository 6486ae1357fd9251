"""Reads and writes a store on object storage: finds its committed shards, publishes shards, copies files.

A run writes through a local folder, which holds the lock, the log, a copy of the manifest and the shards in
progress; it can be deleted between runs. Object storage cannot rename, so every attempt to write a shard uses
names of its own:

    URL/manifest.json
    URL/shards/000000/words.ATTEMPT.arrow     and the same of the shard's other files
    URL/shards/000000/shard.json              the commit record, which names the attempt; written last
"""

import contextlib
import errno
import hashlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.store_marker import MANIFEST
from ctxbatch.errors import ResourceError, StoreError
from ctxbatch.files import cache_folder, remove, replacing
from ctxbatch.filesystem import (
    OF_BUCKETS,
    Entry,
    RemoteError,
    delete_file,
    download,
    list_folder,
    look_up,
    naming,
    read_file,
    upload,
    write_file,
)
from ctxbatch.sealed import seal
from ctxbatch.store.commits import COMMIT, Commit, is_of_plan, parse_commit, shard_folder
from ctxbatch.store.locks import Claims
from ctxbatch.store.manifest import MODEL, SHARDS, Manifest, foreign_layers, holds_other_things
from ctxbatch.store.shard_writer import remove_leftovers

# How many small objects are read or deleted at the same time.
_AT_ONCE = 16
# Objects without a commit record are deleted at this age: by then their upload must have failed.
_UNSETTLED_SECONDS = 900.0
_ATTEMPT = re.compile(rf"{SHARDS}/\d{{6}}/\w+\.[0-9a-f]{{12}}\.(arrow|npy|jsonl)")


class BucketLocation:
    """A store on object storage.

    Args:
        url: The store's URL.
    """

    is_here = False

    def __init__(self, url: str) -> None:
        self.out = url.rstrip("/")
        named = f"{self.out.rpartition('/')[2]}-{hashlib.sha256(self.out.encode()).hexdigest()[:12]}"
        self.folder = cache_folder() / "remote" / named

    def check(self) -> None:
        """Check that the URL is a store, or can become one.

        Raises:
            InputError: The bucket does not exist.
            StoreError: The URL holds objects, but no store.
            ResourceError: The network fails, or access is denied.
        """
        with naming(self.out):
            try:
                entries = list_folder(self.out, recursive=False)
            except RemoteError as error:
                if error.errno != errno.ENOENT:
                    raise
                if self.out.partition("://")[0].lower() in OF_BUCKETS:
                    look_up("/".join(self.out.split("/")[:3]))
                return
        names = {entry.url.rstrip("/").rpartition("/")[2] for entry in entries}
        if MANIFEST in names:
            return
        layers = [name.rpartition("/")[2] for name in self._objects(MODEL)] if MODEL in names else []
        foreign = sorted(names - {MODEL}) + foreign_layers(layers)
        if foreign:
            raise holds_other_things(self.out, foreign)

    def manifest(self) -> Manifest | None:
        """Return the store's manifest; ``None`` if there is none yet.

        Raises:
            StoreError: The manifest is damaged, or of another format.
            ResourceError: The network fails, or access is denied.
        """
        return Manifest.from_files(self._read, self.out)

    def begin(self, manifest: Manifest, *, first: bool) -> bool:
        """Create the store by writing its manifest, or append a plan by writing that, and return True.

        Return False if ``first`` is asked for and the store has it already. Two runs that begin in the same
        moment can both write: object storage offers no lock.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        name, content = manifest.last_file()
        if first and self._read(name) is not None:
            return False
        with naming(self.out):
            write_file(f"{self.out}/{name}", content)
        return True

    def copy_manifest(self, manifest: Manifest) -> None:
        """Write the manifest to the local folder, where workers look for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest.write(self.folder)

    def make_ready(self, manifest: Manifest, commits: Mapping[int, Commit]) -> None:
        """Remove what killed runs have left; the caller must hold the exclusive lock.

        In the local folder this removes all leftovers; on object storage, only objects so old that no run can
        still be about to commit them.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        remove_leftovers(self.folder)
        remove(self.folder / SHARDS)
        self.copy_manifest(manifest)
        kept = {
            self._object(shard, name, commit.attempt)
            for shard, commit in commits.items()
            for name in commit.files
        }
        settled = time.time_ns() - int(_UNSETTLED_SECONDS * 1e9)
        left = [
            name
            for name, entry in self._objects(SHARDS).items()
            if _ATTEMPT.fullmatch(name) and name not in kept and 0 < entry.mtime_ns <= settled
        ]
        with naming(self.out), ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(lambda name: delete_file(f"{self.out}/{name}"), left))

    def remove_unclaimed(self, claims: Claims) -> None:
        """Remove shards that dead workers of this machine have left in the local folder."""
        for path in (self.folder / SHARDS).glob("*"):
            shard = int(path.name.lstrip(".").partition(".")[0])
            if claims.take(shard):
                remove(path)
                claims.release(shard)

    def commits(self, manifest: Manifest) -> dict[int, Commit]:
        """Return the commit records of all committed shards, by shard, in order.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        objects = self._objects(SHARDS)
        begun = [spec for spec in manifest.shards if self._object(spec.shard, COMMIT) in objects]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(lambda spec: self._commit_of(manifest, spec, objects), begun))
        return {spec.shard: commit for spec, commit in zip(begun, found, strict=True) if commit is not None}

    def commit_of(self, manifest: Manifest, spec: ShardSpec) -> Commit | None:
        """Return the commit record of a shard; ``None`` if the shard is not committed.

        The conditions are those of `ctxbatch.store.commits.read_commit`.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        return self._commit_of(manifest, spec, self._objects(f"{SHARDS}/{spec.shard:06d}"))

    def broken(self, manifest: Manifest, commits: Mapping[int, Commit]) -> list[int]:
        """Return the shards that have a commit record but do not count."""
        objects = self._objects(SHARDS)
        shards = (spec.shard for spec in manifest.shards if spec.shard not in commits)
        return [shard for shard in shards if self._object(shard, COMMIT) in objects]

    def _commit_of(self, manifest: Manifest, spec: ShardSpec, objects: Mapping[str, Entry]) -> Commit | None:
        raw = self._read(self._object(spec.shard, COMMIT))
        if raw is None:
            return None
        try:
            commit = parse_commit(raw, self.out, spec.shard)
        except StoreError:
            return None
        return commit if self._is_whole(commit, objects) and is_of_plan(commit, manifest, spec) else None

    def _is_whole(self, commit: Commit, objects: Mapping[str, Entry]) -> bool:
        """Return True if all files of a commit record exist with the right size."""
        files = {
            self._object(commit.shard, name, commit.attempt): facts for name, facts in commit.files.items()
        }
        return all(name in objects and objects[name].size == facts.bytes for name, facts in files.items())

    def publish(self, commit: Commit) -> None:
        """Upload a complete shard, its commit record last, and remove it from the local folder.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        published = replace(commit, attempt=uuid.uuid4().hex[:12])
        shard, folder = commit.shard, shard_folder(self.folder, commit.shard)
        with naming(self.out):
            for name in commit.files:
                upload(folder / name, f"{self.out}/{self._object(shard, name, published.attempt)}")
            write_file(f"{self.out}/{self._object(shard, COMMIT)}", seal(published.as_dict()))
        if not self._is_whole(published, self._objects(f"{SHARDS}/{shard:06d}")):
            raise ResourceError(
                f"{self.out}: files of shard {shard:06d} disappeared during the upload, perhaps because "
                "another run writes there: let only one run write at a time, and run again"
            )
        shutil.rmtree(folder)

    def publish_files(self, names: Sequence[str]) -> None:
        """Upload files of the local folder, by their names relative to it.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        with naming(self.out):
            for name in names:
                upload(self.folder / name, f"{self.out}/{name}")

    def fetch_files(self, names: Sequence[str]) -> None:
        """Copy files into the local folder unless they are there; skip those that do not exist.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        for name in names:
            if not (self.folder / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                with naming(self.out), _ignoring_missing(), replacing(self.folder / name) as beside:
                    download(f"{self.out}/{name}", beside)

    @contextlib.contextmanager
    def shard_files(self, shard: int) -> Iterator[Path | None]:
        """Yield a temporary folder with copies of a shard's files; ``None`` if it has no commit record.

        Files that the record names but that do not exist are left out.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        with tempfile.TemporaryDirectory(prefix="ctxbatch-") as scratch:
            yield Path(scratch) if self.copy_shard(shard, Path(scratch)) else None

    def copy_shard(self, shard: int, folder: Path) -> bool:
        """Copy a shard's files into a folder, under their local names; return whether it has a commit record.

        This does not check the content of the files. It skips files that do not exist; if the commit record
        is damaged, it copies only the record.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        raw = self._read(self._object(shard, COMMIT))
        if raw is None:
            return False
        (folder / COMMIT).write_bytes(raw)
        try:
            commit = parse_commit(raw, self.out, shard)
        except StoreError:
            return True
        for name in commit.files:
            with naming(self.out), _ignoring_missing():
                download(f"{self.out}/{self._object(shard, name, commit.attempt)}", folder / name)
        return True

    def _object(self, shard: int, name: str, attempt: str | None = None) -> str:
        """Return the name of a shard's object, relative to the URL."""
        stem, _, suffix = name.partition(".")
        return f"{SHARDS}/{shard:06d}/{name if attempt is None else f'{stem}.{attempt}.{suffix}'}"

    def _objects(self, under: str) -> dict[str, Entry]:
        """Return the objects in a folder of the store by their names relative to the URL."""
        with naming(self.out), _ignoring_missing():
            entries = list_folder(f"{self.out}/{under}", recursive=True)
            return {entry.url[len(self.out) + 1 :]: entry for entry in entries if not entry.is_folder}
        return {}

    def _read(self, name: str) -> bytes | None:
        """Return the bytes of a small object; ``None`` if it does not exist."""
        with naming(self.out), _ignoring_missing():
            return read_file(f"{self.out}/{name}")
        return None


@contextlib.contextmanager
def _ignoring_missing() -> Iterator[None]:
    """Ignore the error that an object does not exist."""
    try:
        yield
    except RemoteError as error:
        if error.errno != errno.ENOENT:
            raise
