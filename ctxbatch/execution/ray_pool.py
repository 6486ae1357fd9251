"""Runs workers on the nodes of a Ray cluster: starts them, gives them shards, notices deaths and new nodes.

The counterpart of `ctxbatch.execution.local_pool` for many machines. Decides where a shard runs, never what
running it means; what runs there is `ctxbatch.execution.ray_worker`.
"""

import contextlib
import logging
import math
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from ctxbatch.errors import InputError, error_of_kind
from ctxbatch.execution.local_pool import check_failures
from ctxbatch.execution.messages import (
    Committed,
    Failed,
    Found,
    Loaded,
    Logged,
    Message,
    Placed,
    Ready,
    Stopped,
    Taken,
    Tick,
)
from ctxbatch.execution.ray_cluster import Share, as_own_error, check_own_node, places, reached, waiting
from ctxbatch.execution.ray_worker import RayWorker
from ctxbatch.execution.scheduler import TRIES, Dispatch
from ctxbatch.store.commits import COMMIT, shard_folder
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.manifest import SHARDS, Manifest, log_path
from ctxbatch.store.shard_writer import remove_leftovers

log = logging.getLogger("ctxbatch")
# How often nodes that have joined are looked for, and how long a place is waited for in silence.
_LOOK_SECONDS = 3.0
_SILENT_SECONDS = 10.0
_SILENT_AGAIN_SECONDS = 600.0
# Where workers die before they are ready, and others do not, no more are started for so long.
_PAUSE_SECONDS = 60.0
# How long a network file system may hide from this machine what another one has written.
_UNSEEN_SECONDS = 90.0
_END_SECONDS = 15.0
# How long a worker's process may live after Ray says that it has ended: until then its files are its own.
_DYING_SECONDS = 1.0


@dataclass(eq=False)
class _Worker:
    actor: Any
    host: str | None = None
    loaded: bool = False
    waiting: bool = False
    shards: list[int] = field(default_factory=list)
    listening: "Future[Any] | None" = None
    failure: str | None = None


