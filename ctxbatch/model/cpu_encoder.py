"""Encodes batches on the CPU with OpenVINO: hidden states from the graphs, everything after them in numpy.

Imports neither torch nor transformers. Letters of shapes: C vector columns, N rows of a batch, R rows that
are kept, D hidden size.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import StoreError
from ctxbatch.model import rows
from ctxbatch.model.facts import checked_model
from ctxbatch.model.graphs import find_graphs
from ctxbatch.model.hub import ModelFolder
from ctxbatch.model.openvino_model import Array, OpenVinoModel, half_floats, outputs_of
from ctxbatch.model.shift import shift_function
from ctxbatch.model.word_vectors import WordVectors
from ctxbatch.text.batching import TokenBatch


class CpuEncoder:
    """Runs batches on one core.

    Args:
        config: The resolved configuration.
        model: Where the model is; found by its name if not given.
        int8_layers: The quantised layers, for ``int8``.

    Raises:
        InputError: The model cannot be found.
        StoreError: Its files are not those of the configuration, or the int8 layers do not fit it.
        ConversionError: OpenVINO cannot convert the model.
    """

    def __init__(
        self, config: ResolvedConfig, model: ModelFolder | None = None, int8_layers: Path | None = None
    ) -> None:
        folder = checked_model(config, model)
        self._config = config
        last = f"hidden_{config.highest_layer}" if config.layers else None
        self._model = OpenVinoModel(
            find_graphs(folder), config.precision, outputs_of(config), int8_layers, narrowed=last
        )
        if int8_layers and config.shared_sequences and self._model.sees_one_window:
            raise StoreError(
                f"{int8_layers} cannot tell windows of a sequence apart, as the store's manifest wants: "
                "it cannot be trusted, run again with another -o"
            )
        self._shift = None if config.formula is None else shift_function(config.formula, np)
        self._as_stored = half_floats() if config.value_type == "float16" else None

    def encode(self, batches: Iterable[TokenBatch]) -> Iterator[WordVectors]:
        """Run batches and yield the vectors of each, in order.

        Raises:
            OutOfMemoryError: This machine has no memory for the next batch.
        """
        for batch in batches:
            yield self._encode(batch)

    def _encode(self, batch: TokenBatch) -> WordVectors:
        found = self._model.run(batch.input_ids_BT, batch.place_BT, batch.window_BT, batch.positions_M)
        salience_N = kept_R = None
        if (layer := self._config.salience_layer) is not None:
            seen = found[f"query_{layer}"], found[f"key_{layer}"], found.get(f"mask_{layer}")
            salience_N = rows.salience(*seen, batch, self._config.salience_head)
            if batch.places_R is not None:
                kept_R = rows.most_salient(salience_N, batch)
        columns = self._columns(found, batch)
        stored = [columns[name] if kept_R is None else columns[name][kept_R] for name in self._config.columns]
        vectors_CRD = np.empty((len(stored), *stored[0].shape), self._config.value_type)
        for number, column in enumerate(stored):  # one out of range becomes infinite, and its row is rejected
            vectors_CRD[number] = column if self._as_stored is None else self._as_stored(column)
        return WordVectors(vectors_CRD, rows.finite(vectors_CRD), salience_N, kept_R)

    def _columns(self, found: dict[str, Array], batch: TokenBatch) -> dict[str, Array]:
        config, columns = self._config, {}
        if config.static is not None:
            static = found["lookup" if config.static == "lookup" else "hidden_0"]
            columns["static"] = rows.pooled(static, batch, config.pool)
        for layer in config.layers:
            name = f"hidden_{layer}"
            only_theirs = name == self._model.narrowed
            contextual_ND = rows.pooled(found[name], batch, config.pool, only_theirs=only_theirs)
            columns[f"contextual_{layer}"] = contextual_ND
            if self._shift is not None:
                columns[f"shift_{layer}"] = self._shift(contextual_ND, columns["static"])
        return columns
