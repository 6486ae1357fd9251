"""What the benchmarks share: the machine in words, child processes and their memory, peaks, tables.

Imports nothing heavy at the top, because the contenders' processes import it too.
"""

import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from scripts import command_line

_SAMPLE_SECONDS = 0.1
_COUNTS = ("tokens", "words", "rows", "padding", "bytes_written", "shards")
_LIBRARIES = (
    "ctxbatch",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "pyarrow",
    "faiss-cpu",
    "numpy",
)
_DISK_BLOCK, _DISK_BLOCKS = 16 << 20, 16


# --- the machine ----------------------------------------------------------------------------------


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe_machine(folder: Path) -> dict[str, Any]:
    """Return the machine and its libraries; ``folder`` is where the results are written."""
    facts = dict(
        line.split(":", 1)
        for line in Path("/proc/cpuinfo").read_text().replace("\t", "").splitlines()
        if ":" in line
    )
    flags = facts.get("flags", "").split()
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "cpu": facts.get("model name", platform.machine()).strip(),
        "cores": cores(),
        "amx_bf16": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "load_before": round(os.getloadavg()[0], 2),
        "file_system": _file_system(folder),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def machine_lines(machine: Mapping[str, Any]) -> str:
    """Return the facts of `describe_machine` as lines to read."""
    has = {name: "yes" if machine[name] else "no" for name in ("amx_bf16", "avx512_bf16")}
    versions = [f"{name} {version}" for name, version in machine["versions"].items()]
    facts = (
        f"{machine['cpu']}, {machine['cores']} cores, AMX {has['amx_bf16']}, "
        f"avx512_bf16 {has['avx512_bf16']}, {machine['file_system']}, {machine['date']}, "
        f"load before {machine['load_before']}"
    )
    return "\n".join(textwrap.fill(line, 100) for line in (facts, ", ".join(versions)))


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on: figures from a tmpfs say nothing of a disk."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    above = {str(path) for path in (folder.resolve(), *folder.resolve().parents)}
    kinds = {fields[1]: fields[2] for fields in mounts if fields[1] in above}
    return kinds[max(kinds, key=len)] if kinds else "unknown file system"


def write_rate(folder: Path) -> float:
    """Bytes a second that the disk takes, flushed to it."""
    block = os.urandom(_DISK_BLOCK)
    path = folder / "disk-probe"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as stream:
        for _ in range(_DISK_BLOCKS):
            stream.write(block)
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return _DISK_BLOCK * _DISK_BLOCKS / seconds


def matrix_rate(shapes: Sequence[tuple[int, int]], tokens: int, precision: str) -> float:
    """Operations a second of this process in linear layers of (inputs, outputs), one after another.

    Each pass goes through all shapes, so each weighs as much as it costs. The median of many passes.
    """
    import torch

    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    weights = [torch.randn(outputs, inputs).to(kind) for inputs, outputs in shapes]
    values = {inputs: torch.randn(tokens, inputs).to(kind) for inputs, _ in shapes}
    rates: list[float] = []
    operations = sum(2 * tokens * inputs * outputs for inputs, outputs in shapes)
    deadline = time.perf_counter() + 1.5
    with torch.inference_mode():
        while time.perf_counter() < deadline or len(rates) < 7:
            started = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(values[weight.shape[1]], weight)
            rates.append(operations / (time.perf_counter() - started))
    return statistics.median(rates[2:])


# --- text -----------------------------------------------------------------------------------------