class RayPool:
    """Runs shards in Ray actors, one in each place of the cluster.

    A context manager: no actor outlives it. Where this process is killed, Ray ends them, and they
    themselves when nobody asks them for news any more.

    Args:
        location: Where the store is; its folder holds the manifest. One that is here all nodes have to share.
        device: ``cpu`` or ``cuda:0``.
        share: Returns what Ray is to give each worker in a run of so many shards.
        n_workers: How many work; by default as many as the cluster has places, at any time.
    """

    def __init__(
        self, location: StoreLocation, device: str, share: Callable[[int], Share], n_workers: int | None
    ) -> None:
        self._location = location
        self._manifest = Manifest.read(location.folder)
        out = location.folder.absolute() if location.is_here else location.out
        self._share_of = share
        self._n_workers = n_workers
        self._arguments = (out, str(Path.cwd()), device)
        self._inbox: queue.Queue[tuple[_Worker, Future[Any]]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._look_at = self._start_at = 0.0
        self._placeless_since = time.monotonic()
        self._unseen: dict[int, tuple[float, str | None]] = {}

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(ConnectionError, ray.exceptions.RayError):  # its end is theirs too
            for worker in self._workers:
                ray.kill(worker.actor)
        wait_for_all([each.listening for each in self._workers if each.listening], timeout=_END_SECONDS)
        if kind is not None:
            time.sleep(_DYING_SECONDS)
        remove_leftovers(self._location.folder)

    def run(
        self,
        shards: Iterable[int],
        on_message: Callable[[Message], None],
        rebuild: Collection[int] = (),
        patience: float = math.inf,
    ) -> list[int]:
        """Do what `ctxbatch.execution.local_pool.Pool.run` does, with the same arguments and errors."""
        dispatch = Dispatch(shards, rebuild, patience)
        self._share: Share = self._share_of(len(dispatch))
        (self._location.folder / SHARDS).mkdir(exist_ok=True)
        with reached():
            while dispatch or self._unseen:
                self._look_around(len(dispatch))
                self._hand_out(dispatch)
                for message in self._messages(dispatch):
                    on_message(dispatch.heard(message))
                check_failures(dispatch, log_path(self._location.folder))
        return dispatch.given_up

    def _messages(self, dispatch: Dispatch) -> Iterator[Message]:
        """Yield the next message, and those that follow from it."""
        try:
            worker, future = self._inbox.get(timeout=1.0)
        except queue.Empty:
            yield Tick()
            return
        if worker not in self._workers:
            return
        if error := future.exception():
            yield from self._bury(worker, dispatch, error)
        elif (news := future.result()) is not None:
            yield from self._take(worker, dispatch, news)

    def _take(self, worker: _Worker, dispatch: Dispatch, news: list[Message]) -> Iterator[Message]:
        for message in news:
            if isinstance(message, Failed):
                worker.failure = message.reason
                yield from self._bury(worker, dispatch, RuntimeError(message.trace))
                return
            self._note(worker, message)
            yield message
        if not news:
            yield Tick()
        self._listen(worker)

    def _note(self, worker: _Worker, message: Message) -> None:
        match message:
            case Stopped():
                raise error_of_kind(message.kind, message.message)
            case Placed():
                worker.host = message.host
            case Logged():
                log.debug("%s says: %s", worker.host, message.text)
            case Loaded():
                log.debug("a worker on %s is ready", worker.host)
                worker.loaded = True
                self._failed_starts = 0
            case Ready():
                worker.waiting = True
            case Committed() | Found() | Taken():
                worker.shards.remove(message.shard)
                if isinstance(message, Committed) and not self._is_seen(message.shard):
                    self._unseen[message.shard] = (time.monotonic(), worker.host)

    def _bury(self, worker: _Worker, dispatch: Dispatch, error: BaseException) -> Iterator[Message]:
        """Forget a worker that has died or cannot be reached; what it has committed counts."""
        log.debug("a worker on %s is gone: %s", worker.host, error)
        self._workers.remove(worker)
        ray.kill(worker.actor)
        self._look_at = 0.0
        if not worker.loaded:
            self._count_failed_start(worker, error)
        lost = []
        for shard in worker.shards:
            commit = self._location.commit_of(self._manifest, self._manifest.shards[shard])
            if commit is None:
                lost.append(shard)
            else:
                yield Committed(shard, commit.counts)
        if worker.failure and worker.loaded:
            yield from dispatch.failed(lost, worker.failure)
        else:
            yield from dispatch.lost(lost)

    def _count_failed_start(self, worker: _Worker, error: BaseException) -> None:
        """Stop where no worker can be started; but a node that dies first says nothing of its worker."""
        if worker.host is None and not getattr(error, "actor_init_failed", True):
            return
        self._failed_starts += 1
        if self._failed_starts < TRIES:
            return
        if not any(each.loaded for each in self._workers):
            raise as_own_error(error)
        self._start_at = time.monotonic() + _PAUSE_SECONDS

    def _hand_out(self, dispatch: Dispatch) -> None:
        for worker in self._workers:
            if not worker.waiting or (job := dispatch.next(worker.shards, len(self._workers))) is None:
                continue
            worker.waiting = False
            worker.shards.append(job.shard)
            self._await(worker, worker.actor.take.remote(job))

    # --- the cluster ------------------------------------------------------------------------------

    def _look_around(self, n_open: int) -> None:
        """From time to time, fill the places that the cluster has now, and look whether all is well."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        self._see_commits(now)
        check_own_node()
        n_places = self._n_workers or places(self._share)
        if now >= self._start_at:
            for _ in range(min(n_places, n_open) - len(self._workers)):
                self._start()
        if not n_open or any(worker.host for worker in self._workers):
            self._placeless_since = now
        elif now - self._placeless_since >= _SILENT_SECONDS:
            self._placeless_since = now + _SILENT_AGAIN_SECONDS
            log.warning(waiting(self._share.kind))

    def _start(self) -> None:
        """Have an actor started as soon as there is a place for it."""
        # Two threads, because one of them mostly waits for news.
        options = {**self._share.options(), "max_concurrency": 2}
        worker = _Worker(ray.remote(RayWorker).options(**options).remote(*self._arguments))
        self._workers.append(worker)
        self._listen(worker)

    def _listen(self, worker: _Worker) -> None:
        worker.listening = self._await(worker, worker.actor.news.remote())

    def _await(self, worker: _Worker, answer: Any) -> "Future[Any]":  # noqa: ANN401 (Ray's ObjectRef)
        """Have the inbox told when an answer is there; ray.wait would lose what a signal raises."""
        future: Future[Any] = answer.future()
        future.add_done_callback(lambda done: self._inbox.put((worker, done)))
        return future

    def _see_commits(self, now: float) -> None:
        """Make sure that what workers commit is where this process writes to.

        Raises:
            InputError: It is not.
        """
        if not self._unseen:
            return
        list((self._location.folder / SHARDS).iterdir())  # has a network file system look again
        for shard, (since, host) in list(self._unseen.items()):
            if self._is_seen(shard):
                del self._unseen[shard]
            elif now - since > _UNSEEN_SECONDS:
                raise InputError(
                    f"{host} wrote shard {shard:06d}, but this machine cannot see it: put "
                    f"{self._location.out} on a file system that all nodes share"
                )

    def _is_seen(self, shard: int) -> bool:
        return not self._location.is_here or (shard_folder(self._location.folder, shard) / COMMIT).exists()
