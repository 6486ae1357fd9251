"""Compiled models: made once for a configuration and a kind of CPU, and kept in the user's cache.

A program is the whole way from token ids to stored columns, compiled ahead of time by torch's inductor
with weights frozen and packed for the processor, for batches of any shape. Making one takes about a
minute and happens in a process of its own: ``python -m ctxbatch.compiling CONFIG PROGRAM``.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ctxbatch.config import ResolvedConfig, canonical_json
from ctxbatch.errors import CtxbatchError
from ctxbatch.layout import cache_folder

log = logging.getLogger("ctxbatch")
# Of the configuration, what decides the program; the rest decides only what is put in.
_FIELDS = (
    "layers",
    "vectors",
    "static",
    "shift",
    "floor",
    "delta",
    "pool",
    "dtype",
    "precision",
)
_KEPT = 4


class CompilingError(CtxbatchError):
    """The compiler cannot make the program."""


def program_path(config: ResolvedConfig) -> Path:
    """Where the program for a configuration is, or will be, on this kind of machine."""
    import torch

    fields = config.as_dict()
    parts = {
        **{name: fields[name] for name in _FIELDS},
        "digests": fields["digests"],
        "torch": torch.__version__,
        "cpu": sorted(name for name, able in torch.cpu.get_capabilities().items() if able is True),
        "code": _code_digest(),
    }
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:24]
    return cache_folder() / "compiled" / f"{key}.pt2"


def _code_digest() -> str:
    """Of the modules that are compiled into a program, and of the library that holds the models."""
    from importlib import metadata

    folder = Path(__file__).parent
    sources = b"".join((folder / name).read_bytes() for name in ("encoder.py", "shift.py", "compiling.py"))
    return hashlib.sha256(sources + metadata.version("transformers").encode()).hexdigest()


def make_program(config: ResolvedConfig) -> Path:
    """Make the program for a configuration; one that is there already is used.

    Raises:
        CompilingError: The compiler fails; the message ends with its last line.
    """
    program = program_path(config)
    if program.exists():
        os.utime(program)  # the ones used least recently are removed first
        return program
    log.info("compiling %s for this CPU: takes about a minute, once", config.model)
    program.parent.mkdir(parents=True, exist_ok=True)
    beside = program.with_name(f".{program.stem}.{os.getpid()}.pt2")
    with tempfile.TemporaryDirectory(prefix="ctxbatch-") as scratch:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": scratch, "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-P",
            "-m",
            "ctxbatch.compiling",
            json.dumps(config.as_dict()),
            str(beside),
        ]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
                log.debug("compiling failed: %s", done.stderr)
                raise CompilingError(f"{config.model} cannot be compiled: {last}; take --compile off")
            beside.replace(program)
        finally:
            beside.unlink(missing_ok=True)
    _remove_oldest(program.parent)
    return program


def _remove_oldest(folder: Path) -> None:
    programs = sorted(folder.glob("*.pt2"), key=lambda path: path.stat().st_mtime, reverse=True)
    for program in programs[_KEPT:]:
        program.unlink(missing_ok=True)


def _compile(config: ResolvedConfig, program: Path) -> None:
    """Export the model for batches of every shape, and compile it."""
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch.export import Dim, export

    from ctxbatch.encoder import COMPILED_LEAST, COMPILED_TOKENS, WordModel

    # Attention by two batched products is faster than the fused kernel on short windows.
    model = WordModel(config, attention="eager").eval()
    windows = Dim("windows", min=COMPILED_LEAST)
    tokens = Dim("tokens", min=COMPILED_LEAST, max=min(COMPILED_TOKENS, config.max_tokens))
    pieces, rows = Dim("pieces", min=COMPILED_LEAST), Dim("rows", min=COMPILED_LEAST)
    example = (
        torch.full((4, 6), config.pad_id),
        torch.ones((4, 6), dtype=torch.bool),
        torch.arange(5),
        torch.arange(3),
    )
    shapes = ({0: windows, 1: tokens}, {0: windows, 1: tokens}, {0: pieces}, {0: rows})
    with torch.no_grad():
        exported = export(model, example, dynamic_shapes=shapes)
        options = {"freezing": True, "cpp.threads": 1}
        aoti_compile_and_package(exported, package_path=str(program), inductor_configs=options)


if __name__ == "__main__":
    _compile(ResolvedConfig.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))
