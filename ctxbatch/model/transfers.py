"""Moves arrays to a device and results back: as they are for a CPU, through pinned memory for a GPU."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

Arrays = list[npt.NDArray[Any]]


class CpuTransfers:
    """Shares memory. Results are there when the model returns."""

    # So many batches are handed over before the last one's results are waited for.
    ahead = 0

    def at_work(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the model runs and its results are fetched."""
        return contextlib.nullcontext()

    def put(self, array: npt.NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the device."""
        return torch.from_numpy(array)

    def fetch(self, found: Sequence[Tensor]) -> Callable[[], Arrays]:
        """Return a function that waits for tensors of the device, and returns them as arrays."""
        return lambda: [tensor.numpy() for tensor in found]

    def free(self) -> None:
        """Give the device what memory can be given back to it, after it had too little."""


class GpuTransfers(CpuTransfers):
    """Copies through pinned memory while the GPU computes.

    Args:
        device: ``cuda:N``.
    """

    ahead = 1

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        # Results leave on a stream of their own, while the next batch is computed.
        self._leaving = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def at_work(self) -> contextlib.AbstractContextManager[object]:
        """Return a context in which torch takes this GPU where none is named, as in streams, and no other.

        Without it each process would also take some hundred MB of the first GPU, which can be full.
        """
        return torch.cuda.device(self._device)

    def put(self, array: npt.NDArray[Any]) -> Tensor:
        """Start the copy of an array to the device."""
        return torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)

    def fetch(self, found: Sequence[Tensor]) -> Callable[[], Arrays]:
        """Start the copy of tensors; return a function that waits for it."""
        host = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in found]
        self._leaving.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._leaving):
            for target, source in zip(host, found, strict=True):
                target.copy_(source, non_blocking=True)
                source.record_stream(self._leaving)  # so that its memory is not taken before
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            copied.record()

        def wait() -> Arrays:
            copied.synchronize()
            return [tensor.numpy() for tensor in host]

        return wait

    def free(self) -> None:
        """Return cached blocks to the device."""
        torch.cuda.empty_cache()
