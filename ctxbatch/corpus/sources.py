"""The files behind the inputs: folders, globs and data sets, local and remote, each file with its format.

Owns which suffix means which format, and what is left out of a folder. Reads no text.
"""

import glob
import json
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ctxbatch.config import FormatName
from ctxbatch.corpus import listing
from ctxbatch.corpus.compression import COMPRESSIONS, Compression, find_compression
from ctxbatch.corpus.read_errors import unreadable
from ctxbatch.corpus.source_files import real_place
from ctxbatch.errors import InputError
from ctxbatch.filesystem import Entry, is_remote, read_file, without_password
from ctxbatch.sealed import Count

FORMATS: dict[str, FormatName] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TABLE_FORMATS: tuple[FormatName, ...] = ("parquet", "arrow")
_HEAD_BYTES = 256
_MAX_STATE_BYTES = 64 << 20
_ZIP = b"PK\x03\x04"
_STATE = "state.json"
_DATA_SET = {_STATE, "dataset_info.json"}
# Objects whose first bytes are asked for side by side.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Source:
    """An input file: its path as given, how it is to be read, and the size and time it had when planned.

    ``encoding`` is ``None`` for tables; ``columns`` are those of the header of a CSV or TSV file.
    """

    path: str
    format: FormatName
    compression: Compression | None
    size: Count
    mtime_ns: int
    encoding: str | None = None
    columns: tuple[str, ...] | None = None

    @property
    def is_table(self) -> bool:
        """Whether it is an Arrow or Parquet file, whose records have rows and no bytes."""
        return self.format in TABLE_FORMATS


@dataclass(slots=True)
class _Found:
    """What has been found so far: sources by what they really are, and what folders hold besides."""

    out: Path
    format: FormatName | None
    sources: dict[str, Source] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def is_written_by_us(self, path: Path) -> bool:
        """Whether a path is the store that is being made, another one, or in one."""
        places = (path.resolve(), *path.resolve().parents)
        return self.out in places or any(is_store(place) for place in places)


def find_sources(
    inputs: Sequence[str | Path], out: Path, format_name: FormatName | None = None
) -> tuple[list[Source], list[str]]:
    """List the files behind the inputs; folders are walked recursively, in sorted order.

    Args:
        inputs: Files, folders and glob patterns, as the user named them; also with ``s3://`` and the like.
        out: The store's folder, which is never read as input.
        format_name: The format of all files, whatever their suffixes say.

    Returns:
        The sources, and what was left out of folders, each with the reason in brackets. Hidden files are
        passed over.

    Raises:
        InputError: An input is missing, unreadable, of an unknown format or named twice, or there are none.
        ResourceError: The network fails.
    """
    found = _Found(out.resolve(), format_name)
    for given in inputs:
        if not str(given):
            raise InputError("an input is empty: name a file or a folder")
        if _is_remote_input(str(given)):
            _add_remote(found, str(given))
            continue
        path = Path(given)
        if not glob.has_magic(str(path)) or os.path.lexists(path):
            _add(found, path)
            continue
        matches = _matches(path)
        for match in matches:
            if not found.is_written_by_us(match):
                _add(found, match)
    if not inputs:
        raise InputError("no input given: name one or more files or folders")
    if not found.sources:
        where = ", ".join(map(str, inputs))
        raise InputError(f"{where} holds no file that can be read ({_known_formats()})")
    if not sum(source.size for source in found.sources.values()):
        raise InputError(f"the inputs are empty: {', '.join(map(str, inputs))}")
    return list(found.sources.values()), found.left_out


