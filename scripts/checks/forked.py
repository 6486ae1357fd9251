"""Running the program in forked children of a process that has imported everything.

A child costs a fork in place of the seconds that imports take. Owns the limits of a child, and the worker
processes that a run inside a child starts: these are forked too.
"""

import contextlib
import ctypes
import gc
import importlib
import io
import json
import logging
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What must stand in the environment before anything is imported: one thread, and no memory kept for later.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "LOKY_MAX_CPU_COUNT": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "100",
    "PYTHONHASHSEED": "0",
}
_NEEDED = (
    "numpy", "pyarrow", "pyarrow.dataset", "pyarrow.fs", "faiss", "openvino", "torch", "transformers",
    "transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert",
    "transformers.models.bert.configuration_bert", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.modeling_utils", "safetensors.torch",
)  # fmt: skip
# What libraries import at their first use, by names that may change.
_LATE = (
    "sklearn.cluster", "sklearn.metrics", "threadpoolctl", "encodings.utf_32_le",
    "transformers.models.align", "transformers.models.bert.tokenization_bert_fast", "cyclopts.help",
)  # fmt: skip
_NOT_NEEDED = tuple(
    f"ctxbatch.{name}"
    for name in ("execution.ray_worker", "execution.ray_pool", "execution.ray_cluster", "__main__")
)
_SHOWN_BYTES = 1 << 20
_FILE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended. ``status`` is its exit status, or minus the signal; ``peak`` is in bytes."""

    status: int
    out: str
    errors: str
    seconds: float
    peak: int
    timed_out: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may take: seconds, and bytes of address space beyond what it begins with."""

    seconds: float = 20.0
    address_space: int = 3 << 29


def import_everything(optional: Sequence[str] = _LATE) -> None:
    """Import what commands import late; start no thread."""
    import ctxbatch

    for name in _NEEDED:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(ctxbatch.__path__, "ctxbatch."):
        if module.name not in _NOT_NEEDED:
            importlib.import_module(module.name)
    for name in optional:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import joblib
    import torch

    torch.set_num_threads(1)
    joblib.cpu_count(only_physical_cores=True)  # asks another program, once
    from ctxbatch.execution import local_pool
    from tests.helpers import first_uses

    first_uses.make()
    local_pool.subprocess = _Subprocess  # type: ignore[assignment]
    gc.collect()
    gc.freeze()


def run(
    action: Callable[[], int],
    said: Path,
    cwd: Path,
    environment: Mapping[str, str],
    limits: Limits | None = None,
) -> Ended:
    """Run a function in a forked child, and wait for it.

    Args:
        action: Returns the exit status.
        said: Folder for what the child writes to its standard output and error.
        cwd: Where the child stands.
        environment: What its environment has besides.
        limits: What it may take.
    """
    limits = limits or Limits()
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _be_child(action, said, cwd, environment, limits)
    timed_out = not _ends_within(pid, limits.seconds)
    if timed_out:
        os.killpg(pid, signal.SIGKILL)
    _, code, usage = os.wait4(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # workers that have outlived it
    texts = []
    for name in ("stdout", "stderr"):
        with (said / name).open("rb") as stream:
            texts.append(stream.read(_SHOWN_BYTES).decode(errors="backslashreplace"))
    seconds = time.monotonic() - began
    return Ended(os.waitstatus_to_exitcode(code), *texts, seconds, usage.ru_maxrss * 1024, timed_out)


def command(arguments: Sequence[object]) -> Callable[[], int]:
    """Return a function that runs the command line in this process."""

    def act() -> int:
        from ctxbatch.cli import main

        sys.argv = ["ctxbatch", *map(str, arguments)]
        try:
            main.main()
        except SystemExit as ended:
            if isinstance(ended.code, str):
                sys.stderr.write(f"{ended.code}\n")
                return 1
            return ended.code or 0
        return 0

    return act


def _be_child(
    action: Callable[[], int], said: Path, cwd: Path, environment: Mapping[str, str], limits: Limits
) -> None:
    status = 70
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            descriptor = os.open(said / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            os.dup2(descriptor, number)
            os.close(descriptor)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        for number, name in ((1, "stdout"), (2, "stderr")):
            setattr(
                sys,
                name,
                io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), "utf-8", write_through=number == 2),
            )
        os.chdir(cwd)
        os.environ.update(environment)
        tempfile.tempdir = None
        _limit(limits)
        status = action()
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        _leave(status)


def _leave(status: int) -> None:
    try:
        gc.collect()  # so that "Exception ignored" is said
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(status)


def _limit(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + limits.address_space
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with who waits for it


def _ends_within(pid: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


# --- workers --------------------------------------------------------------------------------------


class _ForkedWorker:
    """Stands in for ``subprocess.Popen`` of a worker: a fork of this process that has imported everything."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stderr: Any,
        env: Mapping[str, str] | None = None,
        **_: object,
    ) -> None:
        at = list(arguments).index("ctxbatch.execution.worker")
        to_worker, from_worker = os.pipe(), os.pipe()
        self.args = arguments
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            _be_worker(list(arguments[at:]), to_worker, from_worker, stderr.fileno(), env or {})
        os.close(to_worker[0])
        os.close(from_worker[1])
        self.stdin = os.fdopen(to_worker[1], "w")
        self.stdout = os.fdopen(from_worker[0])

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(code)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        began = time.monotonic()
        while self.poll() is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(list(self.args), timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Subprocess:
    """The module ``subprocess`` as `ctxbatch.execution.local_pool` sees it here."""

    Popen = _ForkedWorker

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


_Subprocess = _Subprocess()  # type: ignore[assignment,misc]


def _be_worker(
    arguments: list[str],
    to_worker: tuple[int, int],
    from_worker: tuple[int, int],
    errors: int,
    environment: Mapping[str, str],
) -> None:
    status = 1
    try:
        os.dup2(to_worker[0], 0)
        os.dup2(from_worker[1], 1)
        os.dup2(errors, 2)
        for descriptor in (*to_worker, *from_worker):
            os.close(descriptor)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        log = logging.getLogger("ctxbatch")
        log.handlers.clear()
        os.environ.update(environment)
        sys.argv = arguments
        from ctxbatch.execution import worker

        worker.main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(status)


# --- results --------------------------------------------------------------------------------------


def in_child(job: Callable[[], Any]) -> tuple[int, int]:
    """Start a function in a forked child; returns its process id and the descriptor of its JSON."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        content = json.dumps(job()).encode()
        with os.fdopen(writing, "wb") as stream:
            stream.write(content)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise AssertionError
