"""Where a store is, by its name: in a folder of this machine, or on object storage."""

import re
from collections.abc import Mapping
from pathlib import Path

from ctxbatch.errors import InputError
from ctxbatch.filesystem import RemoteError, check_name, is_remote, without_password
from ctxbatch.store.bucket_location import BucketLocation
from ctxbatch.store.commits import Commit
from ctxbatch.store.folder_location import FolderLocation
from ctxbatch.store.manifest import SHARDS, Manifest, not_a_store

_SQUEEZED = re.compile(r"([a-z][a-z0-9+.-]+:)/[^/]")

StoreLocation = FolderLocation | BucketLocation


def location_of(out: str | Path) -> StoreLocation:
    """Where a store is, by its name.

    Raises:
        InputError: It is a URL that names nothing, or that has become a path.
    """
    if isinstance(out, Path) and (scheme := _SQUEEZED.match(str(out))):
        raise InputError(f"{out} is a path: give a URL as a string, {scheme[1]}//...")
    if not is_remote(str(out)):
        return FolderLocation(Path(out))
    try:
        check_name(str(out))
    except RemoteError as error:
        raise InputError(f"{without_password(str(out))}: {error.strerror}") from error
    return BucketLocation(str(out))


def damaged_shards(location: StoreLocation, manifest: Manifest, commits: Mapping[int, Commit]) -> list[str]:
    """Say which shards are there and do not count, one a line."""
    return [
        f"{location.out}/{SHARDS}/{shard:06d} is damaged: `ctxbatch verify {location.out}` says how"
        for shard in location.broken(manifest, commits)
    ]


def manifest_of(location: StoreLocation) -> Manifest:
    """The manifest of a store that has to be there.

    Raises:
        StoreError: It is not there, is damaged, or is of another format.
        ResourceError: The network fails, or access is denied.
    """
    manifest = location.manifest()
    if manifest is None:
        raise not_a_store(location.out)
    return manifest
