"""Quantises the layers of a model to int8: ``python -m ctxbatch.model.quantisation GRAPHS FOLDER OUTPUT...``.

A process of its own, because nncf imports torch and prints as it goes. Owns how layers are quantised; which
text calibrates them is the caller's. Letters of shapes: B windows, T tokens of a window.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxbatch.errors import InputError
from ctxbatch.model.graphs import EMBEDDING, LAYERS, import_openvino

_WINDOWS = "windows.npz"


def check_nncf() -> None:
    """Make sure that nncf is installed.

    Raises:
        InputError: It is not.
    """
    if importlib.util.find_spec("nncf") is None:
        raise InputError("--precision int8 needs nncf: pip install 'ctxbatch[int8]'")


def quantise(
    graphs: Path, outputs: Sequence[str], windows: Sequence[npt.NDArray[np.int64]], folder: Path
) -> Path:
    """Quantise layers, the same input giving the same bytes.

    Args:
        graphs: The graphs of the model, as `ctxbatch.model.graphs.find_graphs` keeps them.
        outputs: The outputs of the layers to keep, such as ``hidden_6``.
        windows: Token ids (T,) of the text that calibrates the ranges of activations.
        folder: An empty folder to work in.

    Returns:
        The XML file of the quantised layers, in that folder; their BIN file is beside it.

    Raises:
        InputError: nncf is not installed, or cannot quantise the model.
    """
    check_nncf()
    np.savez(folder / _WINDOWS, *windows)
    command = [sys.executable, "-P", "-m", "ctxbatch.model.quantisation", str(graphs), str(folder), *outputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InputError(f"--precision int8: the model cannot be quantised ({last}): use another --precision")
    return folder / f"{LAYERS}.xml"


def _main(graphs: Path, folder: Path, outputs: Sequence[str]) -> None:
    ov = import_openvino()
    import nncf

    core = ov.Core()
    layers = core.read_model(graphs / f"{LAYERS}.xml")
    by_name = {name: each for each in layers.outputs for name in each.get_names()}
    kept = [by_name[name].get_node() for name in outputs if name in by_name]
    graph = ov.Model(kept, layers.get_parameters(), LAYERS)
    read = [name for each in graph.inputs for name in each.get_names()]
    windows = [{name: given[name] for name in read} for given in _inputs(core, graphs, folder)]
    quantised = nncf.quantize(
        graph,
        nncf.Dataset(windows),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(windows),
    )
    ov.save_model(quantised, folder / f"{LAYERS}.xml", compress_to_fp16=False)


def _inputs(core: Any, graphs: Path, folder: Path) -> Iterator[dict[str, npt.NDArray[Any]]]:  # noqa: ANN401 (OpenVINO has no types)
    """Yield what layers can read of each window: ``hidden_0``, ``ids``, ``places`` and ``windows``."""
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    embedding = core.compile_model(core.read_model(graphs / f"{EMBEDDING}.xml"), "CPU", hint)
    names = [name for each in embedding.inputs for name in each.get_names()]
    with np.load(folder / _WINDOWS) as windows:
        for name in windows.files:
            ids_BT = windows[name][None, :]
            window_BT, place_BT = np.indices(ids_BT.shape)
            given = {"ids": ids_BT, "places": place_BT, "windows": window_BT}
            yield {"hidden_0": embedding({name: given[name] for name in names})[0].copy(), **given}


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
