"""Compiles models, once per configuration and kind of CPU, and keeps the programs in the user's cache.

A program computes the stored columns from token ids, for batches of any shape. torch's inductor compiles it
ahead of time, with weights frozen and packed for the CPU. This takes about a minute, in another process:
``python -m ctxbatch.model.compiling PROGRAM``, which reads the configuration from standard input.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import CtxbatchError
from ctxbatch.files import cache_folder, process_name
from ctxbatch.model.hub import find_model
from ctxbatch.sealed import canonical_json

log = logging.getLogger("ctxbatch")
# The fields of the configuration that decide the program; the others decide only its input.
_FIELDS = (
    "layers",
    "vectors",
    "static",
    "shift",
    "floor",
    "delta",
    "pool",
    "salience_layer",
    "salience_head",
    "dtype",
    "precision",
)
# The modules that decide what a program does.
_COMPILED_FILES = ("compiling", "../config", "encoder", "pooling", "program", "resolve", "salience", "shift")
_KEPT = 4


class CompilingError(CtxbatchError):
    """The compiler cannot make the program."""


def program_path(config: ResolvedConfig) -> Path:
    """Return where the program for a configuration is, or will be, on this kind of machine."""
    import torch

    fields = config.as_dict()
    parts = {
        **{name: fields[name] for name in _FIELDS},
        "keeps_some": config.kept_by_model is not None,
        "digests": fields["digests"],
        "torch": torch.__version__,
        "cpu": sorted(name for name, able in torch.cpu.get_capabilities().items() if able is True),
        "code": _code_digest(),
    }
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:24]
    return cache_folder() / "compiled" / f"{key}.so"


def _code_digest() -> str:
    """Return the sha256 of the modules that are compiled into a program, and of transformers' version."""
    from importlib import metadata

    folder = Path(__file__).parent
    sources = b"".join((folder / f"{name}.py").read_bytes() for name in _COMPILED_FILES)
    return hashlib.sha256(sources + metadata.version("transformers").encode()).hexdigest()


def make_program(config: ResolvedConfig, model: Path | None = None) -> Path:
    """Return the program for a configuration; make it if it does not exist.

    Args:
        config: The resolved configuration.
        model: The folder of its model; found by its name if not given.

    Raises:
        CompilingError: The compiler fails, or the cache cannot be written.
    """
    program = program_path(config)
    try:
        if program.exists():
            os.utime(program)  # the least recently used are removed first
        else:
            log.info("compiling %s for this CPU: this takes about a minute, once", config.model)
            with _one_at_a_time(program.parent):
                if not program.exists():
                    _make(config, program, model)
    except OSError as error:
        raise CompilingError(f"{program.parent} cannot be written to: {error.strerror}") from error
    return program


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait while another process, such as an actor on the same node, makes a program."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        with contextlib.suppress(OSError):  # without locks, the program is made twice
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(config: ResolvedConfig, program: Path, model: Path | None) -> None:
    beside = program.with_name(f".{program.stem}.{process_name()}.so")
    with tempfile.TemporaryDirectory(prefix="ctxbatch-") as scratch:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": scratch, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "ctxbatch.model.compiling", str(beside)]
        command += [] if model is None else [str(model)]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(config.as_dict()),  # too long for an argument
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
                log.debug("compiling failed: %s", done.stderr)
                raise CompilingError(f"{config.model} cannot be compiled: {last}")
            beside.replace(program)
        finally:
            beside.unlink(missing_ok=True)
    _remove_oldest(program.parent)


def _remove_oldest(folder: Path) -> None:
    programs = sorted(folder.glob("*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
    for program in programs[_KEPT:]:
        program.unlink(missing_ok=True)


def _compile(config: ResolvedConfig, program: Path, folder: str | None) -> None:
    """Export the model for batches of every shape, and compile it."""
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch.export import Dim, export

    from ctxbatch.model.encoder import WordModel
    from ctxbatch.model.program import COMPILED_LEAST, COMPILED_TOKENS

    # Attention by two batched products is faster than the fused kernel on short windows.
    found = None if folder is None else find_model(folder, None)
    model = WordModel(config, attention="eager", model=found).eval()
    windows = Dim("windows", min=COMPILED_LEAST)
    tokens = Dim("tokens", min=COMPILED_LEAST, max=min(COMPILED_TOKENS, config.max_tokens))
    pieces, rows = Dim("pieces", min=COMPILED_LEAST), Dim("rows", min=COMPILED_LEAST)
    example = [
        torch.full((4, 6), config.pad_id),
        torch.ones((4, 6), dtype=torch.bool),
        torch.arange(5),
        torch.arange(3),
    ]
    shapes = [{0: windows, 1: tokens}, {0: windows, 1: tokens}, {0: pieces}, {0: rows}]
    if config.kept_by_model is not None:
        example += [torch.zeros(3, dtype=torch.int64), torch.arange(2), torch.arange(4)]
        kept, slots = Dim("kept", min=COMPILED_LEAST), Dim("slots", min=COMPILED_LEAST)
        shapes += [{0: rows}, {0: kept}, {0: slots}]
    with torch.no_grad():
        exported = export(model, tuple(example), dynamic_shapes=tuple(shapes))
        options = {"freezing": True, "cpp.threads": 1}
        with tempfile.TemporaryDirectory(prefix="ctxbatch-") as scratch:
            package = aoti_compile_and_package(
                exported, package_path=f"{scratch}/package.pt2", inductor_configs=options
            )
            with zipfile.ZipFile(package) as archive:
                (library,) = (name for name in archive.namelist() if name.endswith(".so"))
                with archive.open(library) as source, program.open("wb") as target:
                    shutil.copyfileobj(source, target)


if __name__ == "__main__":
    _compile(
        ResolvedConfig.from_dict(json.load(sys.stdin)),
        Path(sys.argv[1]),
        sys.argv[2] if len(sys.argv) > 2 else None,
    )
