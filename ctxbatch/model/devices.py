"""Finds this machine's devices, what they multiply natively, and how many workers fit.

Imports torch only for GPUs.
"""

import functools
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError

# What drivers of GPUs leave in the file system: NVIDIA's, on Linux and under WSL, and AMD's.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def choose_devices(wanted: Sequence[str] | None) -> list[str]:
    """Return the devices to work on: the wanted ones, else all GPUs of this machine, else the CPU.

    Returns:
        ``["cpu"]``, or ``["cuda:0", …]``.

    Raises:
        InputError: This machine lacks a wanted device.
    """
    here = _gpus()
    for device in wanted or ():
        if device not in (*here, "cpu"):
            have = ", ".join([*here, "cpu"])
            raise InputError(f"--devices {device}: this machine has no such device; it has {have}")
    return list(wanted) if wanted else here or ["cpu"]


def _gpus() -> list[str]:
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return []  # to import torch takes a second
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def choose_workers(wanted: int | None, devices: Sequence[str]) -> list[str]:
    """Return the device of each worker: one per GPU, or per physical core that this process may use."""
    n_workers = wanted or (len(devices) if devices != ["cpu"] else count_cores())
    return [devices[number % len(devices)] for number in range(n_workers)]


def multiplies_bf16(device: str) -> bool:
    """Return True if a GPU multiplies bfloat16 matrices natively."""
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def describe_device(device: str) -> str:
    """Return the name of a device, for the record."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({processor()[0]})"


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
    return {name: metadata.version(name) for name in names}
