"""Finds the files behind the inputs: files, folders and patterns, local and remote.

Owns which files of a folder are left out.
"""

import glob
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ctxbatch.choices import FormatName
from ctxbatch.corpus import listing
from ctxbatch.corpus.data_sets import (
    A_CACHE,
    describes_data,
    is_cache,
    lacks_field,
    local_data_files,
    remote_data_files,
)
from ctxbatch.corpus.listing import LeftOut
from ctxbatch.corpus.read_errors import unreadable
from ctxbatch.corpus.source_files import real_place
from ctxbatch.corpus.sources import UNKNOWN, Source, known_formats, local_source, printable, remote_source
from ctxbatch.corpus.store_marker import A_STORE, is_store
from ctxbatch.errors import InputError
from ctxbatch.filesystem import Entry, is_remote, without_password

log = logging.getLogger("ctxbatch")
# Objects whose first bytes are requested at the same time.
_AT_ONCE = 16
# Why a file is left out, followed by the pattern.
EXCLUDED = "--exclude"
_NOTHING_INSIDE = "no file in it can be read"


@dataclass(slots=True)
class _Found:
    """The sources found so far, by real path, and what was left out of folders."""

    out: Path
    format: FormatName | None
    text_field: str
    exclude: Sequence[str] = ()
    sources: dict[str, Source] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    useful: set[str] = field(default_factory=set)

    def is_in_store(self, path: Path) -> bool:
        """Return True if a path is, or lies in, the store of this run or another one."""
        places = (path.resolve(), *path.resolve().parents)
        return self.out in places or any(is_store(place) for place in places)

    def leave_out(self, name: object, why: str) -> None:
        """Record a file or folder that is not read, and why."""
        self.left_out.append(LeftOut(str(name), why))

    def excludes(self, path: Path | str) -> bool:
        """Return True, and record it, if a file or folder is to be left out by its path or the end of it."""
        for pattern in self.exclude:
            if _matches_end(path, pattern):
                self.useful.add(pattern)
                self.leave_out(printable(path), f"{EXCLUDED} {pattern}")
                return True
        return False

    def check_new(self, real: str, name: object) -> None:
        """Raise an error if another input already named this file."""
        if real in self.sources:
            raise InputError(f"{name} is given twice among the inputs: give it once")


def _matches_end(path: Path | str, pattern: str) -> bool:
    """Return True if a path or its end matches a pattern, or is the pattern itself, with brackets perhaps."""
    if pattern.startswith("/"):
        path = Path(path).absolute()
    while pattern.startswith("**/"):  # as every pattern may stand below any folders
        pattern = pattern[3:]
    return PurePath(path).match(pattern) or f"/{path}".endswith(f"/{pattern.rstrip('/')}")


def find_sources(
    inputs: Sequence[str | Path],
    out: Path,
    format_name: FormatName | None = None,
    text_field: str = "text",
    exclude: Sequence[str] = (),
) -> tuple[list[Source], list[LeftOut]]:
    """Return the files behind the inputs. Walk folders recursively, in sorted order.

    Args:
        inputs: Files, folders and glob patterns as the user gave them, local or remote.
        out: The store's folder, which is never read as input.
        format_name: The format of all files; overrides their suffixes.
        text_field: The field with the text; a JSON object without it describes the data beside it.
        exclude: Patterns of the paths of files and folders that are left out, or of the ends of paths.

    Returns:
        The sources, and what was left out of folders. Hidden files are skipped.

    Raises:
        InputError: An input is missing, unreadable, of an unknown format or given twice, or none is given.
        ResourceError: The network fails.
    """
    if not inputs:
        raise InputError("no input given: name one or more files or folders")
    found = _Found(out.resolve(), format_name, text_field, exclude)
    for given in inputs:
        _add_input(found, given)
    if not found.sources:
        where = ", ".join(map(str, inputs))
        besides = " besides what --exclude leaves out" if found.useful else ""
        raise InputError(f"{where} holds no file that can be read{besides} ({known_formats()})")
    if not sum(source.size for source in found.sources.values()):
        raise InputError(f"the inputs are empty: {', '.join(map(str, inputs))}")
    for pattern in exclude:
        if pattern not in found.useful:
            log.warning("--exclude %s leaves nothing out: no path in the inputs matches it", pattern)
    return list(found.sources.values()), found.left_out


def _add_input(found: _Found, given: str | Path) -> None:
    if not str(given):
        raise InputError("an input is empty: name a file or a folder")
    if _is_remote_input(str(given)):
        _add_remote(found, str(given))
        return
    path = Path(given)
    if not glob.has_magic(str(path)) or os.path.lexists(path):
        _add(found, path)
        return
    for match in _matches(path):
        if not found.is_in_store(match) and not any(map(found.excludes, _folders_of(str(path), str(match)))):
            _add(found, match)


def _folders_of(pattern: str, match: str) -> list[str]:
    """Return the folders of a match that its pattern does not name plainly."""
    named = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.split("/")))
    parts = match.rstrip("/").split("/")
    return ["/".join(parts[:number]) for number in range(len(named) + 1, len(parts))]


