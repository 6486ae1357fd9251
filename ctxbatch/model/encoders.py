"""Chooses what runs a model: OpenVINO on CPUs, torch on GPUs and where OpenVINO cannot."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ctxbatch.config import ResolvedConfig
from ctxbatch.model.graphs import ConversionError
from ctxbatch.model.hub import ModelFolder
from ctxbatch.model.word_vectors import WordVectors
from ctxbatch.text.batching import TokenBatch

log = logging.getLogger("ctxbatch")


class BatchEncoder(Protocol):
    """Runs batches on one device."""

    def encode(self, batches: Iterable[TokenBatch]) -> Iterator[WordVectors]:
        """Run batches and yield the vectors of each, in order."""


def open_encoder(
    config: ResolvedConfig,
    device: str,
    model: ModelFolder | None = None,
    int8_layers: Path | None = None,
) -> BatchEncoder:
    """Return an encoder for a configuration on a device, its model loaded.

    Args:
        config: The resolved configuration.
        device: ``cpu`` or ``cuda:N``.
        model: Where the model is; found by its name if not given.
        int8_layers: The XML file of the quantised layers, for ``int8``.

    Raises:
        InputError: The model cannot be found or loaded.
        StoreError: Its files are not those of the configuration.
    """
    if device == "cpu" and config.runtime == "openvino":
        from ctxbatch.model.cpu_encoder import CpuEncoder

        return CpuEncoder(config, model, int8_layers)
    from ctxbatch.model.encoder import Encoder  # imports torch

    return Encoder(config, device, model)


def open_query_encoder(config: ResolvedConfig, model: ModelFolder) -> BatchEncoder:
    """Return an encoder for queries, on the CPU; raises what `open_encoder` does."""
    try:
        return open_encoder(config, "cpu", model)
    except ConversionError as error:
        log.warning("%s; torch runs it instead", error)
        return open_encoder(replace(config, runtime="torch"), "cpu", model)
