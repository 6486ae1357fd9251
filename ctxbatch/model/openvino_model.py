"""Runs the graphs of a model on the CPU: from a batch of token ids to hidden states, as numpy arrays.

Owns how graphs are compiled: their precision, one thread, bounded caches. Letters of shapes: B windows, T
tokens, D hidden size, H heads, E dimensions of a head.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.arrays import Ints
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import ResourceError, StoreError
from ctxbatch.model.facts import first_line
from ctxbatch.model.graphs import EMBEDDING, LAYERS, import_openvino
from ctxbatch.model.narrowing import TOKENS, narrow
from ctxbatch.model.word_vectors import OutOfMemoryError

Array = npt.NDArray[np.float32]
# Of a quantised model, the hint is that of what stays in floating point. "f16" can fall into slow code.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Shapes whose kernels are kept: batches have thousands of shapes, and memory would grow with each.
_CACHED_SHAPES = "64"
# Narrowed outputs are padded to a multiple, so that there are few shapes of them.
_TOKENS_STEP = 64
# What layers can read; a mask those that are kept in stores of before windows shared sequences.
_INPUTS = {"hidden_0", "ids", "places", "windows", "mask"}


def outputs_of(config: ResolvedConfig) -> list[str]:
    """Return the outputs of the layers that a configuration needs."""
    outputs = [f"hidden_{layer}" for layer in config.layers]
    if (layer := config.salience_layer) is not None:
        outputs += [f"query_{layer}", f"key_{layer}", f"mask_{layer}"]
    return outputs


class OpenVinoModel:
    """The graphs of a model, compiled for this process.

    Args:
        folder: Where `ctxbatch.model.graphs.find_graphs` keeps them.
        precision: Arithmetic of the layers: fp32, bf16 or int8. The embedding layer is always fp32.
        outputs: Names of what is wanted of the layers: ``hidden_3``, ``query_3``, ``key_3``, ``mask_3``.
        int8_layers: The XML file of the quantised layers, for ``int8``.
        narrowed: The output that is wanted only of the tokens that `run` is given. The attribute is its name
            again, or ``None`` where that saves nothing: then it is given of all tokens.

    Raises:
        ResourceError: Memory is short, or a file cannot be read.
        StoreError: ``int8_layers`` are not layers of such a model.
    """

    def __init__(
        self,
        folder: Path,
        precision: str,
        outputs: Sequence[str],
        int8_layers: Path | None = None,
        narrowed: str | None = None,
    ) -> None:
        self.narrowed = narrowed
        try:
            self._load(folder, precision, outputs, int8_layers)
        except RuntimeError as error:  # the files are intact, as their checksums say
            raise ResourceError(f"{folder}: OpenVINO cannot load the model: {first_line(error)}") from error

    def _load(self, folder: Path, precision: str, outputs: Sequence[str], int8_layers: Path | None) -> None:
        ov = import_openvino()
        core = ov.Core()
        embedding = core.read_model(folder / f"{EMBEDDING}.xml")
        self._embedding = _compiled(core, embedding, "f32")
        self._read = [_name(each) for each in embedding.inputs]
        self._names = [_name(each) for each in embedding.outputs]
        self._layers = None
        if outputs:
            path = int8_layers or folder / f"{LAYERS}.xml"
            layers = core.read_model(path)
            by_name = {name: each for each in layers.outputs for name in each.get_names()}
            # A layer without a mask has none to give.
            self._wanted = [name for name in outputs if name in by_name]
            missing = [name for name in outputs if name not in by_name and not name.startswith("mask_")]
            read = {name for each in layers.inputs for name in each.get_names()}
            if missing or len(read) < len(layers.inputs) or not read <= _INPUTS:
                raise StoreError(
                    f"{path} is not of layers that this version can run: run again with another -o"
                )
            results = [by_name[name].get_node() for name in self._wanted]
            graph = ov.Model(results, layers.get_parameters()).clone()
            if self.narrowed is not None and not narrow(graph, self.narrowed):
                self.narrowed = None
            self._layers = _compiled(core, graph, _HINTS[precision])
            self._read_by_layers = [_name(each) for each in graph.inputs]

    @property
    def sees_one_window(self) -> bool:
        """Whether a token sees all of its sequence, so that windows cannot share one."""
        return self._layers is not None and "mask" in self._read_by_layers

    @classmethod
    def of_last_layer(cls, folder: Path, precision: str, n_layers: int) -> "OpenVinoModel":
        """Return the whole model, giving the hidden state of its last layer alone."""
        return cls(folder, precision, [f"hidden_{n_layers}"])

    def run(
        self, ids_BT: Ints, place_BT: Ints, window_BT: Ints, tokens_M: Ints | None = None
    ) -> dict[str, Array]:
        """Run a batch.

        Args:
            ids_BT: Token ids, padded.
            place_BT: The place of each token in its window, from 0.
            window_BT: The window of each token, which sees those of its own window alone; -1 for padding.
            tokens_M: The tokens that the narrowed output is wanted of, as indices into the flattened (B * T).

        Returns:
            ``hidden_0`` (B, T, D), ``lookup`` if the model has it, and the outputs asked for: hidden states
            (B, T, D), queries and keys (B, H, T, E), masks (B, 1, T, T). The narrowed one is (1, M, D). They
            are valid until the next batch.

        Raises:
            OutOfMemoryError: This machine has no memory for the batch.
        """
        given: dict[str, npt.NDArray[Any]] = {"ids": ids_BT, "places": place_BT, "windows": window_BT}
        inputs = [given[name] for name in self._read]
        found = dict(zip(self._names, _infer(self._embedding, inputs), strict=True))
        if self._layers is not None:
            given |= {"hidden_0": found["hidden_0"], "mask": window_BT >= 0}
            if tokens_M is not None:
                # Words can share a wordpiece, so there can be more of them than tokens.
                n_padded = min(-len(tokens_M) % _TOKENS_STEP, max(0, ids_BT.size - len(tokens_M)))
                given[TOKENS] = np.pad(tokens_M, (0, n_padded))
            inputs = [given[name] for name in self._read_by_layers]
            found |= zip(self._wanted, _infer(self._layers, inputs), strict=True)
            if tokens_M is not None and self.narrowed is not None:
                found[self.narrowed] = found[self.narrowed][:, : len(tokens_M)]
        return found


def half_floats() -> Callable[[Array], npt.NDArray[np.float16]]:
    """Return a function that rounds to half floats as numpy does, eight times as fast.

    What it returns is valid until the next call. It raises `OutOfMemoryError` like a model.
    """
    ov = import_openvino()
    values = ov.opset13.parameter([-1, -1], np.float32)
    request = _compiled(ov.Core(), ov.Model([ov.opset13.convert(values, "f16")], [values]), "f32")
    return lambda values_ND: _infer(request, [values_ND])[0]


def _name(port: Any) -> str:  # noqa: ANN401 (OpenVINO has no types)
    """Return the name of an input or output of a graph."""
    name: str = next(iter(port.get_names()))
    return name


def _compiled(core: Any, graph: Any, hint: str) -> Any:  # noqa: ANN401 (OpenVINO has no types)
    """Return an inference request of a graph that computes with one thread."""
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        # Else two processes of one thread each sit on the same core.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": _CACHED_SHAPES,
    }
    with _signal_stack_kept():
        return core.compile_model(graph, "CPU", options).create_infer_request()


@contextlib.contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Leave the thread with the stack for handlers of signals that it had, mostly none.

    A core of OpenVINO gives its thread one when it first compiles for the CPU, and puts back what was before
    when it is freed. With two cores, that is the stack of the first one: where the first was freed before, or
    on another thread, the next signal ends the process with a segmentation fault. A core that finds another
    stack than its own changes nothing.
    """
    change = ctypes.CDLL(None).sigaltstack
    before = ctypes.create_string_buffer(64)  # a stack_t has 24 bytes
    change(None, before)
    try:
        yield
    finally:
        change(before, None)


def _infer(request: Any, inputs: list[npt.NDArray[Any]]) -> list[Any]:  # noqa: ANN401 (as above)
    try:
        return _run(request, inputs)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error) or "memory" in str(error):
            raise OutOfMemoryError(str(error).splitlines()[0] if str(error) else "no memory") from None
        raise


def _run(request: Any, inputs: list[npt.NDArray[Any]]) -> list[Any]:  # noqa: ANN401 (as above)
    return list(request.infer(inputs, share_inputs=True, share_outputs=True).values())
