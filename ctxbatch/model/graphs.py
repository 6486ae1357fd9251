"""Keeps the OpenVINO graphs of models in the user's cache: made once, checked by checksum before use.

Graphs hold all layers in fp32, so one conversion serves every choice of layers, vectors and precision. A
process of its own converts, which needs torch and transformers; whoever runs graphs needs neither.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctxbatch.errors import CtxbatchError, InputError, ResourceError, StoreError
from ctxbatch.files import cache_folder, sync, temporary_name, write_json
from ctxbatch.model.hub import ModelFolder
from ctxbatch.sealed import canonical_json, file_digest, read_json
from ctxbatch.versions import version_of

log = logging.getLogger("ctxbatch")
EMBEDDING, LAYERS = "embedding", "layers"
_FILES = tuple(f"{name}.{suffix}" for name in (EMBEDDING, LAYERS) for suffix in ("xml", "bin"))
_RECORD = "graphs.json"
# The modules that decide what is in a graph.
_SOURCES = ("graph_conversion.py",)
_KEPT_BYTES = 5 << 30  # five times bert-large
# What the conversion's process ends with where OpenVINO has no rule for something in the model.
UNSUPPORTED = 9
# What it says when the files of the model have been found to fit each other.
CHECKED = "ctxbatch: checked\n"


class ConversionError(CtxbatchError):
    """OpenVINO cannot convert the model."""


def import_openvino() -> Any:  # noqa: ANN401 (OpenVINO has no types)
    """Import OpenVINO without its telemetry, which would send an event at once."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so that its import fails
    import openvino

    return openvino


def graphs_folder(model: ModelFolder) -> Path:
    """Return where the graphs of a model are, or will be, on this machine."""
    versions = {name: version_of(name) for name in ("openvino", "torch", "transformers")}
    here = Path(__file__).parent
    code = hashlib.sha256(b"".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()
    parts = {"weights": model.weights_digest(), "config": model.config_digest(), "code": code, **versions}
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:24]
    return cache_folder() / "graphs" / key


def find_graphs(model: ModelFolder) -> Path:
    """Return the folder of a model's graphs, converted now if they are not there or damaged.

    Raises:
        ConversionError: OpenVINO cannot convert the model, or there is no cache.
        InputError: The model cannot be loaded.
        ResourceError: The cache cannot be read or written, or memory is short.
    """
    try:
        folder = graphs_folder(model)
    except ResourceError as error:  # a user without a home
        raise ConversionError(f"{model.name} cannot be converted: {error}") from error
    try:
        if not _is_intact(folder):
            with _one_at_a_time(folder.parent):
                if not _is_intact(folder):
                    _make(model, folder)
    except OSError as error:
        remedy = "fix that, or set XDG_CACHE_HOME to another folder"
        raise ResourceError(f"{error.filename or folder.parent}: {error.strerror}: {remedy}") from error
    with contextlib.suppress(OSError):  # the ones used least recently are removed first
        os.utime(folder)
    return folder


def _is_intact(folder: Path) -> bool:
    try:
        digests = read_json(folder / _RECORD)
        return all(digests.get(name) == file_digest(folder / name) for name in _FILES)
    except (FileNotFoundError, StoreError):
        return False


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let others wait for the graphs that are being made, such as other workers of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: they are made twice
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(model: ModelFolder, folder: Path) -> None:
    for left in folder.parent.glob(temporary_name(folder.name, "*")):  # by killed processes
        shutil.rmtree(left, ignore_errors=True)
    beside = folder.with_name(temporary_name(folder.name))
    beside.mkdir()
    try:
        _convert(model, beside)
        for name in _FILES:
            sync(beside / name)
        write_json(beside / _RECORD, {name: file_digest(beside / name) for name in _FILES})
        shutil.rmtree(folder, ignore_errors=True)
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _remove_oldest(folder.parent)


def _convert(model: ModelFolder, out: Path) -> None:
    """Convert a model in a process of its own, which also keeps what the model's files say."""
    command = [sys.executable, "-P", "-m", "ctxbatch.model.graph_conversion", model.name]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, str(model.path), str(out)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            for line in process.stdout or ():
                if line == CHECKED:
                    log.info("converting %s for this machine's CPU: takes some seconds, once", model.name)
            process.wait()
        finally:
            process.kill()  # if this process is told to stop
            process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode:
        log.debug("conversion failed: %s", said)
        last = (said.strip().splitlines() or [f"status {process.returncode}"])[-1]
        kind = _failure(process.returncode)
        raise kind(last if kind is InputError else f"{model.name} cannot be converted: {last}")


def _failure(status: int) -> type[CtxbatchError]:
    """Return the kind of error that ended a conversion: the model's own, or this machine's."""
    return {UNSUPPORTED: ConversionError, InputError.exit_status: InputError}.get(status, ResourceError)


def _remove_oldest(folder: Path) -> None:
    """Remove the graphs used least recently, as far as all together are too large; never the last ones."""
    with contextlib.suppress(OSError):  # those that stay cost only room
        folders = [each for each in folder.iterdir() if (each / _RECORD).exists()]
        total = 0
        for number, each in enumerate(sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)):
            total += sum(file.stat().st_size for file in each.iterdir())
            if number and total > _KEPT_BYTES:
                shutil.rmtree(each, ignore_errors=True)
