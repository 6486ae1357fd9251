"""Worker processes on this machine: starting them, handing out shards, noticing deaths, retrying.

Decides where a shard runs, never what running it means.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ctxbatch import errors
from ctxbatch.errors import CtxbatchError
from ctxbatch.layout import process_name
from ctxbatch.writer import remove_leftovers

# Of a shard whose worker dies, and of starting a worker.
_TRIES = 3
# A shard that another process has claimed is asked for again this often, when there is nothing else to do,
# and left to it when it has had it for so long: a worker whose coordinator was killed is gone by then.
_ASK_SECONDS = 1.0
_LEAVE_SECONDS = 5.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
# What keeps a worker's memory flat, and makes nothing slower (both measured). oneDNN keeps the code it
# makes for a shape for a thousand shapes, and batches have thousands of shapes. glibc moves its limit for
# blocks of their own up with every large block that is freed, and the heap falls to pieces.
_MEMORY = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}


class WorkersFailedError(CtxbatchError):
    """Workers die before they can take a shard."""

    exit_status = 4


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[str]
    device: str
    loaded: bool = False
    waiting: bool = False
    shards: list[int] = field(default_factory=list)

    def send(self, shard: int, anew: bool) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"shard": shard, "anew": anew}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; its reader thread says so


class _Shards:
    """The shards of a run that are not done yet, and what has befallen them."""

    def __init__(self, shards: Iterable[int], anew: Collection[int]) -> None:
        self.pending = deque(shards)
        self.open = set(self.pending)
        self.anew = anew
        self.failures: dict[int, int] = {}
        self.given_up: list[int] = []
        self._taken: deque[int] = deque()
        self._taken_since: dict[int, float] = {}
        self._asked = 0.0

    def after_death(self, shard: int) -> str:
        """Take back a shard whose worker has died; says whether it is to be run again."""
        self.failures[shard] = self.failures.get(shard, 0) + 1
        if self.failures[shard] < _TRIES:
            self.pending.append(shard)
            return "retry"
        self.open.discard(shard)
        self.given_up.append(shard)
        return "given up"

    def after_refusal(self, shard: int) -> str:
        """Take back a shard that another process has claimed; says whether it is left to that one."""
        now = time.monotonic()
        if now - self._taken_since.setdefault(shard, now) < _LEAVE_SECONDS:
            self._taken.append(shard)
            return "taken"
        self.open.discard(shard)
        return "left"

    def ask_again(self) -> None:
        """Try what was claimed by others once more, now and then, where nothing else waits."""
        now = time.monotonic()
        if self._taken and not self.pending and now - self._asked >= _ASK_SECONDS:
            self.pending, self._taken, self._asked = self._taken, deque(), now


class Pool:
    """Runs shards in worker processes, one per entry of ``devices``.

    A context manager: no worker outlives it.

    Args:
        out: The store's folder, its manifest written.
        devices: ``cpu`` or ``cuda:N``, one per worker.
        lock: The descriptor of the store's lock, which workers inherit.
        log: Where workers' messages and tracebacks go.
    """

    def __init__(self, out: Path, devices: Sequence[str], lock: int, log: IO[str]) -> None:
        self._out = out
        self._devices = devices
        self._lock = lock
        self._log = log
        self._inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            remove_leftovers(self._out, process_name(worker.process.pid))

    def run(
        self,
        shards: Iterable[int],
        on_message: Callable[[dict[str, Any]], None],
        anew: Collection[int] = (),
    ) -> list[int]:
        """Run shards until each is committed, is left to others or has failed three times.

        Args:
            shards: Their numbers.
            on_message: Told of every ``progress``, ``committed``, ``found`` (committed by another process
                meanwhile), ``taken`` (claimed by another process at this moment), ``left`` (to that one),
                ``retry`` and ``given up``; and, with ``say: tick``, at least once a second.
            anew: Those of them that are made although they are committed.

        Returns:
            The shards given up.

        Raises:
            CtxbatchError: A worker met something that stops the whole run.
        """
        todo = _Shards(shards, anew)
        for device in self._devices[: len(todo.open)]:
            self._start(device)
        while todo.open:
            todo.ask_again()
            self._hand_out(todo)
            try:
                worker, message = self._inbox.get(timeout=1.0)
            except queue.Empty:
                on_message({"say": "tick"})
                continue
            if message is None:
                for shard in self._bury(worker):
                    on_message({"say": todo.after_death(shard), "shard": shard})
                if todo.open:
                    self._start(worker.device)
                continue
            self._take(worker, message)
            if message["say"] == "taken":
                message["say"] = todo.after_refusal(message["shard"])
            elif message["say"] in ("committed", "found"):
                todo.open.discard(message["shard"])
            on_message(message)
        return sorted(todo.given_up)

    def _start(self, device: str) -> None:
        environment = {
            **os.environ,
            **dict.fromkeys(_THREADS, "1"),
            **_MEMORY,
            "TOKENIZERS_PARALLELISM": "false",
        }
        process = subprocess.Popen(
            # -P: the folder that the user stands in is no place to import from.
            [sys.executable, "-P", "-m", "ctxbatch.worker", str(self._out), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[self._lock],
            env=environment,
            text=True,
        )
        worker = _Worker(process, device)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            try:
                self._inbox.put((worker, json.loads(line)))
            except ValueError:
                break  # half a line: it died in the middle of it
        self._inbox.put((worker, None))

    def _take(self, worker: _Worker, message: dict[str, Any]) -> None:
        if message["say"] == "error":
            kind = getattr(errors, message["kind"], CtxbatchError)
            raise kind(message["message"])
        if message["say"] == "loaded":
            worker.loaded = True
            self._failed_starts = 0
        elif message["say"] == "ready":
            worker.waiting = True
        elif message["say"] in ("committed", "found", "taken"):
            worker.shards.remove(message["shard"])

    def _hand_out(self, todo: _Shards) -> None:
        """Give waiting workers their next shard; one that has failed before runs alone in its worker.

        A worker reads its next shard while it finishes the last, so a death can cost two. Alone, a shard
        that kills its worker takes no other down with it.
        """
        pending, failures = todo.pending, todo.failures
        for worker in self._workers:
            if not worker.waiting or not pending or any(shard in failures for shard in worker.shards):
                continue
            if pending[0] in failures and worker.shards:
                continue
            shard = pending.popleft()
            worker.waiting = False
            worker.shards.append(shard)
            worker.send(shard, shard in todo.anew)

    def _bury(self, worker: _Worker) -> list[int]:
        """Forget a worker that has died; returns the shards it leaves undone."""
        self._workers.remove(worker)
        try:
            code = worker.process.wait(timeout=5)  # its output has ended, so it is ending
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        remove_leftovers(self._out, process_name(worker.process.pid))
        self._failed_starts += not worker.loaded
        if self._failed_starts >= _TRIES:
            raise WorkersFailedError(
                f"workers on {worker.device} end with status {code} before they are ready: "
                f"see the end of {self._log.name}"
            )
        return worker.shards
