"""Opens the file system behind a URL: pyarrow's for S3, Google Cloud Storage, Azure and HDFS, else fsspec's.

Owns how often object storage is asked again. Raises whatever the libraries raise.
"""

import functools
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pyarrow import fs as arrow_fs

# pyarrow's own default is over in seconds; this many take a minute and a half.
_S3_ATTEMPTS = 9
# Google's library goes on trying for a quarter of an hour, unless it is told.
_GOOGLE = "?retry_limit_seconds=60"
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")


@functools.cache
def arrow_file_system(scheme: str, host: str) -> tuple[Any, str]:
    """Return pyarrow's file system behind a scheme and a host, and the path that names the host in it.

    Raises:
        pa.ArrowInvalid: It knows no such scheme.
        NotImplementedError: It was built without it.
    """
    root = f"{scheme}://{host}" + (_GOOGLE if scheme in ("gs", "gcs") else "")
    # Only the root is read as a URI: in an object's name ?, # and % stand for themselves.
    file_system, path = arrow_fs.FileSystem.from_uri(root)
    return _patient_s3(file_system) if file_system.type_name == "s3" else file_system, path


def _patient_s3(found: Any) -> Any:  # noqa: ANN401 (pyarrow has no types)
    """The same file system with more attempts, which a URI cannot ask for."""
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
    """Return fsspec's file system behind a URL as one of pyarrow's, and the path in it.

    Raises:
        ImportError: What it needs is not installed.
        ValueError: It knows no such scheme.
    """
    from fsspec.core import url_to_fs

    file_system, path = url_to_fs(url, use_listings_cache=False)
    return arrow_fs.PyFileSystem(_Handler(file_system)), path


class _Handler(arrow_fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """A file system of fsspec's with the times of its files.

    pyarrow's own handler knows no times, and passes over folders that cannot be listed.
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
