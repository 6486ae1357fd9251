"""The model: what it can do (`resolve`), running it, and pooling, shift and cast on its device.

The only module that imports torch and transformers. To add a model family, describe it in `FAMILIES`
and add its tiny model to the tests.

Tensor names end in the letters of their shape: B windows, T tokens, N rows, M wordpieces, D hidden size.
"""

import functools
import hashlib
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn

from ctxbatch.batching import TokenBatch
from ctxbatch.config import DEFAULT_DELTA, DEFAULT_FLOOR, ResolvedConfig, RunConfig, StaticKind
from ctxbatch.errors import InputError, StoreError
from ctxbatch.models import ModelFolder, find_model
from ctxbatch.segment import resolve_language
from ctxbatch.shift import SHIFTS

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Family:
    """Where a model family keeps what the encoder needs to reach.

    ``layers`` is the path of its list of layers. ``first_position`` says whether positions are counted
    from the padding token's id on, which leaves fewer of them. ``final_norm`` is the path of a norm
    after the last layer that belongs to that layer's hidden state.
    """

    layers: str
    first_position_after_pad: bool = False
    final_norm: str | None = None


FAMILIES = {
    "bert": Family("encoder.layer"),
    "roberta": Family("encoder.layer", first_position_after_pad=True),
    "xlm-roberta": Family("encoder.layer", first_position_after_pad=True),
    "distilbert": Family("transformer.layer"),
    "electra": Family("encoder.layer"),
    "mpnet": Family("encoder.layer", first_position_after_pad=True),
    "modernbert": Family("layers", final_norm="final_norm"),
}
_COMPUTE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STORED_TYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class WordVectors:
    """The vectors of a batch's rows: one (N, D) array per column, in the stored type.

    ``finite_N`` is false where some stored value of the row is NaN or infinite.
    """

    columns: dict[str, npt.NDArray[Any]]
    finite_N: npt.NDArray[np.bool_]


# --- resolving ------------------------------------------------------------------------------------


