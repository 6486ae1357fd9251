"""Loads and runs compiled models, and owns the limits of their batches."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Longer windows would need much memory for their attention, and the compiler treats a single window or row as
# a shape of its own.
COMPILED_TOKENS = 512
COMPILED_LEAST = 2


class Program:
    """A loaded program, called like the model that it was made from.

    It runs through the C interface of AOTInductor, because torch's own loader holds Python's lock while a
    batch runs, so that nothing could be read or written meanwhile.

    Args:
        path: The shared library.

    Raises:
        OSError: It cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self._container = pointer()
        library = ctypes.CDLL(str(path))
        create = library.AOTInductorModelContainerCreateWithDevice
        create.argtypes = (pointer, size, ctypes.c_char_p, ctypes.c_char_p)
        if create(ctypes.byref(self._container), 1, b"cpu", None):
            raise OSError(f"{path} cannot be loaded: delete it, and the next run rebuilds it")
        count = pointer()
        count_outputs = library.AOTInductorModelContainerGetNumOutputs
        count_outputs.argtypes = (pointer, pointer)
        count_outputs(self._container, ctypes.byref(count))
        self._n_outputs = count.value or 0
        self._run = library.AOTInductorModelContainerRun
        self._run.argtypes = (pointer, pointer, size, pointer, size, pointer, pointer)

    def __call__(self, *inputs: "Tensor") -> "list[Tensor]":
        """Run a batch; arguments and results are those of `ctxbatch.model.encoder.WordModel.forward`."""
        from torch._C import _aoti

        # The program takes ownership of its inputs, and passes on that of its outputs.
        given = [_address(each) for each in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(inputs))]
        ins, outs = (ctypes.c_void_p * len(given))(*given), (ctypes.c_void_p * self._n_outputs)()
        if self._run(self._container, ins, len(given), outs, self._n_outputs, None, None):
            raise RuntimeError("the compiled program failed; its own message is above")
        tensors: Sequence[Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(
            [_capsule(address) for address in outs]
        )
        return list(tensors)


def _address(capsule: Any) -> int | None:  # noqa: ANN401 (Python has no name for this type)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address: int | None = get(capsule, None)
    return address


def _capsule(address: int | None) -> Any:  # noqa: ANN401 (Python has no name for this type)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(address, None, None)