def _matches(pattern: Path) -> list[Path]:
    """Return the paths that match a pattern, sorted."""
    matches = [Path(m) for m in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207 (takes any path)
    if not matches:
        raise InputError(f"{pattern}: no file matches this pattern")
    # ** matches a folder and also the files in it: keep only the folder.
    folders = {match for match in matches if match.is_dir()}
    return [match for match in matches if folders.isdisjoint(match.parents)]


def _add(found: _Found, path: Path) -> None:
    if found.excludes(path):
        return
    if not _is_folder(path):
        _add_file(found, path)
    elif found.is_in_store(path):
        found.leave_out(path, A_STORE)
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
    real = real_place(str(path))
    found.check_new(real, path)
    found.sources[real] = _named_source(str(path), local_source(path, found.format))


def _named_source(name: str, source: Source | str) -> Source:
    """Return ``source``; raise an error if it is the reason why the named file is not one."""
    if not isinstance(source, str):
        return source
    known = f"; known suffixes: {known_formats()}; or set --format" if source.startswith(UNKNOWN) else ""
    raise InputError(f"{name}: {source}{known}")


def _add_folder(found: _Found, folder: Path) -> None:
    inside: dict[str, Source] = {}
    for path in _walk(found, folder):
        if not path.is_file():
            what = "a broken link" if path.is_symlink() and not path.exists() else "not a regular file"
            found.leave_out(path, what)
        elif (real := real_place(str(path))) in inside:
            found.leave_out(path, f"the same file as {inside[real].path}")
        else:
            found.check_new(real, path)
            source = local_source(path, found.format)
            if isinstance(source, str):
                found.leave_out(printable(path), source)
            elif lacks_field(source, found.text_field):
                found.leave_out(path, f"one JSON object without the field {found.text_field!r}")
            else:
                inside[real] = source
    _add_inside(found, folder, inside)


def _add_inside(found: _Found, folder: str | Path, inside: Mapping[str, Source]) -> None:
    """Add the sources of a folder, without the texts that describe data beside them."""
    is_data = any(source.format != "txt" for source in inside.values())
    for real, source in inside.items():
        if is_data and source.format == "txt" and describes_data(source.path):
            found.leave_out(source.path, "describes the data beside it")
        else:
            found.sources[real] = source
    if not inside:
        found.leave_out(folder, _NOTHING_INSIDE)


def _walk(found: _Found, folder: Path) -> list[Path]:
    """Return the files below a folder, sorted. Follow links, but enter each folder once."""
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
            found.leave_out(here, A_STORE)
            continue
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not found.excludes(here / name)
        )
        for name in sorted(filter(is_cache, names)):
            found.leave_out(here / name, A_CACHE)
        names = [name for name in names if not is_cache(name)]
        data_files = local_data_files(here, names)
        if data_files is None:
            data_files = [here / name for name in names if not name.startswith(".")]
        files += [file for file in data_files if not found.excludes(file)]
    return sorted(files)


def _refuse_folder(error: OSError) -> None:
    raise unreadable(str(error.filename), error) from error


# --- remote inputs --------------------------------------------------------------------------------


def _is_remote_input(given: str) -> bool:
    """Return True if an input is a URL. An existing local file wins, even in a folder called ``s3:``."""
    if not is_remote(given):
        return False
    matches = glob.glob(given, recursive=True) if glob.has_magic(given) else []  # noqa: PTH207 (takes any path)
    return not any(map(os.path.lexists, [given, *matches]))


def _add_remote(found: _Found, url: str) -> None:
    try:
        for entry in listing.find_entries(url):
            folders = _folders_of(url, entry.url)
            if any(map(found.excludes, [*folders, entry.url.rstrip("/")])):
                continue
            if entry.is_folder:
                _add_remote_folder(found, entry.url.rstrip("/"))
            else:
                found.check_new(entry.url, entry.url)
                found.sources[entry.url] = _named_source(entry.url, remote_source(entry, found.format))
    except OSError as error:
        raise unreadable(without_password(url), error) from error


def _not_excluded(found: _Found, root: str, folders: listing.Folders) -> listing.Folders:
    """Return the objects below a folder without those that lie in excluded folders."""
    excluded: set[str] = set()
    kept: listing.Folders = {}
    for place in sorted(folders):
        above = [each for each in (*reversed(listing.parents(place)), place) if len(each) > len(root)]
        if any(each in excluded for each in above):
            continue
        if (outermost := next(filter(found.excludes, above), None)) is not None:
            excluded.add(outermost)
        else:
            kept[place] = folders[place]
    return kept


def _add_remote_folder(found: _Found, folder: str) -> None:
    if listing.is_in_store(folder):
        found.leave_out(folder, A_STORE)
        return
    folders, left_out = listing.folders_below(folder)
    found.left_out += left_out
    entries: list[Entry] = []
    for place, files in _not_excluded(found, folder, folders).items():
        caches = {name for name in files if is_cache(name)}
        found.left_out += [LeftOut(f"{place}/{name}", A_CACHE) for name in sorted(caches)]
        entries += remote_data_files(place, {name: files[name] for name in files if name not in caches})
    entries = [entry for entry in entries if not found.excludes(entry.url)]
    entries.sort(key=lambda entry: entry.url.split("/"))  # as local ones are
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sources = list(pool.map(lambda entry: remote_source(entry, found.format), entries))
    inside: dict[str, Source] = {}
    for entry, source in zip(entries, sources, strict=True):
        found.check_new(entry.url, entry.url)
        if isinstance(source, str):
            found.leave_out(entry.url, source)
        elif lacks_field(source, found.text_field):
            found.leave_out(entry.url, f"one JSON object without the field {found.text_field!r}")
        else:
            inside[entry.url] = source
    _add_inside(found, folder, inside)
