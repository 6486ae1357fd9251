"""Measures which arithmetic a model's layers are faster in on this processor, once, and keeps the answer.

A processor's flags do not say: bf16 is twice as fast as fp32 on some CPUs that have it, and slower on others.
"""

import hashlib
import logging
import statistics
import time
from pathlib import Path
from typing import Literal

import numpy as np

from ctxbatch.errors import CtxbatchError
from ctxbatch.files import write_json
from ctxbatch.model.devices import processor
from ctxbatch.model.facts import ModelFacts
from ctxbatch.model.openvino_model import OpenVinoModel
from ctxbatch.sealed import read_json

log = logging.getLogger("ctxbatch")
# bf16 rounds, so it has to be worth it.
_WORTH = 1.15
_ROUNDS, _SECONDS = 9, 2.0
# Layers with fewer weights take less time than the calls to them, so that a comparison would be by chance.
_LEAST_WEIGHTS = 1_000_000
_WINDOWS, _TOKENS = 32, 32


def faster_precision(graphs: Path, name: str, facts: ModelFacts) -> Literal["fp32", "bf16"]:
    """Return the arithmetic to take for a model on this processor: bf16 if it is 1.15 times as fast as fp32.

    Args:
        graphs: The graphs of the model; the answer is kept beside them, by processor.
        name: The model's name, for the line that reports the answer.
        facts: What the model's files say; a model of very small layers is not measured.

    Raises:
        ResourceError: Memory is short, or a graph cannot be read.
    """
    if 12 * facts.n_layers * facts.hidden_size**2 < _LEAST_WEIGHTS:
        return "fp32"
    key = hashlib.sha256("\n".join(processor()).encode()).hexdigest()[:16]
    kept = graphs / f"precision-{key}.json"
    try:
        ratio = float(read_json(kept)["bf16_to_fp32"])
    except (OSError, CtxbatchError, KeyError, TypeError, ValueError):
        ratio = _measured(graphs, facts.n_layers)
        log.info("precision: %s for %s: bf16 is %.2f times as fast as fp32 here", _chosen(ratio), name, ratio)
        try:
            write_json(kept, {"bf16_to_fp32": round(ratio, 3), "processor": processor()[0]})
        except OSError as error:
            log.debug("the measured precision cannot be kept: %s", error)
    return _chosen(ratio)


def _chosen(ratio: float) -> Literal["fp32", "bf16"]:
    return "bf16" if ratio >= _WORTH else "fp32"


def _measured(graphs: Path, n_layers: int) -> float:
    """Return how many times as fast bf16 is, from batches in turns."""
    fp32, bf16 = (OpenVinoModel.of_last_layer(graphs, kind, n_layers) for kind in ("fp32", "bf16"))
    for model in (fp32, bf16):  # the first batch of a shape takes longer
        _seconds(model)
    until = time.perf_counter() + _SECONDS
    ratios: list[float] = []
    while len(ratios) < _ROUNDS and (time.perf_counter() < until or not ratios):
        ratios.append(_seconds(fp32) / _seconds(bf16))
    return statistics.median(ratios)


def _seconds(model: OpenVinoModel) -> float:
    """Return the seconds that a batch takes."""
    ids_BT = np.arange(_WINDOWS * _TOKENS, dtype=np.int64).reshape(_WINDOWS, _TOKENS) % 64
    window_BT, place_BT = np.indices(ids_BT.shape)
    began = time.perf_counter()
    model.run(ids_BT, place_BT, window_BT)
    return time.perf_counter() - began
