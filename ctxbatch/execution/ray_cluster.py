"""Connects to a Ray cluster and asks its nodes.

Owns how a cluster is found and asked, what is said of its errors, and that Ray says nothing on the terminal.
"""

import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbatch.errors import CtxbatchError, InputError, ResourceError
from ctxbatch.execution.local_pool import ENVIRONMENT, WorkersFailedError
from ctxbatch.execution.scheduler import TRIES

log = logging.getLogger("ctxbatch")
# How long an answer is waited for in silence.
_SILENT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Share:
    """What Ray gives to each worker: a CPU, and perhaps a GPU or a part of one."""

    gpus: float = 0.0

    @classmethod
    def of_gpu(cls, n_workers: int) -> "Share":
        """Return the share of each of some workers on one GPU; rounded down, as Ray takes four decimals."""
        return cls(math.floor(1e4 / n_workers) / 1e4)

    @property
    def kind(self) -> str:
        """``CPU`` or ``GPU``: what a worker waits for."""
        return "GPU" if self.gpus else "CPU"

    def options(self) -> dict[str, Any]:
        """Return the share as options of Ray."""
        return {"num_cpus": 1, "num_gpus": self.gpus, "runtime_env": {"env_vars": ENVIRONMENT}}


@contextlib.contextmanager
def connected(asked: str) -> Iterator[None]:
    """Connect this process to a cluster: ``auto``, HOST:PORT or ray://HOST:PORT.

    Raises:
        InputError: There is no such cluster, or Ray is not installed.
    """
    ray = _import_ray()
    if ray.is_initialized():
        raise InputError("this process is connected to Ray already: call ray.shutdown() before a run")
    with _silent(ray):
        _join(ray, asked)
        try:
            yield
        finally:
            ray.shutdown()


def _join(ray: Any, asked: str) -> None:  # noqa: ANN401 (a module)
    with _own_signals():
        try:
            address = _find(ray, asked)
            ray.init(address, namespace="ctxbatch", log_to_driver=False, configure_logging=False)
            logging.getLogger("ray").addHandler(_to_own_log)  # which ray.init has removed
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            text = str(error)
            said = _last_line(error) if "Traceback" in text else " ".join(text.split())
            said = said.split(". ")[0].rstrip(".")
            raise InputError(
                f"--address {asked}: no Ray cluster can be joined ({said}): start one with `ray start "
                "--head`, or name the head of another as HOST:PORT"
            ) from error


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
            f"the cluster cannot be reached any more ({type(error).__name__}): fix that and run again"
        ) from error


def ask_node(function: Callable[..., Any], *arguments: object, share: Share) -> Any:  # noqa: ANN401 (what it returns)
    """Call a function on a node, and wait for its answer; its last argument is where this process stands.

    Args:
        function: It, and its arguments.
        arguments: Whatever can be pickled.
        share: What Ray is to give it.

    Raises:
        CtxbatchError: What the function raised, or the nodes cannot work.
    """
    ray = _import_ray()
    task = ray.remote(function).options(**share.options(), max_retries=TRIES)
    future = task.remote(*arguments, str(Path.cwd())).future()
    while True:
        try:  # not ray.get, in which the exception that a signal raises is lost
            return future.result(timeout=_SILENT_SECONDS)
        except NotYet:
            check_own_node()
            log.info(waiting(share.kind, what="an answer of the cluster"))  # a node may be at work on it
        except ray.exceptions.RayError as error:
            raise as_own_error(error) from error


def waiting(kind: str, what: str = "the cluster") -> str:
    """Return the message for an answer or a free place that takes long."""
    return f"waiting for {what}: {count(kind, free=True)} of its {count(kind)} {kind}s are free"


def count(kind: str, *, free: bool = False) -> int:
    """Return how many CPUs or GPUs the nodes of the cluster have, or have free."""
    ray = _import_ray()
    with reached():
        resources = ray.available_resources() if free else ray.cluster_resources()
    return int(resources.get(kind, 0))


def resources() -> list[Mapping[str, float]]:
    """Return what each node of the cluster has, by name: ``CPU``, ``GPU`` and others."""
    ray = _import_ray()
    with reached():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_own_node() -> None:
    """Raise an error if the node that this process has joined is dead: it could wait for ever.

    Ray starts nothing any more for a process whose node has died, and does not say so.
    """
    ray = _import_ray()
    with reached():
        own = ray.get_runtime_context().get_node_id()
        died = next((node for node in ray.nodes() if node["NodeID"] == own and not node["Alive"]), None)
    if died is not None:
        raise ResourceError(
            f"the Ray node on {died['NodeManagerHostname']}, through which this run has joined the cluster, "
            "has died: start it again with `ray start`, then run again"
        )


def places(share: Share) -> int:
    """Return for how many workers with such a share the nodes of the cluster have room."""
    rooms = []
    for node in resources():
        room = int(node.get("CPU", 0))
        rooms.append(min(room, int(node.get("GPU", 0) / share.gpus)) if share.gpus else room)
    return sum(rooms)


def as_own_error(error: BaseException) -> CtxbatchError:
    """Return what a task or an actor died of, in one line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CtxbatchError):
        return cause
    log.debug("Ray says: %s", error)
    said = _last_line(error)
    if "out of memory" in said:
        remedy = "free memory there, or use fewer --workers"
    else:
        remedy = "install the same version of ctxbatch and its dependencies on every node"
    return WorkersFailedError(f"the cluster's nodes cannot work ({said}): {remedy}")


def _last_line(error: BaseException) -> str:
    """Return the error message that follows the traceback in Ray's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _find(ray: Any, asked: str) -> str:  # noqa: ANN401 (a module)
    """Return the address of a cluster that answers; ray.init would try for minutes, or start a cluster."""
    found: str | None = asked
    if asked == "auto":
        found = ray._private.services.get_ray_address_from_environment(asked, None)
    if found is None or found == "local":
        raise ValueError("RAY_ADDRESS is local")
    if not found.startswith("ray://"):
        host, _, port = found.rpartition(":")
        if not port.isdigit():
            raise ValueError(f"{found} is not a HOST:PORT")
        socket.create_connection((host, int(port)), timeout=_SILENT_SECONDS).close()
    return found


def _import_ray() -> Any:  # noqa: ANN401 (a module that need not be there)
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'ctxbatch[ray]'") from None
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


_to_own_log = _ToOwnLog()


def _print_to_own_log(data: dict[str, Any], *_: object, **__: object) -> None:
    if lines := "\n".join(data["lines"]).strip().splitlines():
        log.debug("Ray says: %s", lines[0])


@contextlib.contextmanager
def _silent(ray: Any) -> Iterator[None]:  # noqa: ANN401 (a module)
    """Have Ray say nothing on the terminal for as long as this process is connected."""
    ray_log, worker = logging.getLogger("ray"), ray._private.worker
    handlers, propagates, prints = ray_log.handlers[:], ray_log.propagate, worker.print_worker_logs
    ray_log.handlers[:], ray_log.propagate = [_to_own_log], False
    # It prints deaths of nodes, dozens of lines each, to standard output, and has no option for it.
    worker.print_worker_logs = _print_to_own_log
    try:
        yield
    finally:
        worker.print_worker_logs = prints
        ray_log.handlers[:], ray_log.propagate = handlers, propagates
