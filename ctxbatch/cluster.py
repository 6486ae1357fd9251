"""The connection to a Ray cluster, as the place of a run.

Owns how a cluster is found, what kind of devices it works with, and that Ray says nothing on the terminal.
"""

import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from ctxbatch.config import ResolvedConfig, RunConfig
from ctxbatch.dispatch import TRIES
from ctxbatch.errors import CtxbatchError, InputError, ResourceError
from ctxbatch.places import Place
from ctxbatch.pool import ENVIRONMENT, WorkersFailedError
from ctxbatch.rayworker import compile_here, resolve_here

if TYPE_CHECKING:
    from ctxbatch.raypool import RayPool

log = logging.getLogger("ctxbatch")
# How long an answer is waited for in silence.
_SILENT_SECONDS = 20.0


@contextlib.contextmanager
def connected(config: RunConfig) -> Iterator["RayEngine"]:
    """Connect this process to the cluster that the options name.

    Raises:
        InputError: There is no such cluster, or Ray is not installed.
    """
    ray = _import_ray()
    if ray.is_initialized():
        raise InputError("this process is connected to Ray already: call ray.shutdown() before a run")
    asked = config.address or "auto"
    with _own_signals():
        try:
            address = _find(ray, asked)
            ray.init(address, namespace="ctxbatch", log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            said = " ".join(str(error).split()).split(". ")[0].rstrip(".")
            raise InputError(
                f"--address {asked}: no Ray cluster can be joined ({said}): start one with `ray start "
                "--head`, or name the head of another as HOST:PORT"
            ) from error
    try:
        yield RayEngine(config)
    finally:
        ray.shutdown()


class RayEngine:
    """A cluster that this process is connected to: all its GPUs, or else all its CPUs.

    Args:
        config: The options; only ``workers`` counts.
    """

    def __init__(self, config: RunConfig) -> None:
        self._n_workers = config.workers
        self._kind = "GPU" if count("GPU") else "CPU"
        self._device = "cuda:0" if self._kind == "GPU" else "cpu"  # Ray shows a worker its own GPU alone
        self._has_program = False

    @property
    def devices(self) -> Sequence[str]:
        """None: rates of past runs are those of one machine, and here are several."""
        return ()

    def resolve(self, config: RunConfig, corpus_bytes: int) -> ResolvedConfig:
        """What the options mean on a node."""
        resolved: ResolvedConfig = self._ask(resolve_here, config, self._device, corpus_bytes)
        return resolved

    def make_program(self, config: ResolvedConfig) -> None:
        """Compile the model on a node; others do so with their first worker."""
        if config.compiled and self._kind == "CPU" and not self._has_program:
            log.info("compiling %s on the cluster: takes about a minute, once a machine", config.model)
            self._ask(compile_here, config)
            self._has_program = True

    def workers(self, place: Place, lock: int, log: IO[str]) -> "RayPool":  # noqa: ARG002 (of this machine alone)
        """Actors."""
        from ctxbatch.raypool import RayPool

        return RayPool(place, self._device, self._share, self._n_workers)

    @property
    def _share(self) -> dict[str, Any]:
        """What Ray is to give each worker."""
        n_gpus = int(self._kind == "GPU")
        return {"num_cpus": 1, "num_gpus": n_gpus, "runtime_env": {"env_vars": ENVIRONMENT}}

    def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 (what it returns)
        """Call a function on a node; its last argument is where this process stands."""
        ray = _import_ray()
        task = ray.remote(function).options(**self._share, max_retries=TRIES)
        future = task.remote(*arguments, str(Path.cwd())).future()
        while True:
            try:  # not ray.get, in which the exception that a signal raises is lost
                return future.result(timeout=_SILENT_SECONDS)
            except NotYet:
                free, n_places = count(self._kind, free=True), count(self._kind)
                log.info("waiting for the cluster: %d of its %d %ss are free", free, n_places, self._kind)
            except ray.exceptions.RayError as error:
                raise as_own_error(error) from error


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Say in one line that the cluster is gone.

    Raises:
        ResourceError: It is.
    """
    ray = _import_ray()
    try:
        yield
    except (ConnectionError, ray.exceptions.RayError) as error:
        log.debug("Ray says: %s", error)
        raise ResourceError(
            f"the cluster cannot be reached any more ({type(error).__name__}): mend it and run again"
        ) from error


def count(kind: str, *, free: bool = False) -> int:
    """How many CPUs or GPUs the nodes of the cluster have, or have free."""
    ray = _import_ray()
    with reached():
        resources = ray.available_resources() if free else ray.cluster_resources()
    return int(resources.get(kind, 0))


def as_own_error(error: BaseException) -> CtxbatchError:
    """What a task or an actor died of, in one line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CtxbatchError):
        return cause
    log.debug("Ray says: %s", error)
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return WorkersFailedError(
        f"the cluster's nodes cannot work ({last}): each needs the same ctxbatch, and all that it needs"
    )


def _find(ray: Any, asked: str) -> str:  # noqa: ANN401 (a module)
    """The address of a cluster that answers; ray.init would try for minutes, or start one of its own."""
    found: str | None = asked
    if asked == "auto":
        found = ray._private.services.get_ray_address_from_environment(asked, None)
    if found is None or found == "local":
        raise ValueError("RAY_ADDRESS is local")
    if not found.startswith("ray://"):
        host, _, port = found.rpartition(":")
        if not port.isdigit():
            raise ValueError(f"{found} is no HOST:PORT")
        socket.create_connection((host, int(port)), timeout=_SILENT_SECONDS).close()
    return found


def _import_ray() -> Any:  # noqa: ANN401 (a module that need not be there)
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'ctxbatch[ray]'") from None
    _silence(ray)
    return ray


# --- what Ray does to a process -------------------------------------------------------------------


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which ray.init replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class _ToOwnLog(logging.Handler):
    """Takes what Ray logs to the log of the run; on the terminal it would be one message among many."""

    def emit(self, record: logging.LogRecord) -> None:
        log.debug("Ray says: %s", record.getMessage())


@functools.cache
def _silence(ray: ModuleType) -> None:
    ray_log = logging.getLogger("ray")
    ray_log.propagate = False
    ray_log.addHandler(_ToOwnLog())

    def to_own_log(data: dict[str, Any], *_: object, **__: object) -> None:
        if lines := "\n".join(data["lines"]).strip().splitlines():
            log.debug("Ray says: %s", lines[0])

    # It prints deaths of nodes, dozens of lines each, to standard output, and has no option for it.
    ray._private.worker.print_worker_logs = to_own_log
