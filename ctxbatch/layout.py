"""What lies where under OUT: checksummed JSON files, the manifest, the lock and the log.

Owns the first bytes of a store and the rule that one run at a time writes to it. Files that are written
once are written beside their place, synced and renamed, so that they are there whole or not at all.
"""

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctxbatch.config import ResolvedConfig, canonical_json
from ctxbatch.corpus import ShardSpec
from ctxbatch.errors import ResourceError, StoreError
from ctxbatch.readers import Segment
from ctxbatch.sources import Source
from ctxbatch.units import Reading

FORMAT_VERSION = 4
MANIFEST = "manifest.json"
SHARDS = "shards"
INDEX = "index"
LOG = "run.log"
LOCK = ".lock"
# How long a new run waits for the workers of one that was killed to notice and end.
_ORPHANS_END_SECONDS = 30.0


# --- checksummed JSON -----------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum, whole or not at all, and sync it.

    Raises:
        OSError: The disk refuses.
    """
    write_atomically(path, _sealed(content))


def _sealed(content: Mapping[str, Any]) -> bytes:
    sealed = {**content, "checksum": _checksum(content)}
    return (json.dumps(sealed, indent=1, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        StoreError: The file is missing, is no JSON object, or is not byte for byte what was written.
    """
    try:
        raw = path.read_bytes()
        content: dict[str, Any] = json.loads(raw)
        del content["checksum"]
        intact = raw == _sealed(content)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: it is not the JSON that was written") from error
    if not intact:
        raise StoreError(f"{path} is damaged: its content does not match its checksum")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it, and rename it into place."""
    with replacing(path) as beside:
        beside.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to, which is then synced and takes the file's place whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Where this user's machine keeps what can be made again: compiled models, rates of past runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxbatch"


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- the manifest ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store is made of: the configuration, the sources, how they are read, and the shard plan."""

    config: ResolvedConfig
    reading: Reading
    sources: tuple[Source, ...]
    shards: tuple[ShardSpec, ...]

    def write(self, out: Path) -> None:
        """Write the manifest; done once in a store's life."""
        content = {
            "format": "ctxbatch store",
            "format_version": FORMAT_VERSION,
            "fingerprint": self.config.fingerprint,
            "config": self.config.as_dict(),
            "reading": asdict(self.reading),
            "sources": [asdict(source) for source in self.sources],
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_json(out / MANIFEST, content)

    @classmethod
    def read(cls, out: Path) -> "Manifest":
        """Read a store's manifest.

        Raises:
            StoreError: There is none, it is damaged, or it is of a newer format.
        """
        path = out / MANIFEST
        if not path.is_file():
            raise StoreError(f"{out} is no ctxbatch store: it has no {MANIFEST}")
        try:
            content = read_json(path)
        except StoreError as error:
            raise StoreError(f"{error}; the store cannot be trusted: run again with another -o") from error
        if content["format_version"] > FORMAT_VERSION:
            raise StoreError(
                f"{out} has format version {content['format_version']}, this program reads up to "
                f"{FORMAT_VERSION}: install a newer ctxbatch"
            )
        if content["format_version"] < FORMAT_VERSION:
            raise StoreError(
                f"{out} has format version {content['format_version']}, from before the first release: "
                "run again with another -o"
            )
        return cls(
            ResolvedConfig.from_dict(content["config"]),
            Reading(**content["reading"]),
            tuple(map(_source, content["sources"])),
            tuple(
                ShardSpec(shard["shard"], tuple(Segment(**segment) for segment in shard["segments"]))
                for shard in content["shards"]
            ),
        )


def _source(fields: dict[str, Any]) -> Source:
    columns = fields["columns"]
    return Source(**{**fields, "columns": None if columns is None else tuple(columns)})


def check_folder(out: Path) -> None:
    """Make sure that a folder can become, or is, a store.

    Raises:
        StoreError: It is something else.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"-o {out} is a file: name a folder")
    if out.is_dir() and not (out / MANIFEST).exists():
        foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in (LOCK, LOG))
        foreign = [name for name in foreign if not name.startswith(f".{MANIFEST}.")]
        if foreign:
            raise StoreError(f"-o {out} holds other things ({foreign[0]}, …) and no store: name a new folder")


# --- a disk that refuses --------------------------------------------------------------------------


def as_resource_error(error: OSError, out: Path) -> ResourceError:
    """Say in one line what stopped the writing of a store, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"the disk of {out} is full: make room and run the same command again")
    return ResourceError(f"{out} cannot be written to ({error.strerror or error}): mend it and run again")


# --- the lock -------------------------------------------------------------------------------------


@contextmanager
def locked(out: Path) -> Iterator[int]:
    """Hold a store's lock; yields the descriptor that workers inherit, so that they hold it too.

    The lock is the operating system's and ends with the last process that holds it. Where the
    process that took it is gone and only its workers are left, they are given time to notice.

    Raises:
        ResourceError: Another run holds the lock, or the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResourceError(f"{out} cannot be written to: {error.strerror}") from error
    try:
        _acquire(descriptor, out)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, out: Path) -> None:
    deadline = time.monotonic() + _ORPHANS_END_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).strip()
            if time.monotonic() > deadline or not owner or _is_running(int(owner)):
                raise ResourceError(
                    f"another run is writing to {out} (process {owner.decode() or 'unknown'}): "
                    "wait for it, or stop it and run again"
                ) from None
            time.sleep(0.05)
        else:
            return


def is_locked(out: Path) -> bool:
    """Whether a run is writing to the store at this moment."""
    try:
        descriptor = os.open(out / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
