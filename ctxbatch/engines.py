"""Where a run works: on this machine, or on a Ray cluster.

Engines say what options mean for their devices and run shards there; what is done is the same everywhere.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol

from ctxbatch.compiling import make_program
from ctxbatch.config import ResolvedConfig, RunConfig
from ctxbatch.places import Place
from ctxbatch.pool import Pool


class Workers(Protocol):
    """Runs shards; `ctxbatch.pool.Pool` says how."""

    def run(
        self,
        shards: Iterable[int],
        on_message: Callable[[dict[str, Any]], None],
        anew: Collection[int] = (),
        patience: float = math.inf,
    ) -> list[int]:
        """Run shards; returns those given up."""


class Engine(Protocol):
    """A place to work: devices of one kind, on one machine or many."""

    @property
    def devices(self) -> Sequence[str]:
        """Their names, as commit records have them; none where past runs say nothing about these."""

    def resolve(self, config: RunConfig, corpus_bytes: int) -> ResolvedConfig:
        """What `ctxbatch.resolving.resolve` says for these devices."""

    def make_program(self, config: ResolvedConfig) -> None:
        """Compile the model, if the configuration says so and these devices run what is compiled."""

    def workers(self, place: Place, lock: int, log: IO[str]) -> AbstractContextManager[Workers]:
        """Workers for a store, none of which outlives the context."""


@contextlib.contextmanager
def open_engine(config: RunConfig) -> Iterator[Engine]:
    """The engine that the options ask for.

    Raises:
        InputError: This machine does not have the devices, or there is no cluster.
    """
    if config.engine == "ray":
        from ctxbatch.cluster import connected

        with connected(config) as cluster:
            yield cluster
    else:
        yield LocalEngine(config)


class LocalEngine:
    """This machine: one worker process per GPU, or per core.

    Args:
        config: The options; only those of devices and workers count.

    Raises:
        InputError: This machine does not have a device that is asked for.
    """

    def __init__(self, config: RunConfig) -> None:
        from ctxbatch.devices import choose_devices, choose_workers

        self._devices = choose_devices(config.devices)
        self._workers = choose_workers(config.workers, self._devices)

    @property
    def devices(self) -> Sequence[str]:
        """The devices by name."""
        from ctxbatch.devices import describe_device

        return [describe_device(device) for device in self._devices]

    def resolve(self, config: RunConfig, corpus_bytes: int) -> ResolvedConfig:
        """What the options mean here."""
        from ctxbatch.resolving import resolve

        return resolve(config, self._devices[0], corpus_bytes)

    def make_program(self, config: ResolvedConfig) -> None:
        """Compile the model for this CPU."""
        if config.compiled and self._devices == ["cpu"]:
            make_program(config)

    def workers(self, place: Place, lock: int, log: IO[str]) -> Pool:
        """Worker processes."""
        return Pool(place, self._workers, lock, log)