def take_lines(corpus: Path, n_lines: int | None) -> list[str]:
    """Return the first lines that are not blank, or all; repeat the text if it has too few.

    Raises:
        SystemExit: There are none, or the text is not in UTF-8.
    """
    try:
        with corpus.open(encoding="utf-8", newline="\n") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except UnicodeDecodeError:
        raise SystemExit(f"{corpus} is no UTF-8 text") from None
    if not lines:
        raise SystemExit(f"{corpus} holds no text")
    return lines if n_lines is None else (lines * -(-n_lines // len(lines)))[:n_lines]


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write a text of lines; returns its path."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# --- processes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """What a process said and took.

    ``tree_bytes`` is the peak of the resident memory of it and its descendants, added up: pages that
    they share count for each. ``root_bytes`` is its own, ``anonymous_bytes`` that without mapped files.
    """

    output: str
    seconds: float
    tree_bytes: int
    root_bytes: int
    anonymous_bytes: int


class MemoryWatch:
    """Follows the memory of process trees from a thread, while its context lasts."""

    # Neither rusage nor its ru_maxrss would do: the kernel passes on to a process the maximum of the
    # children it has waited for, and that of the parent that started it.
    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.tree_bytes = self.root_bytes = self.anonymous_bytes = 0

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            pids = {pid for root in self._roots for pid in _tree(root)}
            self.tree_bytes = max(self.tree_bytes, sum(status(pid, "VmRSS:") for pid in pids))
            self.root_bytes = max(self.root_bytes, *(status(pid, "VmHWM:") for pid in self._roots))
            anonymous = sum(status(pid, "RssAnon:") for pid in self._roots)
            self.anonymous_bytes = max(self.anonymous_bytes, anonymous)
            self._ended.wait(_SAMPLE_SECONDS)


def _tree(pid: int) -> list[int]:
    """Return a process and its descendants; each may end while it is looked at."""
    pids = [pid]
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (path / "children").read_text().split():
                    pids += _tree(int(child))
    return pids


def status(pid: int, name: str) -> int:
    """Return a size of a process in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def child_environment(work: Path) -> dict[str, str]:
    """Return the environment of all that is measured: no GPU, no network, no cache outside ``work``."""
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "XDG_CACHE_HOME": str(work / "cache"),
    }


def run_process(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    """Run a command to its end.

    Raises:
        CalledProcessError: It failed.
    """
    started = time.perf_counter()
    with _started([command], environment) as (process,), MemoryWatch([process.pid]) as watch:
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Finished(output, seconds, watch.tree_bytes, watch.root_bytes, watch.anonymous_bytes)


def run_together(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> tuple[float, list[dict[str, Any]], int]:
    """Run processes from a common start; each says that it is ready, is told to go, and prints JSON.

    Returns:
        The seconds from the start until the last had finished, what they printed, and their peak memory.

    Raises:
        CalledProcessError: One failed.
    """
    with _started(commands, environment) as processes:
        with MemoryWatch([process.pid for process in processes]) as watch:
            for process in processes:
                _line_from(process)
            started = time.perf_counter()
            for process in processes:
                process.stdin.write("go\n")  # type: ignore[union-attr]  # it has one
                process.stdin.flush()  # type: ignore[union-attr]
            said = [_line_from(process) for process in processes]
            seconds = time.perf_counter() - started
        for process in processes:
            process.communicate()
    return seconds, [json.loads(line) for line in said], watch.tree_bytes


def wait_for_start() -> None:
    """Say that this process is ready, and wait for the others that `run_together` started."""
    print("ready", flush=True)
    sys.stdin.readline()


@contextlib.contextmanager
def _started(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> Iterator[list["subprocess.Popen[str]"]]:
    """Yield a list for processes, and kill those that still run at the end."""
    pipe = subprocess.PIPE
    processes: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            processes.append(
                subprocess.Popen(command, env=dict(environment), stdin=pipe, stdout=pipe, text=True)
            )
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _line_from(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise subprocess.CalledProcessError(process.wait(), process.args)
    return line


def run_ctxbatch(
    text: Path, out: Path, settings: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run the real command on a text, and read from its store what it did; the store is removed."""
    import ctxbatch
    from ctxbatch.store.stats import totals

    command = command_line.program("run", text, "-o", out, "--quiet", "--no-index", *settings)
    finished = run_process(command, environment)
    store = ctxbatch.open(out)
    found = totals(store).as_dict()
    shutil.rmtree(out)
    os.sync()  # what is still to be written must not slow down who comes next
    return {
        "seconds": found["seconds"],
        "whole_seconds": finished.seconds,
        "peak_bytes": finished.tree_bytes,
        "coordinator_bytes": finished.root_bytes,
        "worker_bytes": found["peak_memory_bytes"],
        "precision": store.config.precision,
        "stages": found["stages"],
        **{name: found[name] for name in _COUNTS},
    }


# --- figures --------------------------------------------------------------------------------------


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of every number of equal records; of anything else the last."""
    return {
        name: statistics.median(each[name] for each in rounds) if isinstance(value, int | float) else value
        for name, value in rounds[-1].items()
    }


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns, the first to the left and the others to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(value: float | None, pattern: str = ",.0f") -> str:
    """Return a number of a table; a dash where there is none."""
    return "-" if value is None else format(value, pattern)
