"""What lies where under OUT: the manifest, the names of the lock and the logs, and that nothing is a link.

Owns the first bytes of a store.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.encoding import check_encoding
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.raw_records import Reading
from ctxbatch.corpus.sources import Source
from ctxbatch.corpus.store_marker import A_STORE, MANIFEST, STORE_FORMAT
from ctxbatch.errors import InputError, StoreError, shortened
from ctxbatch.files import create, refused_link, write_atomically
from ctxbatch.sealed import read_bytes, seal, typed, unseal

FORMAT_VERSION = 4
SHARDS = "shards"
INDEX = "index"
LOG = "run.log"
LOCK = ".lock"
_LOGS = re.compile(r"run(\.\d+-of-\d+)?\.log")


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
        write_atomically(out / MANIFEST, self.as_bytes())

    def create(self, out: Path) -> bool:
        """Write the manifest unless the store has one by now; returns whether this one is the store's."""
        return create(out / MANIFEST, self.as_bytes())

    def as_bytes(self) -> bytes:
        """What the manifest's file holds."""
        content = {
            "format": STORE_FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": self.config.fingerprint,
            "config": self.config.as_dict(),
            "reading": asdict(self.reading),
            "sources": [asdict(source) for source in self.sources],
            "shards": [asdict(shard) for shard in self.shards],
        }
        return seal(content)

    @classmethod
    def read(cls, out: Path) -> "Manifest":
        """Read a store's manifest.

        Raises:
            StoreError: There is none, it is damaged, or it is of another format.
            ResourceError: The disk or a permission does not let it be read.
        """
        manifest = cls.find(out)
        if manifest is None:
            raise not_a_store(out)
        return manifest

    @classmethod
    def find(cls, out: Path) -> "Manifest | None":
        """Read a store's manifest; ``None`` where none was begun.

        Raises:
            StoreError: It is damaged, or it is of another format.
            ResourceError: The disk or a permission does not let it be read.
        """
        try:
            raw = read_bytes(out / MANIFEST)
        except FileNotFoundError:
            return None
        return cls.from_bytes(raw, out)

    @classmethod
    def from_bytes(cls, raw: bytes, out: object) -> "Manifest":
        """The manifest that a store's file holds; ``out`` is what the store is called.

        Raises:
            StoreError: It is damaged, or it is of another format.
        """
        name = f"{out}/{MANIFEST}"
        try:
            content = unseal(raw, name)
        except StoreError as error:
            raise _not_to_be_trusted(error) from error
        version = content.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise StoreError(
                f"{out} has format version {version}, this program reads up to {FORMAT_VERSION}: install a "
                "newer ctxbatch"
            )
        if isinstance(version, int) and version < FORMAT_VERSION:
            raise StoreError(
                f"{out} has format version {version}, from before the first release: run again with another "
                "-o"
            )
        try:
            manifest = typed(content, cls, name)
        except StoreError as error:
            raise _not_to_be_trusted(error) from error
        if problem := _contradiction(manifest, content):
            raise _not_to_be_trusted(f"{name} is damaged: {problem}")
        return manifest


def not_a_store(out: object) -> StoreError:
    """Return the error for a folder or a URL that has no manifest."""
    return StoreError(f"{out} is not {A_STORE}: it has no {MANIFEST}")


def _not_to_be_trusted(why: object) -> StoreError:
    return StoreError(f"{why}; the store cannot be trusted: run again with another -o")


def _contradiction(manifest: Manifest, content: Mapping[str, Any]) -> str | None:
    """Return what in a manifest cannot be, although every field is of its type; ``None`` if nothing."""
    config, reading = manifest.config, manifest.reading
    if config.fingerprint != content.get("fingerprint"):
        return "its fingerprint is not that of its configuration"
    if problem := config.contradiction():
        return problem
    if [spec.shard for spec in manifest.shards] != list(range(len(manifest.shards))):
        return "its shards are not numbered from 0"
    for segment in itertools.chain.from_iterable(spec.segments for spec in manifest.shards):
        if segment.source >= len(manifest.sources) or segment.start > segment.end:
            return "a shard is of text that no source has"
    for encoding in {reading.encoding, *(source.encoding for source in manifest.sources)} - {None}:
        try:
            check_encoding(encoding or "")
        except InputError as error:
            return str(error)
    return None


def check_folder(out: Path) -> None:
    """Make sure that a folder can become, or is, a store.

    Raises:
        StoreError: It is something else.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"-o {out} is a file: name a folder")
    # Looked at once: another part of the same run may begin the store at this very moment.
    names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in names if not _is_ours_from_the_first(name)]
    if foreign and MANIFEST not in names:
        raise holds_other_things(out, foreign)


def holds_other_things(out: object, names: Sequence[str]) -> StoreError:
    """Return the error for a place that cannot become a store."""
    return StoreError(f"-o {out} holds other things ({shortened(names, 1)}) and no store: name a new one")


def _is_ours_from_the_first(name: str) -> bool:
    """Whether an entry can be there before there is a manifest."""
    return name == LOCK or name.startswith(f".{MANIFEST}.") or _LOGS.fullmatch(name) is not None


def log_path(out: Path, part: tuple[int, int] | None = None) -> Path:
    """Where a run logs to; parts each to a file of their own, as machines overwrite each other's lines."""
    return out / (LOG if part is None else f"run.{part[0]}-of-{part[1]}.log")


def rejects_of(out: Path | str) -> str:
    """Where a store says what was not processed; on object storage file names carry an attempt."""
    return f"{out}/{SHARDS}/*/rejects{'.*' if isinstance(out, str) else ''}.jsonl"


# --- a store that is not to be trusted ------------------------------------------------------------


def refuse_links(out: Path) -> None:
    """Make sure that what is written to a store does not go elsewhere: nothing in it may be a link.

    The store's own folder may be one: it is the user who names it.

    Raises:
        StoreError: Something is.
        OSError: A folder cannot be looked at.
    """
    for folder in (out, out / SHARDS, out / INDEX):
        if folder.is_symlink() and folder != out:
            raise StoreError(refused_link(folder))
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise StoreError(refused_link(Path(entry.path)))
