"""Sources and the shard plan.

A shard is a list of segments: byte ranges of sources that begin and end with a record. The plan is
computed once, from the bytes alone, and pins them by checksum.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ctxbatch.config import RecordKind, RunConfig
from ctxbatch.errors import InputError

FORMATS = {".txt": "text", ".jsonl": "json lines", ".ndjson": "json lines"}
_CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """An input file: its path as given, its format, and the size and time it had when planned."""

    path: str
    format: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How sources become records and shards; part of the plan, not of the vectors' definition."""

    record: RecordKind
    text_field: str
    id_field: str
    limit: int | None
    shard_size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes ``start`` to ``end`` of a source: whole records, the first being number ``first_record``."""

    source: int
    start: int
    end: int
    first_record: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """The unit of planning, batching, commit, retry and distribution."""

    shard: int
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Bytes of input."""
        return sum(segment.end - segment.start for segment in self.segments)


# --- finding sources ------------------------------------------------------------------------------


def find_sources(inputs: Sequence[str | Path], out: Path) -> tuple[list[Source], list[str]]:
    """List the files behind the inputs; folders are walked recursively, in sorted order.

    Args:
        inputs: Files and folders, as the user named them.
        out: The store's folder, which is never read as input.

    Returns:
        The sources, and the files of folders that no reader takes. Hidden files are passed over.

    Raises:
        InputError: An input is missing, unreadable, of an unknown format or named twice, or there are none.
    """
    sources: dict[Path, Source] = {}
    left_out: list[str] = []
    for given in inputs:
        if not str(given):
            raise InputError("an input is empty: name a file or a folder")
        path = Path(given)
        if _is_folder(path):
            known, unknown = _walk(path, out)
            left_out += map(str, unknown)
            if not known:
                raise InputError(f"{path} holds no file that can be read ({_known_formats()})")
        else:
            known = [path]
        for file in known:
            if (real := file.resolve()) in sources:
                raise InputError(f"{file} is named twice among the inputs: name it once")
            sources[real] = _source(file)
    if not sources:
        raise InputError("no input given: name one or more files or folders")
    if not sum(source.size for source in sources.values()):
        raise InputError(f"the inputs are empty: {', '.join(map(str, inputs))}")
    return list(sources.values()), left_out


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name too long, say
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _known_formats() -> str:
    return ", ".join(sorted(FORMATS))


