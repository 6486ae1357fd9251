"""Runs shards on a machine of a Ray cluster; `ctxbatch.execution.ray_pool` starts it as an actor.

The counterpart of `ctxbatch.execution.worker`: takes shard numbers, and says what became of them whenever it
is asked. Ends by itself when nobody asks any more. Imports ray and torch only in what it does.
"""

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path

from ctxbatch.config import INT8_LAYERS, ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.execution.messages import Job, Logged, Message, Placed
from ctxbatch.execution.worker import run_shards, telling
from ctxbatch.run_config import RunConfig
from ctxbatch.store.bucket_location import BucketLocation
from ctxbatch.store.int8_layers import layers_names
from ctxbatch.store.location import StoreLocation, location_of, manifest_of

# How long a question for news waits for some, and how long a worker lives on without being asked: longer than
# the driver may be busy with requests to object storage that fail.
_NEWS_SECONDS = 5.0
_ALONE_SECONDS = 180.0


class RayWorker:
    """Runs shards of one store on one device, in threads of its own.

    Args:
        out: The store's folder, its manifest written; or its URL.
        folder: Where the driver stands; relative paths start there.
        device: ``cpu`` or ``cuda:0``.
    """

    def __init__(self, out: Path | str, folder: str, device: str) -> None:
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._outbox: queue.Queue[Message] = queue.Queue()
        self._seconds_alone = 0.0
        self._host = socket.gethostname()
        self._outbox.put(Placed(self._host))
        stand_in(folder)
        for target, arguments in ((self._end_when_alone, ()), (self._work, (out, device))):
            threading.Thread(target=target, args=arguments, daemon=True).start()

    def take(self, job: Job) -> None:
        """Run a shard when those before it are read."""
        self._jobs.put(job)

    def news(self) -> list[Message]:
        """Return the messages since the last call; wait a little for one."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._outbox.get(timeout=_NEWS_SECONDS))
            while True:
                found.append(self._outbox.get_nowait())
        self._seconds_alone = 0.0
        return found

    def _end_when_alone(self) -> None:
        """End with the driver also where Ray does not see that it is gone, or cannot reach this machine."""
        while self._seconds_alone < _ALONE_SECONDS:
            time.sleep(1.0)
            self._seconds_alone += 1.0  # not by the clock: a machine that was asleep was not alone
        os._exit(1)

    def _work(self, out: Path | str, device: str) -> None:
        with telling(self._outbox.put):
            self._run_shards(_at_hand(out, self._host), device)

    def _run_shards(self, location: StoreLocation, device: str) -> None:
        logging.getLogger("ctxbatch").addHandler(_ToDriver(self._outbox))
        run_shards(location, device, self._jobs.get, self._outbox.put)


def _at_hand(out: Path | str, host: str) -> StoreLocation:
    """Return the location of the store as this machine sees it.

    Raises:
        InputError: It does not see it.
    """
    location = location_of(out)
    if isinstance(location, BucketLocation):
        manifest = manifest_of(location)
        location.copy_manifest(manifest)
        if manifest.config.precision == "int8":
            location.fetch_files(layers_names(manifest.config.digests[INT8_LAYERS]))
    elif location.manifest() is None:
        raise InputError(f"{host} cannot see {out}: put it on a file system that all nodes share")
    return location


class _ToDriver(logging.Handler):
    """Sends the log records of this process to the driver."""

    def __init__(self, outbox: "queue.Queue[Message]") -> None:
        super().__init__(logging.WARNING)
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.put(Logged(record.getMessage()))


def stand_in(folder: str) -> None:
    """Stand where the driver stands, if that is on this machine, and import nothing from there."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    with contextlib.suppress(ValueError):  # where Ray puts it first; what PYTHONPATH says stays
        sys.path.remove(folder)


# --- tasks ----------------------------------------------------------------------------------------


def resolve_here(config: RunConfig, device: str, folder: str) -> ResolvedConfig:
    """Do what `ctxbatch.model.resolve.resolve` does, on a machine of the cluster.

    Raises:
        InputError: Also where torch cannot use the GPU that Ray gives.
    """
    stand_in(folder)
    from ctxbatch.model.devices import choose_devices
    from ctxbatch.model.resolve import resolve

    try:
        choose_devices([device])
    except InputError as error:
        raise InputError(
            f"{socket.gethostname()} has a GPU for Ray, but none for torch ({error}): install a torch for "
            "it, or start the node with --num-gpus 0"
        ) from None
    return resolve(config, device)


def workers_here(device: str, batch_bytes: int, folder: str) -> int:
    """Return how many workers can share each GPU of the machine of the cluster that is asked.

    Args:
        device: The GPU.
        batch_bytes: What the vectors of a batch take.
        folder: Where the driver stands.
    """
    stand_in(folder)
    import ray

    from ctxbatch.model.devices import workers_per_gpu

    own = ray.get_runtime_context().get_node_id()
    node = next(each for each in ray.nodes() if each["NodeID"] == own)
    return workers_per_gpu([device], max(1, int(node["Resources"].get("GPU", 1))), batch_bytes)
