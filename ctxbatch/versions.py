"""Tells the versions of installed packages."""

import functools
from importlib import metadata


@functools.cache
def version_of(package: str) -> str:
    """Return the version of an installed package. A lookup takes a millisecond, so it is made once."""
    return metadata.version(package)