def _walk(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """The readable and the other files below a folder; links are followed, each folder entered once."""
    known: list[Path] = []
    unknown: list[Path] = []
    entered: set[Path] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        here = Path(root)
        real = here.resolve()
        if real in entered or real == out.resolve():
            folders.clear()
            continue
        entered.add(real)
        if is_store(here):
            folders.clear()
            unknown.append(here)
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                (known if Path(name).suffix.lower() in FORMATS else unknown).append(here / name)
    return sorted(known), sorted(unknown)


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of this program, whose files are no text to read."""
    try:
        with (folder / "manifest.json").open("rb") as stream:
            return b'"ctxbatch store"' in stream.read(200)
    except OSError:
        return False


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


def _source(path: Path) -> Source:
    format_name = FORMATS.get(path.suffix.lower())
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{os.fsencode(path)!r}: the file's name is not UTF-8: rename it") from None
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file: write its text to a file first")
        if format_name is None:
            raise InputError(f"{path}: unknown format {path.suffix!r}; it must be one of {_known_formats()}")
        with path.open("rb"):
            status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return Source(str(path), format_name, status.st_size, status.st_mtime_ns)


# --- planning -------------------------------------------------------------------------------------


def resolve_reading(config: RunConfig, sources: Sequence[Source]) -> Reading:
    """Settle how the sources are read.

    Raises:
        InputError: An option was given that has no meaning for any of the sources' formats.
    """
    formats = {source.format for source in sources}
    if config.record != "line" and "json lines" in formats:
        raise InputError(f"--record {config.record} is for text files; in JSON lines a record is a line")
    if "json lines" not in formats:
        for option, value in (("--text-field", config.text_field), ("--id-field", config.id_field)):
            if value is not None:
                raise InputError(f"{option} {value} has no meaning: none of the inputs has fields")
    return Reading(
        record=config.record,
        text_field=config.text_field or "text",
        id_field=config.id_field or "id",
        limit=config.limit,
        shard_size=config.shard_size or _default_shard_size(sum(source.size for source in sources)),
    )


def _default_shard_size(corpus_size: int) -> int:
    """Bytes of input a shard: 1 MB for small corpora, 256 MB for a terabyte, shards of equal size."""
    target = min(max(corpus_size // 4096, _MEGABYTE), 256 * _MEGABYTE)
    n_shards = max(1, round(corpus_size / target))
    return max(_MEGABYTE, -(-corpus_size // n_shards))


class Digest(Protocol):
    """What a hash of hashlib can do here."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes into account."""

    def hexdigest(self) -> str:
        """The hash of all bytes so far."""
        ...


def plan(sources: Sequence[Source], reading: Reading) -> list[ShardSpec]:
    """Cut the sources into shards of ``shard_size`` bytes or a little more; small files share one.

    A pure function of the sources' bytes and of ``reading``.

    Raises:
        InputError: A source cannot be read.
    """
    shards: list[ShardSpec] = []
    segments: list[Segment] = []
    room, left = reading.shard_size, reading.limit
    for index, source in enumerate(sources):
        start = first = 0
        with open_source(source) as stream:
            while left is None or left > 0:
                digest = hashlib.sha256()
                size, n_records, n_lines = _take(stream, reading.record, room, left, digest)
                if not size:
                    break
                segments.append(Segment(index, start, start + size, first, digest.hexdigest()))
                start, first, room = start + size, first + n_lines, room - size
                left = None if left is None else left - n_records
                if room <= 0:
                    shards.append(ShardSpec(len(shards), tuple(segments)))
                    segments, room = [], reading.shard_size
        if left is None and start != source.size:
            raise InputError(f"{source.path} changed while it was planned: run again when it is complete")
    if segments:
        shards.append(ShardSpec(len(shards), tuple(segments)))
    return shards


def source_size(source: Source) -> int | None:
    """The size of a source now; ``None`` where it is not there."""
    try:
        return Path(source.path).stat().st_size
    except OSError:
        return None


def open_source(source: Source) -> BinaryIO:
    """Open a source for reading bytes.

    Raises:
        InputError: It cannot be opened.
    """
    try:
        return Path(source.path).open("rb")
    except OSError as error:
        raise InputError(f"{source.path} cannot be read: {error.strerror}") from error


def _take(
    stream: BinaryIO, record: RecordKind, room: int, limit: int | None, digest: Digest
) -> tuple[int, int, int]:
    """Read whole records until ``room`` bytes are reached or ``limit`` records are taken.

    Returns:
        The bytes, records and lines taken.
    """
    if record == "file":
        return _take_file(stream, digest)
    if record == "paragraph":
        return _take_paragraphs(stream, room, limit, digest)
    return (
        _take_lines(stream, room, digest) if limit is None else _take_some_lines(stream, room, limit, digest)
    )


def _take_file(stream: BinaryIO, digest: Digest) -> tuple[int, int, int]:
    size = 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, 1, 0


def _take_lines(stream: BinaryIO, room: int, digest: Digest) -> tuple[int, int, int]:
    size = lines = 0
    last = b""
    while size < room and (chunk := stream.read(min(room - size, _CHUNK))):
        size += len(chunk)
        lines += chunk.count(b"\n")
        digest.update(chunk)
        last = chunk
    if size and not last.endswith(b"\n"):
        rest = stream.readline()
        digest.update(rest)
        size += len(rest)
        lines += 1
    return size, lines, lines


def _take_some_lines(stream: BinaryIO, room: int, limit: int, digest: Digest) -> tuple[int, int, int]:
    size = lines = 0
    while size < room and lines < limit and (line := stream.readline()):
        digest.update(line)
        size += len(line)
        lines += 1
    return size, lines, lines


def _take_paragraphs(stream: BinaryIO, room: int, limit: int | None, digest: Digest) -> tuple[int, int, int]:
    size = paragraphs = lines = 0
    inside = False
    while line := stream.readline():
        blank = not (line.removeprefix(BOM) if not lines else line).strip()
        if not blank and not inside:
            if paragraphs and (size >= room or paragraphs == limit):
                stream.seek(-len(line), os.SEEK_CUR)
                break
            paragraphs += 1
        inside = not blank
        digest.update(line)
        size += len(line)
        lines += 1
    return size, paragraphs, lines
