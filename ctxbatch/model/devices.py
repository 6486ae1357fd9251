"""Chooses the devices of a run and how many workers share them, and names them. Imports no torch."""

import functools
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError
from ctxbatch.memory import free_memory
from ctxbatch.model.gpus import Gpu, find_gpus
from ctxbatch.versions import version_of

log = logging.getLogger("ctxbatch")
# One process reads and writes for so much less than a GPU computes that several share one. Each needs
# memory of the GPU for the model, a batch and what the driver takes, and of the host for three buffers.
_WORKERS_PER_GPU = 8
_GPU_BYTES, _HOST_BYTES = 6 << 30, 3 << 30
# And so many times the vectors of a batch: on the GPU each column, all columns together and those of the last
# batch; on the host two batches, whose memory torch takes by powers of two.
_ON_GPU, _ON_HOST = 3, 4


def choose_devices(wanted: Sequence[str] | None) -> list[str]:
    """Return the devices to work on: the wanted ones, else all GPUs of this machine, else the CPU.

    Says which GPUs are left out and why.

    Returns:
        ``["cpu"]``, or ``["cuda:0", …]``.

    Raises:
        InputError: This machine lacks a wanted device, or torch cannot use it.
    """
    if wanted is not None and set(wanted) == {"cpu"}:
        return list(wanted)
    found = find_gpus()
    usable = [gpu.device for gpu in found.gpus if gpu.trouble is None]
    reasons = {gpu.device: f"{gpu.name} cannot be used: {gpu.trouble}" for gpu in found.gpus if gpu.trouble}
    for device in wanted or ():
        if device not in usable:
            have = ", ".join([*usable, "cpu"])
            reason = reasons.get(device) or found.trouble or "this machine has no such device"
            raise InputError(f"--devices {device}: {reason}; there are {have}")
    if wanted:
        return list(wanted)
    for device, reason in reasons.items():
        log.warning("%s: %s", device, reason)
    if not usable and found.trouble:
        log.warning("this runs on the CPU, though a driver for GPUs is here: %s", found.trouble)
    return usable or ["cpu"]


def least_capable(devices: Sequence[str]) -> str:
    """Return one of the devices, all of which compute what it computes: its arithmetic, packed or not."""
    if devices[0] == "cpu":
        return devices[0]
    return min(devices, key=lambda device: (facts_of(device).bf16, facts_of(device).packs))


def choose_workers(wanted: int | None, devices: Sequence[str], batch_bytes: int) -> list[str]:
    """Return the device of each worker: one per physical core on CPUs, several per GPU.

    Args:
        wanted: How many are asked for.
        devices: Where they work.
        batch_bytes: What the vectors of a batch take.
    """
    n_workers = wanted or (
        count_cores()
        if devices == ["cpu"]
        else len(devices) * workers_per_gpu(devices, len(devices), batch_bytes)
    )
    return [devices[number % len(devices)] for number in range(n_workers)]


def workers_per_gpu(devices: Sequence[str], n_gpus: int, batch_bytes: int) -> int:
    """Return how many workers cores and memory allow on each GPU of a machine that works on ``n_gpus``.

    Args:
        devices: Those of its GPUs that this process sees.
        n_gpus: How many there are.
        batch_bytes: What the vectors of a batch take.
    """
    gpu_bytes, host_bytes = _GPU_BYTES + _ON_GPU * batch_bytes, _HOST_BYTES + _ON_HOST * batch_bytes
    free = [gpu.free_bytes for gpu in find_gpus().gpus if gpu.device in devices]
    fit = min([count_cores() // n_gpus, free_memory() // (host_bytes * n_gpus)])
    return max(1, min(_WORKERS_PER_GPU, fit, *(each // gpu_bytes for each in free)))


def facts_of(device: str) -> Gpu:
    """Return what is known of a GPU.

    Raises:
        InputError: There is none of that name.
    """
    for gpu in find_gpus().gpus:
        if gpu.device == device:
            return gpu
    raise InputError(f"--devices {device}: this machine has no such device")


def describe_device(device: str) -> str:
    """Return the name of a device, for the record."""
    if not device.startswith("cuda"):
        return f"cpu ({processor()[0]})"
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # as in a worker, which need not ask
            return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({facts_of(device).name})"


@functools.cache
def processor() -> tuple[str, str]:
    """Return the processor's name and the instructions that it knows, as the kernel lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, facts.get("flags", facts.get("Features", ""))


def library_versions() -> dict[str, str]:
    """Return the versions of libraries that the bits of a result can depend on."""
    names = ("ctxbatch", "openvino", "torch", "transformers", "pyarrow", "numpy")
    return {name: version_of(name) for name in names}
