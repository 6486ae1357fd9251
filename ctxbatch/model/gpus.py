"""Asks torch about this machine's GPUs, in a process that ends: ``python -m ctxbatch.model.gpus``.

To import torch takes seconds, and a process that has used a GPU holds some of its memory until it ends.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

# What drivers of GPUs leave in the file system: NVIDIA's, on Linux and under WSL, and AMD's.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that torch sees.

    ``bf16`` says whether it multiplies bfloat16 natively, ``packs`` whether windows can be packed on it.
    ``trouble`` is why it cannot be used, in a line; ``None`` if a small product was right.
    """

    device: str
    name: str = ""
    bf16: bool = False
    packs: bool = False
    free_bytes: int = 0
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The GPUs of this machine. ``trouble`` is why torch sees none, where a driver says that there are."""

    gpus: tuple[Gpu, ...] = ()
    trouble: str | None = None


@functools.cache
def find_gpus() -> Found:
    """Return the GPUs of this machine; without a driver for any, nobody is asked."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return Found()
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "ctxbatch.model.gpus"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    try:
        return msgspec.convert(json.loads(asked.stdout.strip().rpartition("\n")[2]), Found)
    except (ValueError, msgspec.ValidationError):
        last = asked.stderr.strip().rpartition("\n")[2] or f"exit status {asked.returncode}"
        return Found(trouble=f"torch cannot be asked for them: {last}")


def look() -> Found:
    """Return the GPUs that torch sees in this process."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return Found(trouble=f"torch {torch.__version__} is built for CPUs alone; install a build for GPUs")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch's word for its own build
        if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and "No CUDA GPUs" in str(error):
            return Found()  # as was asked for
        return Found(trouble=f"torch {torch.__version__}: {_first_sentence(error)}")
    return Found(tuple(_look_at(f"cuda:{number}") for number in range(torch.cuda.device_count())))


def _look_at(device: str) -> Gpu:
    import torch

    from ctxbatch.model import packing

    name = torch.cuda.get_device_name(device)
    try:
        with torch.cuda.device(device):
            bf16 = bool(torch.cuda.is_bf16_supported(including_emulation=False))
            ones = torch.ones(16, 16, dtype=torch.bfloat16 if bf16 else torch.float16, device=device)
            if float((ones @ ones).sum()) != 16**3:
                return Gpu(device, name, trouble="it multiplies wrongly")
            return Gpu(device, name, bf16, packing.runs_on(device), torch.cuda.mem_get_info(device)[0])
    except RuntimeError as error:
        return Gpu(device, name, trouble=_first_sentence(error))


def _first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error's message, without its full stop."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")


def main() -> None:
    """Print what `look` finds as a line of JSON."""
    sys.stdout.write(json.dumps(asdict(look())) + "\n")


if __name__ == "__main__":
    main()