def available_devices() -> list[str]:
    """The GPUs of this machine as ``cuda:0``, …; ``["cpu"]`` where there is none."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def resolve(config: RunConfig, device: str) -> ResolvedConfig:
    """Find the model and settle every option that depends on it or on the kind of device.

    Raises:
        InputError: The model cannot be found, read or used, or does not have what an option asks for.
    """
    lang = resolve_language(config)
    precision = _resolve_precision(config, device)
    folder = find_model(config.model, config.revision)
    model_config = _read_model_config(folder)
    family = FAMILIES[model_config.model_type]
    tokenizer_json, longest = _read_tokenizer(folder)
    positions = int(model_config.max_position_embeddings)
    pad_id = int(model_config.pad_token_id or 0)
    if family.first_position_after_pad:
        positions -= pad_id + 1
    has_shift, has_static = "shift" in config.vectors, config.vectors != ("contextual",)
    shift = (config.shift or "log_ratio") if has_shift else None
    return ResolvedConfig(
        model=folder.name,
        revision=folder.revision,
        model_type=model_config.model_type,
        hidden_size=int(model_config.hidden_size),
        n_layers=int(model_config.num_hidden_layers),
        max_tokens=min(longest, positions),
        pad_id=pad_id,
        layers=_resolve_layers(config, int(model_config.num_hidden_layers), folder.name),
        vectors=tuple(kind for kind in ("static", "contextual", "shift") if kind in config.vectors),
        static=_resolve_static(config, model_config, folder.name) if has_static else None,
        shift=shift,
        floor=(DEFAULT_FLOOR if config.floor is None else config.floor) if shift == "log_ratio" else None,
        delta=(DEFAULT_DELTA if config.delta is None else config.delta) if shift == "asinh" else None,
        pool=config.pool,
        keep_punctuation=config.keep_punctuation,
        split=config.split,
        lang=lang,
        dtype=config.dtype,
        precision=precision,
        tokens_per_batch=config.tokens_per_batch or _default_token_budget(device),
        digests={
            "weights": folder.weights_digest(),
            "tokenizer": hashlib.sha256(tokenizer_json.encode()).hexdigest(),
            "model_config": folder.config_digest(),
        },
        versions={name: metadata.version(name) for name in ("sentencex", "tokenizers")},
    )


def _default_token_budget(device: str) -> int:
    """Tokens a batch, padding included: a fixed function of the kind of device."""
    return 16_384 if device.startswith("cuda") else 2_048


def _resolve_precision(config: RunConfig, device: str) -> Literal["fp32", "bf16", "fp16"]:
    if config.vectors == ("static",):
        return "fp32"
    on_gpu = device.startswith("cuda")
    if config.precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_multiplies_bf16()
        return "bf16" if native else "fp32"
    if config.precision == "fp16" and not on_gpu:
        raise InputError("--precision fp16 needs a GPU, and this machine shows none: take auto, bf16 or fp32")
    return config.precision


def _cpu_multiplies_bf16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _resolve_layers(config: RunConfig, n_layers: int, name: str) -> tuple[int, ...]:
    if config.vectors == ("static",):
        return ()
    layers = config.layers or (-1,)
    positive = tuple(layer + n_layers + 1 if layer < 0 else layer for layer in layers)
    for given, layer in zip(layers, positive, strict=True):
        if not 1 <= layer <= n_layers:
            raise InputError(f"--layers {given}: {name} has layers 1 to {n_layers} (or -{n_layers} to -1)")
    if len(set(positive)) != len(positive):
        raise InputError(f"--layers {','.join(map(str, layers))} names a layer of {name} twice")
    return positive


def _resolve_static(
    config: RunConfig,
    model_config: Any,  # noqa: ANN401 (a class per family)
    name: str,
) -> StaticKind:
    width = getattr(model_config, "embedding_size", model_config.hidden_size)
    if config.static == "lookup" and width != model_config.hidden_size:
        raise InputError(
            f"--static lookup: {name} has embeddings of {width} dimensions and layers of "
            f"{model_config.hidden_size}; take --static embeddings"
        )
    return config.static or "embeddings"


def _read_model_config(folder: ModelFolder) -> Any:  # noqa: ANN401 (a class per family)
    try:
        model_config = transformers.AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        model_type = model_config.model_type
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--model {folder.name}: {_first_line(error)}") from error
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise InputError(f"--model {folder.name} is a {model_type}; supported are {supported}")
    return model_config


def _read_tokenizer(folder: ModelFolder) -> tuple[str, int]:
    """The serialised tokenizer, its stored truncation and padding cleared, and its longest input."""
    # Without one of these transformers makes up a tokenizer to which every word is unknown.
    files = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    if not any(any(folder.path.glob(name)) for name in files):
        raise InputError(f"--model {folder.name}: {folder.path} holds no tokenizer ({', '.join(files)})")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise InputError(f"--model {folder.name} has no fast tokenizer: {_first_line(error)}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str(), int(min(tokenizer.model_max_length, sys.maxsize))


def read_tokenizer(config: ResolvedConfig) -> str:
    """The serialised tokenizer of a resolved configuration.

    Raises:
        InputError: The model cannot be found.
        StoreError: Its tokenizer is another than that of the configuration.
    """
    folder = find_model(config.model, config.revision)
    tokenizer_json, _ = _read_tokenizer(folder)
    if hashlib.sha256(tokenizer_json.encode()).hexdigest() != config.digests["tokenizer"]:
        raise StoreError(f"{folder.path}: the tokenizer of {config.model} is not that of the store")
    return tokenizer_json


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


# --- encoding -------------------------------------------------------------------------------------


class Encoder:
    """A model on a device, cut after the highest layer asked for.

    Args:
        config: The resolved configuration.
        device: ``cpu`` or ``cuda:N``.

    Raises:
        InputError: The model cannot be found or loaded.
        StoreError: Its files are not those of the configuration.
    """

    def __init__(self, config: ResolvedConfig, device: str) -> None:
        folder = find_model(config.model, config.revision)
        for what, digest in (("weights", folder.weights_digest()), ("model_config", folder.config_digest())):
            if digest != config.digests[what]:
                raise StoreError(
                    f"{folder.path}: the {what.replace('_', ' ')} is not that which the store was made with"
                )
        self._config = config
        self._device = torch.device(device)
        self._stored = _STORED_TYPES[config.dtype]
        self._model = _load_model(folder).to(self._device)
        self._hidden: dict[int, Tensor] = {}
        self._prepare(FAMILIES[config.model_type])
        self._shift = _shift_function(config)

    def _prepare(self, family: Family) -> None:
        """Cut the model, set its layers' precision, and have the wanted hidden states kept.

        Everything before the first layer stays in fp32, because static vectors are defined in fp32; each
        layer casts what it is handed.
        """
        compute = _COMPUTE_TYPES[self._config.precision]
        layers: nn.ModuleList = self._model.get_submodule(family.layers)
        n_layers = len(layers)
        del layers[max(self._config.layers, default=1) :]  # the first layer shows what goes into it
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

    def _keep_input(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._hidden[0] = args[0]

    def _keep_output(self, number: int, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401 (as hooks are)
        self._hidden[number] = output[0] if isinstance(output, tuple) else output

    @torch.inference_mode()
    def encode(self, batch: TokenBatch) -> WordVectors:
        """Run a batch and return its rows' vectors, pooled and shifted in fp32, cast last."""
        ids_BT = torch.from_numpy(batch.input_ids_BT).to(self._device)
        self._hidden.clear()
        self._model(input_ids=ids_BT, attention_mask=self._mask(batch))
        pool = self._pooling(batch)
        static_ND = None
        if self._config.static == "lookup":
            static_ND = pool(self._model.get_input_embeddings()(ids_BT))
        elif self._config.static == "embeddings":
            static_ND = pool(self._hidden[0])
        vectors = {} if static_ND is None else {"static": static_ND}
        for layer in self._config.layers:
            contextual_ND = pool(self._hidden[layer])
            vectors[f"contextual_{layer}"] = contextual_ND
            if self._shift is not None and static_ND is not None:
                vectors[f"shift_{layer}"] = self._shift(contextual_ND, static_ND)
        self._hidden.clear()
        stored = {name: vectors[name].to(self._stored) for name in self._config.columns}
        finite_N = torch.stack([vector.isfinite().all(dim=1) for vector in stored.values()]).all(dim=0)
        return WordVectors({name: v.cpu().numpy() for name, v in stored.items()}, finite_N.cpu().numpy())

    def _mask(self, batch: TokenBatch) -> Tensor | None:
        longest = batch.input_ids_BT.shape[1]
        if (batch.lengths_B == longest).all():
            return None
        mask_BT = np.arange(longest) < batch.lengths_B[:, None]
        return torch.from_numpy(mask_BT.astype(np.int64)).to(self._device)

    def _pooling(self, batch: TokenBatch) -> Callable[[Tensor], Tensor]:
        """A function from hidden states (B, T, D) to the rows' vectors (N, D) in fp32."""
        positions_M = torch.from_numpy(batch.positions_M).to(self._device)
        bounds_N = torch.from_numpy(np.cumsum(batch.n_pieces_N) - batch.n_pieces_N).to(self._device)

        def mean(hidden_BTD: Tensor) -> Tensor:
            return nn.functional.embedding_bag(
                positions_M, hidden_BTD.flatten(0, 1).float(), bounds_N, mode="mean"
            )

        def first(hidden_BTD: Tensor) -> Tensor:
            return hidden_BTD.flatten(0, 1)[positions_M[bounds_N]].float()

        return mean if self._config.pool == "mean" else first


