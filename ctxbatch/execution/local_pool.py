"""Runs worker processes on this machine: starts them, gives them shards, notices deaths.

Decides where a shard runs, never what running it means.
"""

import logging
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ctxbatch.cores import UNBOUND, unbind
from ctxbatch.errors import CtxbatchError, error_of_kind
from ctxbatch.execution.messages import (
    Committed,
    Failed,
    Found,
    Job,
    Loaded,
    Message,
    Ready,
    Stopped,
    Taken,
    Tick,
    decode,
    encode,
)
from ctxbatch.execution.scheduler import TRIES, Dispatch
from ctxbatch.files import PROCESS_NONCE, new_nonce, process_name
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.shard_writer import remove_leftovers

log = logging.getLogger("ctxbatch")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
# What keeps a worker's memory flat, and makes nothing slower (both measured). oneDNN keeps a thousand pieces
# of the code that it makes for shapes, and batches have thousands of shapes; with 32, int8 loses 8 %. glibc
# moves its limit for blocks of their own up with every large block that is freed, and the heap falls to
# pieces.
_MEMORY = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "32",
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
# What has to stand in a worker's environment when its process starts.
ENVIRONMENT = {**dict.fromkeys(_THREADS, "1"), **UNBOUND, **_MEMORY, "TOKENIZERS_PARALLELISM": "false"}


class WorkersFailedError(CtxbatchError):
    """Workers end before they can take a shard, or with every shard that they take."""

    exit_status = 4


def check_failures(dispatch: Dispatch, log: object) -> None:
    """Stop a run in which shard after shard raises an error.

    Args:
        dispatch: What has befallen the shards.
        log: Where the tracebacks are.

    Raises:
        WorkersFailedError: `TRIES` of them did.
    """
    if len(dispatch.reasons) >= TRIES:
        raise WorkersFailedError(
            f"{len(dispatch.reasons)} shards failed, the last with {dispatch.reasons[-1]}: read {log}"
        )


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[str]
    device: str
    nonce: str
    loaded: bool = False
    waiting: bool = False
    shards: list[int] = field(default_factory=list)
    failure: str | None = None
    crowded_out: bool = False

    @property
    def name(self) -> str:
        """What its temporary files are called after."""
        return process_name(self.process.pid, self.nonce)

    def send(self, job: Job) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(encode(job))
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; its reader thread says so


class Pool:
    """Runs shards in worker processes, one per entry of ``devices``.

    A context manager: no worker outlives it.

    Args:
        location: Where the store is; its folder holds the manifest.
        devices: ``cpu`` or ``cuda:N``, one per worker.
        lock: The descriptor of the store's lock, which workers inherit.
        log: Where workers' messages and tracebacks go.
        model: The folder of the model; workers find it by the name in the manifest if not given.
    """

    def __init__(
        self,
        location: StoreLocation,
        devices: Sequence[str],
        lock: int,
        log: IO[str],
        model: Path | None = None,
    ) -> None:
        self._location = location
        self._devices = devices
        self._lock = lock
        self._log = log
        self._model = [] if model is None else [str(model)]
        self._inbox: queue.Queue[tuple[_Worker, Message | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            remove_leftovers(self._location.folder, worker.name)

    def run(
        self,
        shards: Iterable[int],
        on_message: Callable[[Message], None],
        rebuild: Collection[int] = (),
        patience: float = math.inf,
    ) -> list[int]:
        """Run shards until each is committed, is left to others or has failed three times.

        Args:
            shards: Their numbers.
            on_message: Told of what is said of every shard; and, by a `Tick`, at least once a second.
            rebuild: Those of them that are made although they are committed.
            patience: Seconds after which a shard that another process has claimed is left to that one.

        Returns:
            The shards given up.

        Raises:
            CtxbatchError: A worker met something that stops the whole run.
        """
        dispatch = Dispatch(shards, rebuild, patience)
        for device in self._devices[: len(dispatch)]:
            self._start(device)
        while dispatch:
            self._hand_out(dispatch)
            try:
                worker, message = self._inbox.get(timeout=1.0)
            except queue.Empty:
                on_message(Tick())
                continue
            if message is None:
                for what_follows in self._bury(worker, dispatch):
                    on_message(what_follows)
                check_failures(dispatch, self._log.name)
                if dispatch and not worker.crowded_out:
                    self._start(worker.device)
                continue
            self._take(worker, message)
            on_message(dispatch.heard(message))
        return dispatch.given_up

    def _start(self, device: str) -> None:
        nonce = new_nonce()
        unbind()
        process = subprocess.Popen(
            # -P: the folder that the user stands in is no place to import from.
            [
                sys.executable,
                "-P",
                "-m",
                "ctxbatch.execution.worker",
                str(self._location.out),
                device,
                *self._model,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[self._lock],
            env={**os.environ, **ENVIRONMENT, PROCESS_NONCE: nonce},
            text=True,
        )
        worker = _Worker(process, device, nonce)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            try:
                self._inbox.put((worker, decode(line)))
            except ValueError:
                break  # half a line: it died in the middle of it
        self._inbox.put((worker, None))

    def _take(self, worker: _Worker, message: Message) -> None:
        match message:
            case Stopped():
                raise error_of_kind(message.kind, message.message)
            case Failed():
                worker.failure = message.reason
            case Loaded():
                worker.loaded = True
                self._failed_starts = 0
            case Ready():
                worker.waiting = True
            case Committed() | Found() | Taken():
                worker.shards.remove(message.shard)

    def _hand_out(self, dispatch: Dispatch) -> None:
        for worker in self._workers:
            if not worker.waiting or (job := dispatch.next(worker.shards, len(self._devices))) is None:
                continue
            worker.waiting = False
            worker.shards.append(job.shard)
            worker.send(job)

    def _bury(self, worker: _Worker, dispatch: Dispatch) -> Iterator[Message]:
        """Forget a worker that has ended; returns what follows for the shards that it leaves undone."""
        self._workers.remove(worker)
        try:
            code = worker.process.wait(timeout=5)  # its output has ended, so it is ending
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        remove_leftovers(self._location.folder, worker.name)
        if not worker.loaded:
            self._check_start(worker, code)
        if worker.failure:
            return dispatch.failed(worker.shards, worker.failure)
        return dispatch.lost(worker.shards)

    def _check_start(self, worker: _Worker, code: int) -> None:
        """Go on without a worker that found no room on a GPU that others work on; stop at another failure.

        Raises:
            WorkersFailedError: No worker can be started.
        """
        self._failed_starts += 1
        others = sum(each.device == worker.device for each in self._workers)
        if worker.failure and worker.device != "cpu" and others:
            worker.crowded_out = True
            log.warning(
                "a worker on %s cannot start (%s): %d others go on there; --workers sets their number",
                worker.device,
                worker.failure,
                others,
            )
        elif worker.failure or self._failed_starts >= TRIES:
            raise WorkersFailedError(
                f"workers on {worker.device} stopped before they were ready "
                f"({worker.failure or f'status {code}'}): read the end of {self._log.name}"
            )
