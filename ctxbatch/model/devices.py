"""Finds this machine's devices, what they multiply natively, and how many workers fit.

Imports torch, but no module of the project that does.
"""

import platform
from collections.abc import Sequence
from importlib import metadata

import torch

from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError


def choose_devices(wanted: Sequence[str] | None) -> list[str]:
    """Return the devices to work on: the wanted ones, else all GPUs of this machine, else the CPU.

    Returns:
        ``["cpu"]``, or ``["cuda:0", …]``.

    Raises:
        InputError: This machine lacks a wanted device.
    """
    here = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    for device in wanted or ():
        if device not in (*here, "cpu"):
            have = ", ".join([*here, "cpu"])
            raise InputError(f"--devices {device}: this machine has no such device; it has {have}")
    return list(wanted) if wanted else here or ["cpu"]


def choose_workers(wanted: int | None, devices: Sequence[str]) -> list[str]:
    """Return the device of each worker: one per GPU, or per physical core that this process may use."""
    n_workers = wanted or (len(devices) if devices != ["cpu"] else count_cores())
    return [devices[number % len(devices)] for number in range(n_workers)]


def multiplies_bf16(device: str) -> bool:
    """Return True if a device multiplies bfloat16 matrices natively: some GPUs, AMX, AVX-512 BF16."""
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def use_one_thread() -> None:
    """Compute with one thread: workers fill the cores, and bits do not depend on the number of threads."""
    torch.set_num_threads(1)


def describe_device(device: str) -> str:
    """Return the name of a device, for the record."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return (
        f"cpu ({torch.cpu.get_capabilities().get('cpu_name') or platform.processor() or platform.machine()})"
    )


def library_versions() -> dict[str, str]:
    """Return the versions of libraries that the bits of a result can depend on."""
    return {
        name: metadata.version(name) for name in ("ctxbatch", "torch", "transformers", "pyarrow", "numpy")
    }
