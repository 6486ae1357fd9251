"""Reads and writes the manifest of a store, names its other files, and refuses symbolic links among them."""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.encoding import check_encoding
from ctxbatch.corpus.plan import ShardSpec
from ctxbatch.corpus.sources import Reading, Source
from ctxbatch.corpus.store_marker import A_STORE, MANIFEST, STORE_FORMAT
from ctxbatch.errors import InputError, StoreError, shortened
from ctxbatch.files import create, refused_link, write_atomically
from ctxbatch.model.fidelity import Fidelity
from ctxbatch.sealed import Sha256, canonical_json, read_bytes, seal, typed, unseal

FORMAT_VERSION = 4
PLAN = "plan-{:04d}.json"
SHARDS = "shards"
INDEX = "index"
# What tells of an index's codebook, in the folder of its parts.
CODEBOOK = "codebook.json"
MODEL = "model"
LOG = "run.log"
LOCK = ".lock"
# Of int8 layers, also while they are written.
_LAYERS = re.compile(r"\.?layers-[0-9a-f]{16}\.(xml|bin)(\..*\.tmp)?$")
_LOGS = re.compile(r"run(\.\d+-of-\d+)?\.log")


# --- the manifest ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Appended:
    """How many sources and shards were appended to a store at once."""

    n_sources: int
    n_shards: int


