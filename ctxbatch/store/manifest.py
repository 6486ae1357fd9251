"""Reads and writes the manifest of a store, names its other files, and refuses symbolic links among them."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.encoding import check_encoding
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.store_marker import A_STORE, MANIFEST, STORE_FORMAT
from ctxbatch.errors import InputError, StoreError, shortened
from ctxbatch.files import create, refused_link, write_atomically
from ctxbatch.model.fidelity import Fidelity
from ctxbatch.sealed import read_bytes, seal, typed, unseal

FORMAT_VERSION = 4
SHARDS = "shards"
INDEX = "index"
MODEL = "model"
LOG = "run.log"
LOCK = ".lock"
# Of int8 layers, also while they are written.
_LAYERS = re.compile(r"\.?layers-[0-9a-f]{16}\.(xml|bin)(\..*\.tmp)?$")
_LOGS = re.compile(r"run(\.\d+-of-\d+)?\.log")


# --- the manifest ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manifest:
    """The configuration of a store, its sources and how they are read, and the shard plan.

    ``fidelity`` says how close an int8 model is to fp32.
    """

    config: ResolvedConfig
    reading: Reading
    sources: tuple[Source, ...]
    shards: tuple[ShardSpec, ...]
    fidelity: Fidelity | None = None

    def write(self, out: Path) -> None:
        """Write the manifest; this happens once in a store's life."""
        write_atomically(out / MANIFEST, self.as_bytes())

    def create(self, out: Path) -> bool:
        """Write the manifest and return True; return False if the store already has one."""
        return create(out / MANIFEST, self.as_bytes())

    def as_bytes(self) -> bytes:
        """Return the content of the manifest's file."""
        content = {
            "format": STORE_FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": self.config.fingerprint,
            "config": self.config.as_dict(),
            "reading": asdict(self.reading),
            "sources": [asdict(source) for source in self.sources],
            "shards": [asdict(shard) for shard in self.shards],
        }
        if self.fidelity is not None:
            content["fidelity"] = asdict(self.fidelity)
        return seal(content)

    @classmethod
    def read(cls, out: Path) -> "Manifest":
        """Read a store's manifest.

        Raises:
            StoreError: The manifest is missing, damaged, or of another format.
            ResourceError: The disk or a permission prevents reading.
        """
        manifest = cls.find(out)
        if manifest is None:
            raise not_a_store(out)
        return manifest

    @classmethod
    def find(cls, out: Path) -> "Manifest | None":
        """Read a store's manifest; return ``None`` if there is none yet.

        Raises:
            StoreError: The manifest is damaged, or of another format.
            ResourceError: The disk or a permission prevents reading.
        """
        try:
            raw = read_bytes(out / MANIFEST)
        except FileNotFoundError:
            return None
        return cls.from_bytes(raw, out)

    @classmethod
    def from_bytes(cls, raw: bytes, out: object) -> "Manifest":
        """Return the manifest in a file's content; errors call the store ``out``.

        Raises:
            StoreError: The manifest is damaged, or of another format.
        """
        name = f"{out}/{MANIFEST}"
        try:
            content = unseal(raw, name)
        except StoreError as error:
            raise _untrusted(error) from error
        version = content.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise StoreError(
                f"{out} has format version {version}, but this program reads only up to {FORMAT_VERSION}: "
                "install a newer ctxbatch"
            )
        if isinstance(version, int) and version < FORMAT_VERSION:
            raise StoreError(
                f"{out} has format version {version}, which is older than the first release: run again with "
                "another -o"
            )
        try:
            manifest = typed(content, cls, name)
        except StoreError as error:
            raise _untrusted(error) from error
        if problem := _contradiction(manifest, content):
            raise _untrusted(f"{name} is damaged: {problem}")
        return manifest


def not_a_store(out: object) -> StoreError:
    """Return the error for a folder or URL without a manifest."""
    return StoreError(f"{out} is not {A_STORE}: it has no {MANIFEST}")


def _untrusted(why: object) -> StoreError:
    return StoreError(f"{why}; the store cannot be trusted: run again with another -o")


def _contradiction(manifest: Manifest, content: Mapping[str, Any]) -> str | None:
    """Return how the fields of a manifest contradict each other; ``None`` if they do not."""
    config, reading = manifest.config, manifest.reading
    if config.fingerprint != content.get("fingerprint"):
        return "its fingerprint does not match its configuration"
    if problem := config.contradiction():
        return problem
    if [spec.shard for spec in manifest.shards] != list(range(len(manifest.shards))):
        return "its shards are not numbered from 0"
    for segment in itertools.chain.from_iterable(spec.segments for spec in manifest.shards):
        if segment.source >= len(manifest.sources) or segment.start > segment.end:
            return "a shard covers text that no source has"
    for encoding in {reading.encoding, *(source.encoding for source in manifest.sources)} - {None}:
        try:
            check_encoding(encoding or "")
        except InputError as error:
            return str(error)
    return None


def check_folder(out: Path) -> None:
    """Check that a folder is a store, or can become one.

    Raises:
        StoreError: The path is a file, or a folder of other things.
    """
    if out.exists() and not out.is_dir():
        raise StoreError(f"-o {out} is a file: name a folder")
    # The folder is listed only once: another part of the same run may create the store in the meantime.
    names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in names if not _may_precede_manifest(name)]
    if MODEL in names:
        inside = (path.name for path in (out / MODEL).glob("*"))
        foreign += [f"{MODEL}/{name}" for name in foreign_layers(inside)]
    if foreign and MANIFEST not in names:
        raise holds_other_things(out, foreign)


def foreign_layers(names: Iterable[str]) -> list[str]:
    """Return the names in a store's model folder that no run gives, sorted."""
    return sorted(name for name in names if not _LAYERS.match(name))


def holds_other_things(out: object, names: Sequence[str]) -> StoreError:
    """Return the error for a folder or URL that holds other things and cannot become a store."""
    return StoreError(f"-o {out} contains other files ({shortened(names, 1)}) and no store: choose a new one")


def _may_precede_manifest(name: str) -> bool:
    """Return True if a run can create this entry of the folder before the manifest."""
    return name in (LOCK, MODEL) or name.startswith(f".{MANIFEST}.") or _LOGS.fullmatch(name) is not None


def log_path(out: Path, part: tuple[int, int] | None = None) -> Path:
    """Return the log file of a run, or of a part: machines would overwrite each other's lines in one file."""
    return out / (LOG if part is None else f"run.{part[0]}-of-{part[1]}.log")


def rejects_of(out: Path | str) -> str:
    """Return the glob of a store's reject files; on object storage their names include an attempt."""
    return f"{out}/{SHARDS}/*/rejects{'.*' if isinstance(out, str) else ''}.jsonl"


# --- links ----------------------------------------------------------------------------------------


def refuse_links(out: Path) -> None:
    """Check that a store contains no symbolic links, so that nothing is written elsewhere.

    The store's own folder may be a link, since the user names it.

    Raises:
        StoreError: The store contains a link.
        OSError: A folder cannot be listed.
    """
    for folder in (out, out / SHARDS, out / INDEX, out / MODEL):
        if folder.is_symlink() and folder != out:
            raise StoreError(refused_link(folder))
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise StoreError(refused_link(Path(entry.path)))
