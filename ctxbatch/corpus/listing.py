"""What a URL names as an input: an object, the folder that a prefix makes, or what a pattern matches.

Owns how folders come of a flat list of objects, and which of them are passed over: hidden ones, and stores
of this program. Knows no formats.
"""

import errno
import glob
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from ctxbatch.corpus.store_marker import A_STORE, MANIFEST, is_remote_store
from ctxbatch.filesystem import Entry, RemoteError, list_folder, look_up

# Objects by the URL of their folder and their name in it.
Folders = dict[str, dict[str, Entry]]


def named_by(url: str) -> list[Entry]:
    """The object or folder of a name, or else, if it is a pattern, whatever matches it, sorted.

    Raises:
        RemoteError: There is none, or the file system fails.
    """
    try:
        return [look_up(url)]
    except RemoteError as error:
        if error.errno != errno.ENOENT or not glob.has_magic(url.split("/", 3)[-1]):
            raise
    if not (matches := list(_matches(url))):
        raise RemoteError(errno.ENOENT, "no object matches this pattern")
    # With ** a folder matches as well as what lies in it; that is not named twice by this.
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
    """All objects, and all folders from the root down to them."""
    entries = [entry for files in folders.values() for entry in files.values()]
    places = {place for folder in folders for place in (folder, *parents(folder)) if len(place) >= len(root)}
    return [*entries, *(Entry(place, 0, 0, is_folder=True) for place in places)]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name matches a pattern as local files' do: * stays in a folder, and ** does not."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and _fits(parts, pattern[1:]):
        return True
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    if pattern[0] == "**":
        return _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def folders_below(url: str) -> tuple[Folders, list[str]]:
    """The objects of a folder and of all below it, and what of them is left out, with the reason in brackets.

    Raises:
        RemoteError: The folder is not there, or cannot be listed.
    """
    root = url.rstrip("/")
    folders: Folders = {}
    left_out = []
    for entry in list_folder(root, recursive=True):
        parts = entry.url[len(root) + 1 :].split("/")
        if entry.is_folder or any(part.startswith(".") for part in parts):
            continue
        if "" in parts:  # which pyarrow does not open
            left_out.append(f"{entry.url} (a part of its name is empty: rename it)")
        else:
            folder, _, name = entry.url.rpartition("/")
            folders.setdefault(folder, {})[name] = entry
    stores = {folder for folder, files in folders.items() if MANIFEST in files and is_remote_store(folder)}
    left_out += [f"{folder} ({A_STORE})" for folder in stores if stores.isdisjoint(parents(folder))]
    kept = {name: files for name, files in folders.items() if stores.isdisjoint((name, *parents(name)))}
    return kept, sorted(left_out)


def is_in_store(folder: str) -> bool:
    """Whether a folder is a store or lies in one.

    Raises:
        RemoteError: The network fails.
    """
    folder = folder.rstrip("/")
    return any(map(is_remote_store, (folder, *parents(folder))))


def parents(url: str) -> list[str]:
    """The folders that a URL lies in, the nearest first, the bucket last."""
    parts = url.split("/")
    return ["/".join(parts[:number]) for number in range(len(parts) - 1, 2, -1)]
