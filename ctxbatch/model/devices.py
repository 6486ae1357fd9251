"""The machine: its devices, what they multiply natively, how many workers fit on it.

Imports torch, and nothing of the project that does.
"""

import platform
from collections.abc import Sequence
from importlib import metadata

import torch

from ctxbatch.cores import count_cores
from ctxbatch.errors import InputError


def choose_devices(wanted: Sequence[str] | None) -> list[str]:
    """The devices to work on: those asked for, or else all GPUs of this machine, or else the CPU.

    Returns:
        ``["cpu"]``, or ``["cuda:0", …]``.

    Raises:
        InputError: This machine does not have a device that is asked for.
    """
    here = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    for device in wanted or ():
        if device not in (*here, "cpu"):
            have = ", ".join([*here, "cpu"])
            raise InputError(f"--devices {device}: this machine has no such device; it has {have}")
    return list(wanted) if wanted else here or ["cpu"]


def choose_workers(wanted: int | None, devices: Sequence[str]) -> list[str]:
    """The device of each worker: one a GPU, or one a physical core that this process may use."""
    n_workers = wanted or (len(devices) if devices != ["cpu"] else count_cores())
    return [devices[number % len(devices)] for number in range(n_workers)]


def multiplies_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 matrices natively: GPUs that do, AMX and AVX-512 BF16."""
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def use_one_thread() -> None:
    """Let this process compute with one thread: one worker a core, and bits that do not depend on it."""
    torch.set_num_threads(1)


def describe_device(device: str) -> str:
    """The device by name, for the record."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return (
        f"cpu ({torch.cpu.get_capabilities().get('cpu_name') or platform.processor() or platform.machine()})"
    )


def library_versions() -> dict[str, str]:
    """Versions of what the bits of a result can depend on."""
    return {
        name: metadata.version(name) for name in ("ctxbatch", "torch", "transformers", "pyarrow", "numpy")
    }