def _load_model(folder: ModelFolder) -> Any:  # noqa: ANN401 (a class per family)
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder.path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors and transformers raise of many kinds for a damaged file
        raise InputError(f"--model {folder.name} cannot be loaded: {_first_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"--model {folder.name}: its weights lack {len(missing)} tensors of the model, {missing[0]} first"
        )
    if hasattr(model, "pooler"):
        model.pooler = None
    return model.eval().requires_grad_(False)


def _cast_inputs(compute: torch.dtype, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast hidden states, and masks and biases that are added to scores, to a layer's own type."""
    return tuple(
        arg.to(compute) if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args
    )


def _shift_function(config: ResolvedConfig) -> Callable[[Tensor, Tensor], Tensor] | None:
    if config.shift is None:
        return None
    options = {"floor": config.floor, "delta": config.delta}
    given = {name: value for name, value in options.items() if value is not None}
    return functools.partial(SHIFTS[config.shift], xp=torch, **given)


# --- the machine ----------------------------------------------------------------------------------


def use_one_thread() -> None:
    """Let this process compute with one thread: one worker a core, and bits that do not depend on it."""
    torch.set_num_threads(1)


def describe_device(device: str) -> str:
    """The device by name, for the record."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return (
        f"cpu ({torch.cpu.get_capabilities().get('cpu_name') or platform.processor() or platform.machine()})"
    )


def library_versions() -> dict[str, str]:
    """Versions of what the bits of a result can depend on."""
    return {
        name: metadata.version(name) for name in ("ctxbatch", "torch", "transformers", "pyarrow", "numpy")
    }
