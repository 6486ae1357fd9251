"""Loading and running a compiled model, and the shapes of batches that it takes."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# What a compiled program is made for: longer windows would need much memory for their attention, and
# a single window or row is a shape of its own to the compiler.
COMPILED_TOKENS = 512
COMPILED_LEAST = 2


class Program:
    """A loaded program, called like the model that it was made from.

    Called through the C interface of AOTInductor, because torch's own loader keeps Python's lock for as
    long as a batch runs, and then nothing can be read or written beside it.

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

        # The program takes ownership of what comes in, and gives that of what goes out.
        given = [_address(each) for each in _aoti.unsafe_alloc_void_ptrs_from_tensors(list(inputs))]
        ins, outs = (ctypes.c_void_p * len(given))(*given), (ctypes.c_void_p * self._n_outputs)()
        if self._run(self._container, ins, len(given), outs, self._n_outputs, None, None):
            raise RuntimeError("the compiled program failed; what it says stands above")
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
