"""Runs shards on this machine or on a Ray cluster.

An engine resolves the options for its devices and runs shards there. The work itself is the same everywhere.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from ctxbatch.config import ResolvedConfig
from ctxbatch.cores import describe_limit
from ctxbatch.execution.local_pool import Pool
from ctxbatch.execution.ray_cluster import Share, ask_node, count, resources
from ctxbatch.execution.ray_worker import resolve_here, workers_here
from ctxbatch.run_config import RunConfig
from ctxbatch.store.location import StoreLocation
from ctxbatch.store.manifest import Manifest

if TYPE_CHECKING:
    from ctxbatch.execution.ray_pool import RayPool

log = logging.getLogger("ctxbatch")


class Engine(Protocol):
    """A place to work: devices of one kind, on one machine or many."""

    @property
    def devices(self) -> Sequence[str]:
        """The names of the devices, as in commit records; empty if past rates do not apply to them."""

    def resolve(self, config: RunConfig) -> ResolvedConfig:
        """Resolve the options for these devices, as `ctxbatch.model.resolve.resolve` does."""

    def workers(self, location: StoreLocation, lock: int, log_file: IO[str]) -> "Pool | RayPool":
        """Return workers for a store, as a context manager that no worker outlives."""


class LocalEngine:
    """This machine: several worker processes per GPU, or one per core.

    Args:
        devices: ``cpu``, or ``cuda:N`` and others; all GPUs that there are, or else the CPU, if not given.
        workers: How many work; as `ctxbatch.model.devices.choose_workers` decides, if not given.
        model: The folder of the model; found by its name if not given.

    Raises:
        InputError: This machine does not have a device that is asked for.
    """

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        workers: int | None = None,
        model: Path | None = None,
    ) -> None:
        from ctxbatch.model.devices import choose_devices

        self._model = model
        self._devices = choose_devices(devices)
        self._n_workers = workers

    @property
    def devices(self) -> Sequence[str]:
        """The devices by name."""
        from ctxbatch.model.devices import describe_device

        return [describe_device(device) for device in self._devices]

    def resolve(self, config: RunConfig) -> ResolvedConfig:
        """Resolve the options for this machine."""
        from ctxbatch.model.devices import least_capable
        from ctxbatch.model.resolve import resolve

        return resolve(config, least_capable(self._devices))

    def workers(self, location: StoreLocation, lock: int, log_file: IO[str]) -> Pool:
        """Return worker processes."""
        from ctxbatch.model.devices import choose_workers

        batch_bytes = Manifest.read(location.folder).config.batch_bytes
        workers = choose_workers(self._n_workers, self._devices, batch_bytes)
        counts_cores = self._n_workers is None and self._devices == ["cpu"]
        if counts_cores and (limit := describe_limit()):
            log.info("workers: %d, because %s; --workers N overrides this", len(workers), limit)
        return Pool(location, workers, lock, log_file, self._model)


class RayEngine:
    """The cluster that this process is connected to: several workers per GPU, or else one per CPU.

    Args:
        workers: How many work; by default as many as the cluster has places, at any time.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._n_workers = workers
        self._whole = Share(gpus=float(count("GPU") > 0))
        self._device = "cuda:0" if self._whole.gpus else "cpu"  # Ray shows a worker its own GPU alone

    @property
    def devices(self) -> Sequence[str]:
        """Empty: the rates of past runs are those of one machine."""
        return ()

    def resolve(self, config: RunConfig) -> ResolvedConfig:
        """Resolve the options on a node."""
        resolved: ResolvedConfig = ask_node(resolve_here, config, self._device, share=self._whole)
        return resolved

    def workers(self, location: StoreLocation, lock: int, log_file: IO[str]) -> "RayPool":  # noqa: ARG002 (of this machine alone)
        """Return Ray actors."""
        from ctxbatch.execution.ray_pool import RayPool

        share = functools.partial(self._share, Manifest.read(location.folder).config.batch_bytes)
        return RayPool(location, self._device, share, self._n_workers)

    def _share(self, batch_bytes: int, n_shards: int) -> Share:
        """Return what each worker gets in a run of so many shards, with so many bytes of vectors a batch."""
        if not self._whole.gpus:
            return self._whole
        most: int = ask_node(workers_here, self._device, batch_bytes, share=self._whole)
        n_workers = min(n_shards, self._n_workers or n_shards)
        return Share.of_gpu(workers_on_each_gpu(resources(), most, n_workers))


def workers_on_each_gpu(nodes: Sequence[Mapping[str, float]], most: int, n_workers: int) -> int:
    """Return how many workers share each GPU of a Ray cluster.

    Ray fills a GPU before it takes the next one. So there are never fewer workers than places, unless there
    are fewer than GPUs.

    Args:
        nodes: The resources of each node.
        most: How many one GPU has room for.
        n_workers: How many there can be in all.
    """
    nodes = [node for node in nodes if node.get("CPU", 0) >= node.get("GPU", 0) >= 1]
    n_gpus = int(sum(node["GPU"] for node in nodes))
    cpus_per_gpu = (int(node["CPU"] // node["GPU"]) for node in nodes)
    return max(1, min([most, n_workers // max(1, n_gpus), *cpus_per_gpu]))
