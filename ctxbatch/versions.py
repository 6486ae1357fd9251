"""Tells the versions of installed packages."""

import functools
from importlib import metadata


@functools.cache
def version_of(package: str) -> str:
    """Return the version of an installed package; to look it up anew would take a millisecond each time."""
    return metadata.version(package)
