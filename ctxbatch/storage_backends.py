"""Opens the file system behind a URL: pyarrow's for S3, Google Cloud Storage, Azure and HDFS, else fsspec's.

Owns the number of retries. Raises whatever the libraries raise.
"""

import functools
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pyarrow import fs as arrow_fs

# pyarrow's default gives up within seconds; nine attempts take a minute and a half.
_S3_ATTEMPTS = 9
# By default Google's library retries for a quarter of an hour.
_GOOGLE = "?retry_limit_seconds=60"
# The variables that say which server, and with which credentials.
_ACCESS = ("AWS_", "GOOGLE_")
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")


def arrow_file_system(scheme: str, host: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a scheme and a host, and the host's path in it.

    Raises:
        pa.ArrowInvalid: pyarrow does not know the scheme.
        NotImplementedError: pyarrow was built without the scheme.
    """
    access = tuple(item for item in os.environ.items() if item[0].startswith(_ACCESS))
    return _opened(scheme, host, access)


@functools.cache
def _opened(scheme: str, host: str, _access: tuple[tuple[str, str], ...]) -> tuple[Any, str]:
    """Return what `arrow_file_system` does, once for the same endpoint and credentials."""
    root = f"{scheme}://{host}" + (_GOOGLE if scheme in ("gs", "gcs") else "")
    # Only the root is parsed as a URI: in an object's name, ?, # and % are ordinary characters.
    file_system, path = arrow_fs.FileSystem.from_uri(root)
    return _patient_s3(file_system) if file_system.type_name == "s3" else file_system, path


def _patient_s3(found: Any) -> Any:  # noqa: ANN401 (pyarrow has no types)
    """Return the same file system with more attempts, which a URI cannot set."""
    attempts = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return arrow_fs.S3FileSystem(
        region=found.region or None,
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        allow_delayed_open=True,  # small objects in one request rather than three
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(
            max_attempts=int(attempts) if attempts.isdigit() else _S3_ATTEMPTS
        ),
    )


def fsspec_file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system behind a URL, wrapped for pyarrow, and the path in it.

    Raises:
        ImportError: A library that it needs is not installed.
        ValueError: fsspec does not know the scheme.
    """
    from fsspec.core import url_to_fs

    file_system, path = url_to_fs(url, use_listings_cache=False)
    return arrow_fs.PyFileSystem(_Handler(file_system)), path


class _Handler(arrow_fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """An fsspec file system that reports modification times.

    pyarrow's own handler reports none, and skips folders that cannot be listed.
    """

    def get_file_info(self, paths: list[str]) -> list[Any]:
        return [self._look_up(path) for path in paths]

    def _look_up(self, path: str) -> Any:  # noqa: ANN401 (pyarrow has no types)
        try:
            return _file_info(self.fs.info(path))
        except FileNotFoundError:
            return arrow_fs.FileInfo(path, arrow_fs.FileType.NotFound)

    def get_file_info_selector(self, selector: Any) -> list[Any]:  # noqa: ANN401 (pyarrow has no types)
        depth = None if selector.recursive else 1
        found = []
        for _, folders, files in self.fs.walk(selector.base_dir, depth, detail=True, on_error="raise"):
            found += [_file_info(facts) for facts in [*folders.values(), *files.values()]]
        return found


def _file_info(facts: Mapping[str, Any]) -> Any:  # noqa: ANN401 (pyarrow has no types)
    if facts["type"] == "directory":
        return arrow_fs.FileInfo(facts["name"], arrow_fs.FileType.Directory)
    time = next((facts[name] for name in _TIMES if isinstance(facts.get(name), datetime | float | int)), None)
    if isinstance(time, float | int):
        time = datetime.fromtimestamp(time, UTC)
    return arrow_fs.FileInfo(facts["name"], arrow_fs.FileType.File, size=facts["size"], mtime=time)
