"""Finds a store by its name, a local folder or a URL of object storage, and reads its manifest."""

import re
from collections.abc import Mapping
from pathlib import Path

from ctxbatch.errors import InputError
from ctxbatch.filesystem import check_name, is_remote, naming, without_password
from ctxbatch.store.bucket_location import BucketLocation
from ctxbatch.store.commits import Commit
from ctxbatch.store.folder_location import FolderLocation
from ctxbatch.store.manifest import SHARDS, Manifest, not_a_store

# A URL that `Path` has shortened: "s3://bucket" becomes "s3:/bucket".
_URL_AS_PATH = re.compile(r"([a-z][a-z0-9+.-]+:)/[^/]")

StoreLocation = FolderLocation | BucketLocation


def location_of(out: str | Path) -> StoreLocation:
    """Return the location of a store from its name.

    Raises:
        InputError: The name is a malformed URL, or a URL given as a `Path`.
    """
    if isinstance(out, Path) and (scheme := _URL_AS_PATH.match(str(out))):
        raise InputError(f"{out} is a path: give a URL as a string, {scheme[1]}//...")
    if not is_remote(str(out)):
        return FolderLocation(Path(out))
    with naming(without_password(str(out))):
        check_name(str(out))
    return BucketLocation(str(out))


def damaged_shards(location: StoreLocation, manifest: Manifest, commits: Mapping[int, Commit]) -> list[str]:
    """Return a line for each shard that exists but does not count."""
    return [
        f"{location.out}/{SHARDS}/{shard:06d} is damaged: run `ctxbatch verify {location.out}` for details"
        for shard in location.broken(manifest, commits)
    ]


def manifest_of(location: StoreLocation) -> Manifest:
    """Return the manifest of an existing store.

    Raises:
        StoreError: The manifest is missing, damaged, or of another format.
        ResourceError: The network fails, or access is denied.
    """
    manifest = location.manifest()
    if manifest is None:
        raise not_a_store(location.out)
    return manifest