def _matches(pattern: Path) -> list[Path]:
    """The paths that a pattern stands for, sorted."""
    matches = [Path(m) for m in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207 (takes any path)
    if not matches:
        raise InputError(f"{pattern}: no file matches this pattern")
    # With ** a folder matches as well as the files in it; they are not named twice by that.
    folders = {match for match in matches if match.is_dir()}
    return [match for match in matches if folders.isdisjoint(match.parents)]


def _add(found: "_Found", path: Path) -> None:
    if not _is_folder(path):
        _add_file(found, path)
    elif found.is_written_by_us(path):
        found.left_out.append(f"{path} (a ctxbatch store)")
    else:
        _add_folder(found, path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name too long, say
        raise unreadable(str(path), error) from error


def _add_file(found: _Found, path: Path) -> None:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file: write its text to a file first")
    except OSError as error:
        raise unreadable(str(path), error) from error
    if (real := real_place(str(path))) in found.sources:
        raise InputError(f"{path} is named twice among the inputs: name it once")
    found.sources[real] = _named_source(str(path), _source(path, found.format))


def _named_source(name: str, source: Source | str) -> Source:
    """The source of a file that was named; raises the reason if it is none."""
    if not isinstance(source, str):
        return source
    hint = "; if it holds JSON lines, say --format jsonl" if name.lower().endswith(".json") else ""
    known = (
        f"; known are {_known_formats()}; --format names one{hint}" if source.startswith("unknown") else ""
    )
    raise InputError(f"{name}: {source}{known}")


def _add_folder(found: _Found, folder: Path) -> None:
    inside: dict[str, Source] = {}
    for path in _walk(found, folder):
        if not path.is_file():
            what = "a broken link" if path.is_symlink() and not path.exists() else "no regular file"
            found.left_out.append(f"{path} ({what})")
        elif (real := real_place(str(path))) in inside:
            found.left_out.append(f"{path} (the same file as {inside[real].path})")
        elif real in found.sources:
            raise InputError(f"{path} is named twice among the inputs: name it once")
        elif isinstance(source := _source(path, found.format), str):
            found.left_out.append(f"{_printable(path)} ({source})")
        else:
            inside[real] = source
    if not inside:
        found.left_out.append(f"{folder} (no file in it can be read)")
    found.sources |= inside


def _printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _known_formats() -> str:
    return f"{', '.join(FORMATS)}, text also with {', '.join(COMPRESSIONS)}"


def _walk(found: _Found, folder: Path) -> list[Path]:
    """The files below a folder, sorted; links are followed, each folder entered once."""
    files: list[Path] = []
    entered: set[Path] = set()
    for root, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        here = Path(root)
        real = here.resolve()
        if real in entered or real == found.out:
            folders.clear()
            continue
        entered.add(real)
        if is_store(here):
            folders.clear()
            found.left_out.append(f"{here} (a ctxbatch store)")
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        data_files = _data_set(here, names)
        if data_files is None:
            data_files = [here / name for name in names if not name.startswith(".")]
        files += data_files
    return sorted(files)


def _data_set(folder: Path, names: Sequence[str]) -> list[Path] | None:
    """The files of a Hugging Face data set saved to disk, whose folder holds caches and facts besides."""
    if "dataset_dict.json" in names:
        return [folder / name for name in names if not name.startswith((".", "dataset_dict."))]
    if not _DATA_SET.issubset(names):
        return None
    if not (folder / _STATE).is_file():
        return None
    try:
        with (folder / _STATE).open("rb") as stream:
            state = stream.read(_MAX_STATE_BYTES)
    except OSError as error:
        raise unreadable(f"{folder / _STATE}", error) from error
    listed = _listed_files(state, str(folder), names)
    files = None if listed is None else [folder / name for name in listed]
    for file in files or ():
        if not file.is_file():
            raise InputError(f"{file} is not a regular file, and {folder / _STATE} lists it: restore it")
    return files


def _listed_files(state: bytes, folder: str, names: Collection[str]) -> list[str] | None:
    """The names of the files that a data set's state lists; ``None`` if it is no such state.

    Whoever made a data set may list no file from anywhere else: only ``names``, which lie beside the state.
    """
    try:
        listed = [os.fspath(entry["filename"]) for entry in json.loads(state)["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    for name in listed:
        if not isinstance(name, str) or not name or name.startswith(".") or "/" in name:
            raise InputError(f"{folder}/{_STATE} lists {name!r}, which is not the name of a file beside it")
        if name not in names:
            raise InputError(f"{folder}/{name} is missing, and {folder}/{_STATE} lists it: restore it")
    return listed


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of this program, whose files are no text to read."""
    try:
        if not (folder / listing.STORE_FILE).is_file():  # a pipe would be waited for
            return False
        with (folder / listing.STORE_FILE).open("rb") as stream:
            return listing.is_manifest(stream.read(_HEAD_BYTES))
    except OSError:
        return False


def _refuse_folder(error: OSError) -> None:
    raise unreadable(str(error.filename), error) from error


def _source(path: Path, format_name: FormatName | None) -> Source | str:
    """A regular file as a source, or why it is none."""
    if _printable(path) != str(path):
        return "its name is not UTF-8: rename it"
    if (reason := _unknown_format(str(path), format_name)) is not None:
        return reason
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise unreadable(str(path), error) from error
    return _source_that_begins(head, str(path), format_name, status.st_size, status.st_mtime_ns)


def _unknown_format(name: str, format_name: FormatName | None) -> str | None:
    """Why a file's format is not known; ``None`` if it is."""
    if format_name is not None or (suffix := _suffix(name)) in FORMATS:
        return None
    return f"unknown format {suffix!r}" if suffix else "unknown format, no suffix"


def _suffix(name: str) -> str:
    """A name's suffix, before that of a compression."""
    path = PurePath(name)
    return (PurePath(path.stem) if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def _source_that_begins(
    head: bytes, name: str, format_name: FormatName | None, size: int, mtime_ns: int
) -> Source | str:
    kind = format_name or FORMATS[_suffix(name)]
    if head.startswith(_ZIP):
        return "a zip archive: unpack it first"
    compression = find_compression(PurePath(name), head)
    if compression and kind in TABLE_FORMATS:
        return f"{kind} files compress inside: decompress this one first ({compression})"
    return Source(name, kind, compression, size, mtime_ns)


# --- remote inputs --------------------------------------------------------------------------------


def _is_remote_input(given: str) -> bool:
    """Whether an input is a URL; no local file loses its name to one, even if a folder is called ``s3:``."""
    if not is_remote(given):
        return False
    matches = glob.glob(given, recursive=True) if glob.has_magic(given) else []  # noqa: PTH207 (takes any path)
    return not any(map(os.path.lexists, [given, *matches]))


def _add_remote(found: _Found, url: str) -> None:
    try:
        for entry in listing.named_by(url):
            if entry.is_folder:
                _add_remote_folder(found, entry.url.rstrip("/"))
            else:
                _check_new(found, entry.url)
                found.sources[entry.url] = _named_source(entry.url, _remote_source(entry, found.format))
    except OSError as error:
        raise unreadable(without_password(url), error) from error


def _add_remote_folder(found: _Found, folder: str) -> None:
    if listing.is_in_store(folder):
        found.left_out.append(f"{folder} (a ctxbatch store)")
        return
    folders, left_out = listing.folders_below(folder)
    found.left_out += left_out
    entries = [entry for place, files in folders.items() for entry in _remote_data_set(place, files)]
    entries.sort(key=lambda entry: entry.url.split("/"))  # as local ones are
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sources = list(pool.map(lambda entry: _remote_source(entry, found.format), entries))
    for entry, source in zip(entries, sources, strict=True):
        _check_new(found, entry.url)
        if isinstance(source, str):
            found.left_out.append(f"{entry.url} ({source})")
        else:
            found.sources[entry.url] = source
    if all(isinstance(source, str) for source in sources):
        found.left_out.append(f"{folder} (no file in it can be read)")


def _remote_data_set(folder: str, files: Mapping[str, Entry]) -> list[Entry]:
    """The files of a folder or, if it is a data set, those that are its data."""
    if "dataset_dict.json" in files:
        return [entry for name, entry in files.items() if not name.startswith("dataset_dict.")]
    if not _DATA_SET.issubset(files):
        return list(files.values())
    listed = _listed_files(read_file(f"{folder}/{_STATE}", _MAX_STATE_BYTES), folder, files)
    return list(files.values()) if listed is None else [files[name] for name in listed]


def _remote_source(entry: Entry, format_name: FormatName | None) -> Source | str:
    """An object as a source, or why it is none."""
    if (reason := _unknown_format(entry.url, format_name)) is not None:
        return reason
    head = read_file(entry.url, _HEAD_BYTES) if entry.size else b""
    return _source_that_begins(head, entry.url, format_name, entry.size, entry.mtime_ns)


def _check_new(found: _Found, name: str) -> None:
    if name in found.sources:
        raise InputError(f"{name} is named twice among the inputs: name it once")
