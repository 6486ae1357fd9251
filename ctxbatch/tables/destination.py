"""Writes the files of an export to a folder or to object storage, each whole or not at all.

A file is finished if it is in its place and its Parquet footer, which is written last, can be read. An upload
that was cut off leaves an object without one.
"""

import contextlib
import errno
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ctxbatch.corpus.store_marker import MANIFEST
from ctxbatch.errors import CtxbatchError, ResourceError, StoreError, shortened
from ctxbatch.files import as_resource_error, cache_folder, check_room, remove, replacing, write_atomically
from ctxbatch.filesystem import (
    OF_BUCKETS,
    RemoteError,
    check_name,
    is_remote,
    list_folder,
    look_up,
    naming,
    open_file,
    read_file,
    upload,
    without_password,
    write_file,
)
from ctxbatch.sealed import not_readable, read_bytes, size_of
from ctxbatch.store.locks import locked
from ctxbatch.store.manifest import LOCK

# What the files of an export are, which of them are finished, and what they belong to.
PLAN = "export.json"
CARD = "README.md"
_ROOM = "make room, or name another folder"


class FileFound(NamedTuple):
    """A finished Parquet file: its rows and its bytes."""

    rows: int
    size: int


class FolderDestination:
    """A folder of this machine.

    Args:
        folder: The folder; created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.dest: Path | str = folder
        self._folder = folder

    def check(self) -> None:
        """Check that the folder is an export, or can become one.

        Raises:
            StoreError: It is a file, a store, or a folder of other things.
        """
        if self._folder.exists() and not self._folder.is_dir():
            raise StoreError(f"{self.dest} is a file: name a new folder")
        names = sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []
        if PLAN not in names:
            _refuse_others(self.dest, [each for each in names if each != LOCK and f".{PLAN}." not in each])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder, and keep other exports out of it.

        Raises:
            ResourceError: Another export writes to it, or the disk refuses.
        """
        with locked(self._folder):
            try:
                yield
            except OSError as error:
                raise as_resource_error(error, self._folder) from error
            finally:  # the folder is for others, who have no use for a lock
                remove(self._folder / LOCK)

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; ``None`` if there is none.

        Raises:
            ResourceError: It cannot be read.
        """
        try:
            return read_bytes(self._folder / name)
        except FileNotFoundError:
            return None

    def found(self, name: str) -> FileFound | None:
        """Return what a Parquet file holds; ``None`` if it is not finished.

        Raises:
            ResourceError: It cannot be read.
        """
        path = self._folder / name
        size = size_of(path)
        if size is None:
            return None
        try:
            return FileFound(pq.read_metadata(path).num_rows, size)
        except pa.ArrowInvalid:
            return None
        except OSError as error:
            raise not_readable(path, error) from error

    def make_ready(self, names: Iterable[str], needed: int, at_once: int) -> None:  # noqa: ARG002 (`BucketDestination` needs it)
        """Remove what a killed export has left, and check that the disk has room.

        Args:
            names: The names of all Parquet files.
            needed: The bytes that are still to be written.
            at_once: How many of them are on the way at the same time.

        Raises:
            ResourceError: The disk has too little room.
        """
        for folder in {(self._folder / name).parent for name in names}:
            folder.mkdir(exist_ok=True)
        for of in ("*/.*.parquet", f".{PLAN}", f".{CARD}"):
            for left in self._folder.glob(f"{of}.*.tmp"):
                remove(left)
        check_room(self._folder, needed, _ROOM)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a path to write a file to; put the file in its place at the end."""
        with replacing(self._folder / name) as beside:
            yield beside

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole or not at all."""
        write_atomically(self._folder / name, content)


class BucketDestination:
    """A folder on object storage. Files are made in the cache folder of this machine, then uploaded.

    Args:
        url: The folder's URL.
    """

    def __init__(self, url: str) -> None:
        self.dest: Path | str = url.rstrip("/")

    def check(self) -> None:
        """Check that the folder is an export, or can become one.

        Raises:
            InputError: The bucket does not exist.
            StoreError: It is a store, or holds other objects.
            ResourceError: The network fails, or access is denied.
        """
        with naming(self.dest):
            try:
                entries = list_folder(str(self.dest), recursive=False)
            except RemoteError as error:
                if error.errno != errno.ENOENT:
                    raise
                if str(self.dest).partition("://")[0].lower() in OF_BUCKETS:
                    look_up("/".join(str(self.dest).split("/")[:3]))
                return
        names = sorted(entry.url.rstrip("/").rpartition("/")[2] for entry in entries)
        if PLAN not in names:
            _refuse_others(self.dest, names)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Do nothing: object storage has no locks."""
        try:
            yield
        except OSError as error:
            raise as_resource_error(error, cache_folder()) from error

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; ``None`` if there is none.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        with naming(self.dest):
            try:
                return read_file(f"{self.dest}/{name}")
            except RemoteError as error:
                if error.errno != errno.ENOENT:
                    raise
        return None

    def found(self, name: str) -> FileFound | None:
        """Return what a Parquet file holds; ``None`` if it is not finished.

        Raises:
            ResourceError: The network fails, or access is denied.
        """
        url = f"{self.dest}/{name}"
        with naming(self.dest):
            try:
                with open_file(url) as file:
                    return FileFound(pq.read_metadata(file).num_rows, look_up(url).size)
            except pa.ArrowInvalid:
                return None
            except RemoteError as error:
                if error.errno != errno.ENOENT:
                    raise
        return None

    def make_ready(self, names: Iterable[str], needed: int, at_once: int) -> None:
        """Check that this machine has room for the files on the way, as `FolderDestination.make_ready`."""
        n_files = sum(1 for _ in names)
        cache_folder().mkdir(parents=True, exist_ok=True)
        check_room(cache_folder(), needed * min(at_once, n_files) // max(n_files, 1), _ROOM)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a path to write a file to; upload the file at the end."""
        with tempfile.TemporaryDirectory(prefix="export-", dir=cache_folder()) as scratch:
            path = Path(scratch) / Path(name).name
            yield path
            with naming(self.dest):
                upload(path, f"{self.dest}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a small object whole or not at all."""
        with naming(self.dest):
            write_file(f"{self.dest}/{name}", content)


Destination = FolderDestination | BucketDestination


def destination_of(dest: str | Path) -> Destination:
    """Return the destination of a name, a folder or a URL.

    Raises:
        InputError: The name is a malformed URL.
    """
    if not is_remote(str(dest)):
        return FolderDestination(Path(dest))
    with naming(without_password(str(dest))):
        check_name(str(dest))
    return BucketDestination(str(dest))


def _refuse_others(dest: object, names: list[str]) -> None:
    if MANIFEST in names:
        raise StoreError(f"{dest} is a store or another set of data (it has a {MANIFEST}): name a new folder")
    if names:
        raise StoreError(
            f"{dest} contains other files ({shortened(names, 1)}) and no export: name a new folder"
        )


def written_wrong(dest: object, name: str, why: str) -> CtxbatchError:
    """Return the error for a file that does not hold what was written."""
    return ResourceError(
        f"{dest}/{name} does not hold what was written ({why}): check the disk and the memory, and run "
        "the same command again"
    )
