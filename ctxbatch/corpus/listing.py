"""Resolves a URL input to an object, to a folder (a prefix), or to the matches of a pattern.

Owns how a flat list of objects becomes folders, and which of them are skipped: hidden ones, and stores of
this program. Knows no formats.
"""

import errno
import glob
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ctxbatch.corpus.store_marker import A_STORE, MANIFEST, is_remote_store
from ctxbatch.filesystem import Entry, RemoteError, list_folder, look_up

# Objects by the URL of their folder and their name in it.
Folders = dict[str, dict[str, Entry]]


class LeftOut(NamedTuple):
    """A file or folder that is not read, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def find_entries(url: str) -> list[Entry]:
    """Return the object or folder with this name, or else the sorted matches of a pattern.

    Raises:
        RemoteError: Nothing matches, or the file system fails.
    """
    try:
        return [look_up(url)]
    except RemoteError as error:
        if error.errno != errno.ENOENT or not glob.has_magic(url.split("/", 3)[-1]):
            raise
    if not (matches := list(_matches(url))):
        raise RemoteError(errno.ENOENT, "no object matches this pattern")
    # ** matches a folder and also what lies in it: keep only the folder.
    folders = {match.url for match in matches if match.is_folder}
    return sorted(match for match in matches if folders.isdisjoint(parents(match.url)))


def _matches(url: str) -> Iterator[Entry]:
    parts = url.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root, pattern = "/".join(parts[:first]), [part for part in parts[first:] if part]
    if is_in_store(root):
        return
    if len(pattern) == 1 and pattern != ["**"]:
        candidates = list_folder(root, recursive=False)
    else:
        candidates = _with_folders(root, folders_below(root)[0])
    for entry in candidates:
        if _fits(entry.url[len(root) + 1 :].split("/") if entry.url != root else [], pattern):
            yield entry


def _with_folders(root: str, folders: Folders) -> list[Entry]:
    """Return all objects, and all folders from the root down to them."""
    entries = [entry for files in folders.values() for entry in files.values()]
    places = {place for folder in folders for place in (folder, *parents(folder)) if len(place) >= len(root)}
    return [*entries, *(Entry(place, 0, 0, is_folder=True) for place in places)]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return True if a name matches a pattern as local files do: * stays in a folder, ** does not."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and _fits(parts, pattern[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    if pattern[0] == "**":
        return _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def folders_below(url: str) -> tuple[Folders, list[LeftOut]]:
    """Return the objects in and below a folder, and what is left out.

    Raises:
        RemoteError: The folder does not exist, or cannot be listed.
    """
    root = url.rstrip("/")
    folders: Folders = {}
    left_out = []
    for entry in list_folder(root, recursive=True):
        parts = entry.url[len(root) + 1 :].split("/")
        if entry.is_folder or any(part.startswith(".") for part in parts):
            continue
        if "" in parts:  # pyarrow does not open such a name
            left_out.append(LeftOut(entry.url, "a part of its name is empty: rename it"))
        else:
            folder, _, name = entry.url.rpartition("/")
            folders.setdefault(folder, {})[name] = entry
    stores = {folder for folder, files in folders.items() if MANIFEST in files and is_remote_store(folder)}
    left_out += [LeftOut(folder, A_STORE) for folder in stores if stores.isdisjoint(parents(folder))]
    kept = {name: files for name, files in folders.items() if stores.isdisjoint((name, *parents(name)))}
    return kept, sorted(left_out)


def is_in_store(folder: str) -> bool:
    """Return True if a folder is a store or lies in one.

    Raises:
        RemoteError: The network fails.
    """
    folder = folder.rstrip("/")
    return any(map(is_remote_store, (folder, *parents(folder))))


def parents(url: str) -> list[str]:
    """Return the folders that a URL lies in, from the nearest to the bucket."""
    parts = url.split("/")
    return ["/".join(parts[:number]) for number in range(len(parts) - 1, 2, -1)]