@dataclass(frozen=True, slots=True)
class _AppendedPlan:
    """The content of the file of an appended plan; ``follows`` is the digest of all before it."""

    follows: Sha256
    sources: tuple[Source, ...]
    shards: tuple[ShardSpec, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The configuration of a store, its sources and how they are read, and the shard plan.

    ``fidelity`` says how close an int8 model is to fp32. Sources and shards that were appended stand behind
    those that the store was begun with, and are numbered on; ``appended`` counts them, in the order of their
    files.
    """

    config: ResolvedConfig
    reading: Reading
    sources: tuple[Source, ...]
    shards: tuple[ShardSpec, ...]
    fidelity: Fidelity | None = None
    appended: tuple[Appended, ...] = ()

    def write(self, out: Path) -> None:
        """Write the manifest and the plans that were appended to it."""
        files = self.files()
        for path in out.glob(PLAN.format(0).replace("0000", "*")):
            if path.name not in files:  # of another store that was here: copies of those on object storage
                path.unlink()
        for name, content in files.items():
            write_atomically(out / name, content)

    def create(self, out: Path) -> bool:
        """Write the last of the manifest's files and return True; return False if the store has one."""
        name, content = self.last_file()
        return create(out / name, content)

    def files(self) -> dict[str, bytes]:
        """Return the content of the manifest's file, and of those of the plans appended to it, by name."""
        return {part.name: self._sealed(part) for part in self._parts()}

    def last_file(self) -> tuple[str, bytes]:
        """Return the name and the content of the last of these files."""
        *_, last = self._parts()
        return last.name, self._sealed(last)

    def _parts(self) -> Iterator["_Part"]:
        n_sources = len(self.sources) - sum(each.n_sources for each in self.appended)
        n_shards = len(self.shards) - sum(each.n_shards for each in self.appended)
        part = _Part(MANIFEST, self.sources[:n_sources], self.shards[:n_shards])
        digest = _Digest(self.config.fingerprint)
        for number, each in enumerate(self.appended, 1):
            yield part
            digest.add(part.sources, part.shards)
            sources = self.sources[n_sources : n_sources + each.n_sources]
            shards = self.shards[n_shards : n_shards + each.n_shards]
            part = _Part(PLAN.format(number), sources, shards, digest.value())
            n_sources, n_shards = n_sources + each.n_sources, n_shards + each.n_shards
        yield part

    def append(self, sources: Sequence[Source], shards: Sequence[ShardSpec]) -> "Manifest":
        """Return the manifest with more sources, and shards planned from these alone, numbered from 0."""
        more = Appended(len(sources), len(shards))
        return replace(
            self,
            sources=(*self.sources, *sources),
            shards=(*self.shards, *_numbered_on(shards, len(self.shards), len(self.sources))),
            appended=(*self.appended, more),
        )

    def _sealed(self, part: "_Part") -> bytes:
        if part.follows:
            plan = _AppendedPlan(part.follows, part.sources, part.shards)
            return seal({"format": STORE_FORMAT, "format_version": FORMAT_VERSION, **asdict(plan)})
        content = {
            "format": STORE_FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": self.config.fingerprint,
            "config": self.config.as_dict(),
            "reading": asdict(self.reading),
            "sources": [asdict(source) for source in part.sources],
            "shards": [asdict(shard) for shard in part.shards],
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
        return cls.from_files(lambda name: _content(out / name), out)

    @classmethod
    def from_files(cls, read: Callable[[str], bytes | None], out: object) -> "Manifest | None":
        """Return the manifest in a store's files; ``None`` if there is none yet.

        Args:
            read: Returns the content of a file, ``None`` if there is none of this name.
            out: The store's name, for errors.

        Raises:
            StoreError: The manifest is damaged, or of another format.
        """
        raw = read(MANIFEST)
        if raw is None:
            return None
        manifest = cls._from_bytes(raw, out)
        digest = _Digest(manifest.config.fingerprint)
        digest.add(manifest.sources, manifest.shards)
        sources, shards, appended = [*manifest.sources], [*manifest.shards], list[Appended]()
        paths = {source.path for source in sources}
        while (raw := read(PLAN.format(len(appended) + 1))) is not None:
            name = f"{out}/{PLAN.format(len(appended) + 1)}"
            plan = _plan(raw, name)
            problem = _plan_contradiction(plan.sources, plan.shards, len(sources), len(shards))
            if plan.follows != digest.value():
                problem = "it does not follow the plan before it"
            elif not paths.isdisjoint(source.path for source in plan.sources):
                problem = "it names a source that the store has"
            if problem:
                raise _untrusted(f"{name} is damaged: {problem}")
            digest.add(plan.sources, plan.shards)
            sources += plan.sources
            shards += plan.shards
            appended.append(Appended(len(plan.sources), len(plan.shards)))
            paths.update(source.path for source in plan.sources)
        return replace(manifest, sources=(*sources,), shards=(*shards,), appended=(*appended,))

    @classmethod
    def _from_bytes(cls, raw: bytes, out: object) -> "Manifest":
        name = f"{out}/{MANIFEST}"
        try:
            content = unseal(raw, name)
        except StoreError as error:
            raise _untrusted(error) from error
        content.pop("appended", None)  # which only other files say
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
        problem = _contradiction(manifest)
        if manifest.config.fingerprint != content.get("fingerprint"):
            problem = "its fingerprint does not match its configuration"
        if problem:
            raise _untrusted(f"{name} is damaged: {problem}")
        return manifest


@dataclass(frozen=True, slots=True)
class _Part:
    """The sources and shards of one of a manifest's files; ``follows`` as in an appended plan, or empty."""

    name: str
    sources: tuple[Source, ...]
    shards: tuple[ShardSpec, ...]
    follows: str = ""


class _Digest:
    """A digest of the configuration, sources and shards so far; a plan knows by it what it was appended to.

    It is the SHA-256 of the canonical JSON of ``[fingerprint, [path, ...], n_shards]``.
    """

    def __init__(self, fingerprint: str) -> None:
        self._so_far = hashlib.sha256(f"[{canonical_json(fingerprint)},[".encode())
        self._separator = ""
        self._n_shards = 0

    def add(self, sources: Iterable[Source], shards: Sequence[ShardSpec]) -> None:
        for source in sources:
            self._so_far.update(f"{self._separator}{canonical_json(source.path)}".encode())
            self._separator = ","
        self._n_shards += len(shards)

    def value(self) -> str:
        whole = self._so_far.copy()
        whole.update(f"],{self._n_shards}]".encode())
        return whole.hexdigest()


def _plan(raw: bytes, name: str) -> _AppendedPlan:
    """Return the plan that was appended, from the content of its file."""
    try:
        content = unseal(raw, name)
        plan = typed(content, _AppendedPlan, name)
    except StoreError as error:
        raise _untrusted(error) from error
    if (content.get("format"), content.get("format_version")) != (STORE_FORMAT, FORMAT_VERSION):
        raise StoreError(f"{name} has another format than this program reads: install a newer ctxbatch")
    return plan


def not_a_store(out: object) -> StoreError:
    """Return the error for a folder or URL without a manifest."""
    return StoreError(f"{out} is not {A_STORE}: it has no {MANIFEST}")


def _untrusted(why: object) -> StoreError:
    return StoreError(f"{why}; the store cannot be trusted: run again with another -o")


def _content(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None


def _numbered_on(shards: Sequence[ShardSpec], n_shards: int, n_sources: int) -> Iterator[ShardSpec]:
    for spec in shards:
        segments = (replace(each, source=each.source + n_sources) for each in spec.segments)
        yield ShardSpec(spec.shard + n_shards, tuple(segments))


def _contradiction(manifest: Manifest) -> str | None:
    """Return how the fields of a manifest contradict each other; ``None`` if they do not."""
    if problem := manifest.config.contradiction():
        return problem
    if manifest.reading.encoding and (problem := _unknown_encoding(manifest.reading.encoding)):
        return problem
    return _plan_contradiction(manifest.sources, manifest.shards, 0, 0)


def _plan_contradiction(
    sources: Sequence[Source], shards: Sequence[ShardSpec], n_sources: int, n_shards: int
) -> str | None:
    """Return what is wrong with a plan that follows so many sources and shards; ``None`` if nothing is."""
    if [spec.shard for spec in shards] != [*range(n_shards, n_shards + len(shards))]:
        return f"its shards are not numbered from {n_shards}"
    for segment in itertools.chain.from_iterable(spec.segments for spec in shards):
        if not n_sources <= segment.source < n_sources + len(sources) or segment.start > segment.end:
            return "a shard covers text that no source has"
    for encoding in {source.encoding for source in sources}:
        if encoding and (problem := _unknown_encoding(encoding)):
            return problem
    return None


def _unknown_encoding(encoding: str) -> str | None:
    try:
        check_encoding(encoding)
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


def parts_folder(out: Path, column: str) -> Path:
    """Return the folder of what a column's index is made from: its codebook, and the codes of each shard."""
    return out / INDEX / f"{column}.parts"


# --- links ----------------------------------------------------------------------------------------


def refuse_links(out: Path) -> None:
    """Check that a store contains no symbolic links, so that nothing is written elsewhere.

    The store's own folder may be a link, since the user names it.

    Raises:
        StoreError: The store contains a link.
        OSError: A folder cannot be listed.
    """
    for folder in (out, out / SHARDS, out / INDEX, *(out / INDEX).glob("*.parts"), out / MODEL):
        if folder.is_symlink() and folder != out:
            raise StoreError(refused_link(folder))
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise StoreError(refused_link(Path(entry.path)))
