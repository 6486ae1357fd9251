"""Picks the data files of a folder, without caches and metadata such as those of Hugging Face data sets."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath

from ctxbatch.corpus.formats.json_records import has_json_field
from ctxbatch.corpus.read_errors import DamagedError, unreadable
from ctxbatch.corpus.sources import Source, suffix_of
from ctxbatch.corpus.streams import ByteStream
from ctxbatch.errors import InputError
from ctxbatch.filesystem import Entry, read_file

_STATE = "state.json"
_MAX_STATE_BYTES = 64 << 20
_DATA_SET = {_STATE, "dataset_info.json"}
_DICT = "dataset_dict.json"
# What ``map``, ``filter``, ``shuffle`` and the like leave beside the data.
_CACHE = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")
A_CACHE = "a cache of Hugging Face datasets"
_DESCRIPTIONS = ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "CITATION")
_MAX_OBJECT_BYTES = 1 << 20


def is_cache(name: str) -> bool:
    """Return True if a file of this name is a cache of Hugging Face datasets."""
    return _CACHE.fullmatch(name) is not None


def describes_data(path: str) -> bool:
    """Return True if a text of this name, such as README.md, describes the data beside it."""
    return PurePath(path).name.partition(".")[0].upper() in _DESCRIPTIONS


def lacks_field(source: Source, field: str) -> bool:
    """Return True if a file is a single JSON object without a field, as metadata are.

    Raises:
        InputError: The file cannot be opened.
        ResourceError: The disk, the network or a permission prevents reading.
    """
    if suffix_of(source.path) != ".json" or source.size > _MAX_OBJECT_BYTES:
        return False
    stream = ByteStream(source.path, source.compression)
    data = bytearray()
    try:
        while len(data) <= _MAX_OBJECT_BYTES and (more := stream.read(_MAX_OBJECT_BYTES)):
            data += more
        value = json.loads(data)
    except (DamagedError, ValueError, RecursionError):
        return False
    finally:
        stream.close()
    return isinstance(value, dict) and not has_json_field(value, field)


def local_data_files(folder: Path, names: Sequence[str]) -> list[Path] | None:
    """Return the data files of a folder that is a data set, or holds some; ``None`` for other folders.

    Args:
        folder: The folder.
        names: The names of the files in it.

    Raises:
        InputError: The data set lists a file that is missing, or not beside the list.
        ResourceError: The disk or a permission does not let its list be read.
    """
    if _DICT in names:
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
            raise InputError(f"{folder / _STATE} lists {file}, which is not a regular file: restore it")
    return files


def remote_data_files(folder: str, files: Mapping[str, Entry]) -> list[Entry]:
    """Return the data files of a remote data set, or all files of any other remote folder.

    Args:
        folder: The folder's URL.
        files: The objects in it, by name.

    Raises:
        InputError: The data set lists a file that is missing, or not beside the list.
        RemoteError: The network fails.
    """
    if _DICT in files:
        return [entry for name, entry in files.items() if not name.startswith("dataset_dict.")]
    if not _DATA_SET.issubset(files):
        return list(files.values())
    listed = _listed_files(read_file(f"{folder}/{_STATE}", _MAX_STATE_BYTES), folder, files)
    return list(files.values()) if listed is None else [files[name] for name in listed]


def _listed_files(state: bytes, folder: str, names: Collection[str]) -> list[str] | None:
    """Return the file names that a data set's state lists; ``None`` if it is not a valid state.

    A data set may list only ``names``, the files beside its state, and no file from anywhere else.
    """
    try:
        listed = [os.fspath(entry["filename"]) for entry in json.loads(state)["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    for name in listed:
        if not isinstance(name, str) or not name or name.startswith(".") or "/" in name:
            raise InputError(f"{folder}/{_STATE} lists {name!r}, which is not the name of a file beside it")
        if name not in names:
            raise InputError(f"{folder}/{_STATE} lists {folder}/{name}, which is missing: restore it")
    return listed
