"""Runs the model, cut after the highest layer wanted, with pooling, shift and cast on its device.

Owns only the forward pass. Tensor names end in the letters of their shape: B windows, T tokens, S tokens of
packed windows, N rows, R rows among them that are kept, M wordpieces, C vector columns, D hidden size.
"""

import contextlib
import functools
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError
from ctxbatch.model import packing
from ctxbatch.model.facts import checked_model, first_line, is_out_of_memory, model_error
from ctxbatch.model.families import Family, family_of
from ctxbatch.model.hub import CONFIG, ModelFolder
from ctxbatch.model.pooling import AllRows, KeptRows
from ctxbatch.model.salience import Watch, watched_attention
from ctxbatch.model.shift import shift_function
from ctxbatch.model.silence import transformers_silent
from ctxbatch.model.transfers import Arrays, CpuTransfers, GpuTransfers
from ctxbatch.model.word_vectors import OutOfMemoryError, WordVectors
from ctxbatch.text.batching import TokenBatch

_COMPUTE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STORED_TYPES = {"float32": torch.float32, "float16": torch.float16}
# All but cuDNN's, which spends a tenth of a second on every new shape of a batch.
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class WordModel(nn.Module):
    """Computes the stored columns from token ids: runs the cut model, pools, shifts and casts.

    Everything before the first layer stays in fp32, because static vectors are defined in fp32. The layers
    compute in the resolved precision. Pooled vectors are fp32 until the cast to the stored type.

    Args:
        config: The resolved configuration.
        folder: Where the model is.
        packed: Whether batches come packed, as `ctxbatch.model.packing` has it.

    Raises:
        InputError: The model cannot be loaded.
    """

    def __init__(self, config: ResolvedConfig, folder: ModelFolder, packed: bool = False) -> None:
        super().__init__()
        self._config = config
        self.packed = packed
        self._watch = None if config.salience_layer is None else Watch(config.salience_head)
        self._model = load_model(folder, self._attention())
        self._hidden: dict[int, Tensor] = {}
        self._rows: AllRows | KeptRows
        self._prepare(family_of(config))
        self._shift = None if config.formula is None else shift_function(config.formula, torch)

    def _attention(self) -> str | None:
        """Return the name of the attention function; ``None`` for transformers' default."""
        if self.packed:
            return packing.packed_attention()
        return watched_attention() if family_of(self._config).shows_attention else None

    def _prepare(self, family: Family) -> None:
        """Cut the model, set the precision of its layers, and register hooks that keep hidden states."""
        compute = _COMPUTE_TYPES[self._config.precision]
        layers: nn.ModuleList = self._model.get_submodule(family.layers)
        n_layers = len(layers)
        del layers[self._config.highest_layer :]
        layers.to(compute)
        for layer in layers:
            layer.register_forward_pre_hook(functools.partial(_cast_inputs, compute))
        layers[0].register_forward_pre_hook(self._keep_input, prepend=True)
        for number in self._config.layers:
            kept_at = layers[number - 1]
            if family.final_norm and number == n_layers:
                kept_at = self._model.get_submodule(family.final_norm).to(compute)
            kept_at.register_forward_hook(functools.partial(self._keep_output, number))
        if family.final_norm and len(layers) < n_layers:
            self._model.set_submodule(family.final_norm, nn.Identity())
        if self._watch is not None:
            assert self._config.salience_layer is not None
            self._watch.look_at(layers[self._config.salience_layer - 1])
        self._narrows = self._config.kept_by_model is not None and family.mixed is not None
        if family.mixed is not None and self._narrows:
            layers[-1].get_submodule(family.mixed).register_forward_pre_hook(self._narrow)

    def forget(self) -> None:
        """Drop what is kept of a batch that could not be computed to its end."""
        self._hidden.clear()

    def _keep_input(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._hidden[0] = args[0]

    def _keep_output(self, number: int, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 (as hooks are)
        self._hidden[number] = output[0] if isinstance(output, tuple) else output

    def _narrow(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute the rest of the last layer only for the tokens of the kept rows."""
        assert isinstance(self._rows, KeptRows)
        return tuple(self._rows.narrowed(hidden_BTD) for hidden_BTD in args)

    def forward(
        self,
        ids_BT: Tensor,
        mask_BT: Tensor | None,
        positions_M: Tensor,
        first_N: Tensor,
        sentence_N: Tensor | None = None,
        places_R: Tensor | None = None,
        slots_S: Tensor | None = None,
        **within: Any,  # noqa: ANN401 (tensors, and lists with tensors)
    ) -> tuple[Tensor, ...]:
        """Run a batch.

        Args:
            ids_BT: Token ids, padded; (1, S) if packed.
            mask_BT: True for tokens, false for padding; ``None`` if nothing is padded.
            positions_M: Wordpieces of the rows, row after row, as indices into the flattened (B * T).
            first_N: Where in ``positions_M`` each row begins.
            sentence_N: The sentence of each row. This and the next two are given if not all rows are kept;
                see `KeptRows`.
            places_R: The places of the kept rows.
            slots_S: A number for every token that the kept rows can have.
            within: What a packed batch tells the model more, by the names of transformers' models and
                of `ctxbatch.model.packing`.

        Returns:
            The vectors, (C, R, D) in the stored type, and which rows are all finite, (R,). With a salience
            layer, also the salience of all rows, (N,). If not all rows are kept, also the kept ones, (R,).
        """
        self._hidden.clear()
        pooling, also = self._config.pool, []
        self._rows = AllRows(positions_M, first_N, pooling)
        if self._watch is not None:
            self._watch.begin(torch.ones_like(ids_BT) if mask_BT is None else mask_BT)
            salience = functools.partial(self._watch.salience, positions_M, first_N)
            if sentence_N is not None and places_R is not None and slots_S is not None:
                choice = (sentence_N, places_R, slots_S)
                self._rows = KeptRows(positions_M, first_N, pooling, salience, *choice)
            self._model(input_ids=ids_BT, attention_mask=mask_BT)
            also = [salience(), self._rows.kept_R] if isinstance(self._rows, KeptRows) else [salience()]
        else:
            self._model(input_ids=ids_BT, attention_mask=mask_BT, **within)
        columns = self._columns(ids_BT)
        self._hidden.clear()
        vectors_CRD = torch.stack([columns[name] for name in self._config.columns])
        return vectors_CRD, vectors_CRD.isfinite().all(dim=2).all(dim=0), *also

    def _columns(self, ids_BT: Tensor) -> dict[str, Tensor]:
        """Return the columns in the stored type, which takes half the memory of what they are made of."""
        config, columns, static_RD = self._config, {}, None
        stored = _STORED_TYPES[config.value_type]
        if config.static is not None:
            is_lookup = config.static == "lookup"
            static = self._model.get_input_embeddings()(ids_BT) if is_lookup else self._hidden[0]
            static_RD = self._rows.pooled(static)
            columns["static"] = static_RD.to(stored)
        for layer in config.layers:
            contextual_RD = self._pooled(layer)
            columns[f"contextual_{layer}"] = contextual_RD.to(stored)
            if self._shift is not None:
                assert static_RD is not None
                columns[f"shift_{layer}"] = self._shift(contextual_RD, static_RD).to(stored)
        return columns

    def _pooled(self, layer: int) -> Tensor:
        if isinstance(self._rows, KeptRows) and self._narrows and layer == self._config.highest_layer:
            return self._rows.pooled_from_narrowed(self._hidden[layer])
        return self._rows.pooled(self._hidden[layer])


class Encoder:
    """Runs batches with torch on one device, overlapping copies with the work on a GPU.

    Args:
        config: The resolved configuration.
        device: ``cpu`` or ``cuda:N``.
        model: Where the model is; found by its name if not given.

    Raises:
        InputError: The model cannot be found or loaded.
        StoreError: Its files are not those of the configuration.
    """

    def __init__(self, config: ResolvedConfig, device: str, model: ModelFolder | None = None) -> None:
        if device == "cpu":  # workers fill the cores, and bits depend on the number of threads
            torch.set_num_threads(1)
        folder = checked_model(config, model)
        self._transfers = CpuTransfers() if device == "cpu" else GpuTransfers(device)
        self._pad_id = config.pad_id
        self._skips_padding = family_of(config).first_position_after_pad
        self._model = WordModel(config, folder, config.packed and packing.runs_on(device)).to(device)

    def encode(self, batches: Iterable[TokenBatch]) -> Iterator[WordVectors]:
        """Run batches and yield the vectors of each, in order.

        On a GPU, hand over the next batch before waiting for the last one's vectors.

        Raises:
            OutOfMemoryError: The device has no memory for the next batch.
        """
        started: deque[Callable[[], WordVectors]] = deque()
        for batch in batches:
            started.append(self._start(batch))
            if len(started) > self._transfers.ahead:
                yield started.popleft()()
        while started:
            yield started.popleft()()

    @torch.inference_mode()
    def _start(self, batch: TokenBatch) -> Callable[[], WordVectors]:
        """Start a batch; return a function that waits for its vectors."""
        if len(batch.lengths_V) > len(batch.input_ids_BT):  # as a store has it that a CPU began
            batch = batch.separated(self._pad_id)
        with self._transfers.at_work(), self._telling_of_memory(), sdpa_kernel(_ATTENTION):
            inputs = self._packed(batch) if self._model.packed else self._padded(batch)
            return functools.partial(self._finish, self._transfers.fetch(self._model(**inputs)))

    def _padded(self, batch: TokenBatch) -> dict[str, Tensor | None]:
        """Return the inputs of the model for a batch as it is."""
        put = self._transfers.put
        longest = batch.input_ids_BT.shape[1]
        is_padded = bool((batch.lengths_V < longest).any())
        inputs = {
            "ids_BT": put(batch.input_ids_BT),
            "mask_BT": put(np.arange(longest) < batch.lengths_V[:, None]) if is_padded else None,
            "positions_M": put(batch.positions_M),
            "first_N": put(batch.first_N),
        }
        if batch.places_R is not None:
            inputs["sentence_N"] = put(batch.sentence_N)
            inputs["places_R"] = put(batch.places_R)
            inputs["slots_S"] = put(np.arange(batch.n_slots))
        return inputs

    def _packed(self, batch: TokenBatch) -> dict[str, Any]:
        """Return the inputs of the model for a batch without its padding."""
        put, packed = self._transfers.put, packing.pack(batch)
        return {
            "ids_BT": put(packed.ids_S[None]),
            "mask_BT": None,
            "positions_M": put(packed.positions_M),
            "first_N": put(batch.first_N),
            "position_ids": put(packed.positions(self._pad_id if self._skips_padding else None)[None]),
            "packed_parts": [replace(part, ends=put(part.ends)) for part in packed.parts],
        }

    def _finish(self, fetched: Callable[[], Arrays]) -> WordVectors:
        """Wait for a batch's vectors; a GPU can say only now that it had no memory for them."""
        with self._transfers.at_work(), self._telling_of_memory():
            return WordVectors(*fetched())

    @contextlib.contextmanager
    def _telling_of_memory(self) -> Iterator[None]:
        """Raise `OutOfMemoryError` where torch says that the device has too little memory."""
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._model.forget()
            traceback.clear_frames(error.__traceback__)  # which hold what the failed batch had computed
            self._transfers.free()
            raise OutOfMemoryError(first_line(error)) from None


def load_model(folder: ModelFolder, attention: str | None) -> Any:  # noqa: ANN401 (a class per family)
    """Load a model with torch, in fp32.

    Args:
        folder: Where it is.
        attention: The attention function, by transformers' name for it.

    Raises:
        InputError: Its files are damaged, or do not fit each other.
    """
    import transformers

    try:
        with transformers_silent():
            # Read first, so that it cannot ask for another attention: that could be code from the hub.
            model_config = transformers.AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
            model, report = transformers.AutoModel.from_pretrained(
                folder.path,
                config=model_config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, by name
                attn_implementation=attention,
            )
    except Exception as error:  # a damaged file can raise many classes
        raise model_error(f"--model {folder.name} cannot be loaded", error) from error
    for name, found, wanted in report["mismatched_keys"]:
        raise InputError(
            f"--model {folder.name}: its weights have {name} of shape {tuple(found)}, but {CONFIG} asks for "
            f"{tuple(wanted)}"
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"--model {folder.name}: its weights lack {len(missing)} of the model's tensors, such as "
            f"{missing[0]}"
        )
    if hasattr(model, "pooler"):
        model.pooler = None
    return model.eval().requires_grad_(False)


def _cast_inputs(compute: torch.dtype, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast a layer's hidden states, masks and biases to its own type."""
    return tuple(
        arg.to(compute) if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args
    )
