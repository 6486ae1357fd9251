"""The files behind the inputs: folders, globs and data sets, each file with its format.

Owns which suffix means which format, and what is left out of a folder. Reads no text.
"""

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctxbatch.errors import InputError
from ctxbatch.streams import COMPRESSIONS, find_compression

FORMATS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TABLE_FORMATS = ("parquet", "arrow")
_HEAD_BYTES = 16
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Source:
    """An input file: its path as given, how it is to be read, and the size and time it had when planned.

    ``encoding`` is ``None`` for tables; ``columns`` are those of the header of a CSV or TSV file.
    """

    path: str
    format: str
    compression: str | None
    size: int
    mtime_ns: int
    encoding: str | None = None
    columns: tuple[str, ...] | None = None

    @property
    def is_table(self) -> bool:
        """Whether it is an Arrow or Parquet file, whose records have rows and no bytes."""
        return self.format in TABLE_FORMATS


@dataclass(slots=True)
class _Found:
    """What has been found so far: sources by their real path, and what folders hold besides."""

    out: Path
    format: str | None
    sources: dict[Path, Source] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def is_written_by_us(self, path: Path) -> bool:
        """Whether a path is the store that is being made, another one, or in one."""
        places = (path.resolve(), *path.resolve().parents)
        return self.out in places or any(is_store(place) for place in places)


def find_sources(
    inputs: Sequence[str | Path], out: Path, format_name: str | None = None
) -> tuple[list[Source], list[str]]:
    """List the files behind the inputs; folders are walked recursively, in sorted order.

    Args:
        inputs: Files, folders and glob patterns, as the user named them.
        out: The store's folder, which is never read as input.
        format_name: The format of all files, whatever their suffixes say.

    Returns:
        The sources, and what was left out of folders, each with the reason in brackets. Hidden files are
        passed over.

    Raises:
        InputError: An input is missing, unreadable, of an unknown format or named twice, or there are none.
    """
    found = _Found(out.resolve(), format_name)
    for given in inputs:
        if not str(given):
            raise InputError("an input is empty: name a file or a folder")
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
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _add_file(found: _Found, path: Path) -> None:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file: write its text to a file first")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if (real := path.resolve()) in found.sources:
        raise InputError(f"{path} is named twice among the inputs: name it once")
    source = _source(path, found.format)
    if isinstance(source, str):
        hint = "; if it holds JSON lines, say --format jsonl" if path.suffix.lower() == ".json" else ""
        known = (
            f"; known are {_known_formats()}; --format names one{hint}"
            if source.startswith("unknown")
            else ""
        )
        raise InputError(f"{path}: {source}{known}")
    found.sources[real] = source


def _add_folder(found: _Found, folder: Path) -> None:
    inside: dict[Path, Source] = {}
    for path in _walk(found, folder):
        if not path.is_file():
            what = "a broken link" if path.is_symlink() and not path.exists() else "no regular file"
            found.left_out.append(f"{path} ({what})")
        elif (real := path.resolve()) in inside:
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
    if "state.json" not in names or "dataset_info.json" not in names:
        return None
    try:
        state = json.loads((folder / "state.json").read_bytes())
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is missing, and {folder / 'state.json'} lists it: restore it")
    return files


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of this program, whose files are no text to read."""
    try:
        with (folder / "manifest.json").open("rb") as stream:
            return b'"ctxbatch store"' in stream.read(200)
    except OSError:
        return False


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


def _source(path: Path, format_name: str | None) -> Source | str:
    """A regular file as a source, or why it is none."""
    if _printable(path) != str(path):
        return "its name is not UTF-8: rename it"
    compressed = path.suffix.lower() in COMPRESSIONS
    suffix = (Path(path.stem) if compressed else path).suffix.lower()
    name = format_name or FORMATS.get(suffix)
    if name is None:
        return f"unknown format {suffix!r}" if suffix else "unknown format, no suffix"
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(_ZIP):
        return "a zip archive: unpack it first"
    compression = find_compression(path, head)
    if compression and name in TABLE_FORMATS:
        return f"{name} files compress inside: decompress this one first ({compression})"
    return Source(str(path), name, compression, status.st_size, status.st_mtime_ns)


def current_size(source: Source) -> int | None:
    """The size of a source now; ``None`` where it is not there."""
    try:
        return Path(source.path).stat().st_size
    except OSError:
        return None
