"""Resolves the options of a run for one model on one kind of device: `RunConfig` -> `ResolvedConfig`.

Owns the families of models, and defaults that depend on the model, the device or the size of the corpus.
Reads the configuration and the tokenizer of a model, never the values of its weights.
"""

import errno
import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer

from ctxbatch.choices import DEFAULT_DELTA, DEFAULT_FLOOR, StaticKind
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import CtxbatchError, InputError, ResourceError, StoreError
from ctxbatch.files import cache_folder
from ctxbatch.model.consistency import Parts, check_config, check_tokenizer, read_shapes
from ctxbatch.model.devices import multiplies_bf16
from ctxbatch.model.hub import CONFIG, ModelFolder, find_model
from ctxbatch.model.silence import transformers_silent
from ctxbatch.run_config import RunConfig
from ctxbatch.text.sentences import resolve_language

# Multiplications and additions that a run must come to before a compiled model repays compiling: about
# two minutes of work of two cores that multiply bf16 natively, of which compiling saves a quarter.
_REPAYS_COMPILING = 1e14
_BYTES_PER_TOKEN = 4
# Errors of the operating system that say what is wrong with a model's folder, not with this machine.
_WRONG_NAME = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True, slots=True)
class Family:
    """Where a model family keeps what the encoder needs to reach.

    ``layers`` is the path of its list of layers. ``first_position`` says whether positions are counted
    from the padding token's id on, which leaves fewer of them. ``final_norm`` is the path of a norm
    after the last layer that belongs to that layer's hidden state. ``shows_attention`` says whether its
    attention goes through the function that transformers can be given. From the module ``mixed``
    of a layer on, nothing of that layer looks from one token to another, or at what was before.
    ``embeddings`` and ``positions`` are names of weights; `ctxbatch.model.consistency.Parts` says more.
    """

    layers: str
    first_position_after_pad: bool = False
    final_norm: str | None = None
    shows_attention: bool = True
    mixed: str | None = None
    embeddings: str = "embeddings.word_embeddings.weight"
    positions: str | None = "embeddings.position_embeddings.weight"

    @property
    def parts(self) -> Parts:
        """What is compared with the configuration before anything is loaded."""
        return Parts(self.layers, self.embeddings, self.positions)


FAMILIES = {
    "bert": Family("encoder.layer", mixed="attention.output"),
    "roberta": Family("encoder.layer", first_position_after_pad=True, mixed="attention.output"),
    "xlm-roberta": Family("encoder.layer", first_position_after_pad=True, mixed="attention.output"),
    "distilbert": Family("transformer.layer", mixed="sa_layer_norm"),
    "electra": Family("encoder.layer", mixed="attention.output"),
    "mpnet": Family("encoder.layer", first_position_after_pad=True, shows_attention=False),
    "modernbert": Family(
        "layers", final_norm="final_norm", embeddings="embeddings.tok_embeddings.weight", positions=None
    ),
}


def family_of(config: ResolvedConfig) -> Family:
    """Return the family that a store says its model is of.

    Raises:
        StoreError: It says none that there is.
    """
    if config.model_type not in FAMILIES:
        raise StoreError(
            f"the store names a model of the type {config.model_type!r}; supported are {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]


@dataclass(frozen=True, slots=True)
class _Model:
    """What is read of a model: ``tokenizer`` is serialised, ``longest`` the most tokens that it makes."""

    folder: ModelFolder
    config: Any
    family: Family
    tokenizer: str
    longest: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def pad_id(self) -> int:
        return int(self.config.pad_token_id or 0)

    @property
    def max_tokens(self) -> int:
        """Return the number of tokens of the longest window, special ones included."""
        positions = int(self.config.max_position_embeddings)
        if self.family.first_position_after_pad:
            positions -= self.pad_id + 1
        return min(self.longest, positions)

    def digests(self) -> dict[str, str]:
        """Return the checksums by which another model is told from this one."""
        return {
            "weights": self.folder.weights_digest(),
            "tokenizer": _digest(self.tokenizer),
            "model_config": self.folder.config_digest(),
        }


def resolve(config: RunConfig, device: str, corpus_bytes: int = 0) -> ResolvedConfig:
    """Find the model and settle every option that depends on it, the kind of device or the corpus.

    Args:
        config: The options.
        device: ``cpu`` or ``cuda:N``; only its kind counts.
        corpus_bytes: About how much text there is, decompressed; decides whether compiling is worth it.

    Raises:
        InputError: The model cannot be found, read or used, or does not have what an option asks for.
    """
    lang = resolve_language(config.split, config.lang)
    precision = _resolve_precision(config, device)
    model = _read_model(config.model, config.revision)
    layers = _resolve_layers(config, model)
    salience_layer, salience_head = _resolve_salience(config, model, layers)
    work = corpus_bytes / _BYTES_PER_TOKEN * _multiplications(model.config) * max(layers, default=0)
    shift = (config.shift or "log_ratio") if "shift" in config.vectors else None
    return ResolvedConfig(
        model=model.name,
        revision=model.folder.revision,
        model_type=model.config.model_type,
        hidden_size=int(model.config.hidden_size),
        n_layers=model.n_layers,
        max_tokens=model.max_tokens,
        pad_id=model.pad_id,
        layers=layers,
        vectors=tuple(kind for kind in ("static", "contextual", "shift") if kind in config.vectors),
        static=_resolve_static(config, model),
        shift=shift,
        floor=(DEFAULT_FLOOR if config.floor is None else config.floor) if shift == "log_ratio" else None,
        delta=(DEFAULT_DELTA if config.delta is None else config.delta) if shift == "asinh" else None,
        pool=config.pool,
        keep_punctuation=config.keep_punctuation,
        salience_layer=salience_layer,
        salience_head=salience_head,
        top_salient=config.top_salient,
        words=_resolve_words(config),
        sample=config.sample,
        split=config.split,
        lang=lang,
        dtype=config.dtype,
        precision=precision,
        compiled=_resolve_compiled(config, device, work),
        tokens_per_batch=config.tokens_per_batch or _default_token_budget(device),
        digests=model.digests(),
        versions={name: metadata.version(name) for name in ("sentencex", "tokenizers")},
    )


def _default_token_budget(device: str) -> int:
    """Return the tokens per batch, padding included: a fixed function of the kind of device.

    On CPUs more tokens leave the caches and pad more, fewer are not worth their calls; to find what is
    best for a model on a machine: ``scripts/benchmarks/token_budget.py``.
    """
    return 16_384 if device.startswith("cuda") else 1_024


def _resolve_precision(config: RunConfig, device: str) -> Literal["fp32", "bf16", "fp16"]:
    if config.vectors == ("static",):
        return "fp32"
    if config.precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if config.precision == "fp16" and device == "cpu":
        raise InputError("--precision fp16 needs a GPU, and this runs on a CPU: take auto, bf16 or fp32")
    return config.precision


def _multiplications(model_config: Any) -> float:  # noqa: ANN401 (a class per family)
    """Return the multiplications and additions of a layer's matrix products, per token."""
    width = int(model_config.hidden_size)
    inner = int(getattr(model_config, "intermediate_size", 4 * width))
    return 2.0 * (4 * width * width + 2 * width * inner)


def _resolve_compiled(config: RunConfig, device: str, work: float) -> bool:
    """Return whether to compile the model: if there is a compiler, and enough work to repay it."""
    if config.compile == "off" or config.vectors == ("static",):
        return False
    if device != "cpu":
        if config.compile == "on":
            raise InputError("--compile on: models are compiled for CPUs only so far; leave it out on GPUs")
        return False
    if config.compile == "on":
        if not has_compiler():
            raise InputError("--compile on needs a C++ compiler: install g++, or set CXX, or leave it out")
        return True
    return work >= _REPAYS_COMPILING and has_compiler() and _has_cache()


def _has_cache() -> bool:
    """Return whether there is a cache folder for the program."""
    try:
        cache_folder()
    except ResourceError:
        return False
    return True


def has_compiler() -> bool:
    """Return whether torch would find a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _resolve_layers(config: RunConfig, model: _Model) -> tuple[int, ...]:
    if config.vectors == ("static",):
        return ()
    n_layers, name = model.n_layers, model.name
    if config.layers == "all":
        return tuple(range(n_layers, 0, -1))  # the first is the default for search: the last, as ever
    layers = config.layers or (-1,)
    positive = tuple(_counted_from_1("--layers", layer, n_layers, f"{name} has layers") for layer in layers)
    if len(set(positive)) != len(positive):
        raise InputError(f"--layers {','.join(map(str, layers))} names a layer of {name} twice")
    return positive


def _counted_from_1(option: str, given: int, n: int, whose: str) -> int:
    """Return the number of a layer or a head; negative numbers count from the end."""
    number = given + n + 1 if given < 0 else given
    if not 1 <= number <= n:
        raise InputError(f"{option} {given}: {whose} 1 to {n} (or -{n} to -1)")
    return number


def _resolve_salience(
    config: RunConfig, model: _Model, layers: tuple[int, ...]
) -> tuple[int | None, int | None]:
    """Return the layer and the head whose attention is salience, if it is asked for."""
    if not config.wants_salience:
        return None, None
    if not model.family.shows_attention:
        raise InputError(
            f"{model.name} is a {model.config.model_type} model, which gives no attention: leave out "
            "--salience and --top-salient, or use another --model"
        )
    layer, head = max(layers), None
    if config.salience_layer is not None:
        given, whose = config.salience_layer, f"{model.name} has layers"
        layer = _counted_from_1("--salience-layer", given, model.n_layers, whose)
    if layer > max(layers):
        raise InputError(
            f"--salience-layer {layer} lies above {max(layers)}, the highest layer that is run: "
            "name it in --layers too, or take a lower one"
        )
    if config.salience_head is not None:
        n_heads, whose = int(model.config.num_attention_heads), f"{model.name} has heads"
        head = _counted_from_1("--salience-head", config.salience_head, n_heads, whose)
    return layer, head


def _resolve_words(config: RunConfig) -> tuple[str, ...] | None:
    """Return the wanted words casefolded and sorted, whatever their order."""
    return None if config.words is None else tuple(sorted({word.casefold() for word in config.words}))


def _resolve_static(config: RunConfig, model: _Model) -> StaticKind | None:
    if config.vectors == ("contextual",):
        return None
    hidden_size = model.config.hidden_size
    width = getattr(model.config, "embedding_size", hidden_size)
    if config.static == "lookup" and width != hidden_size:
        raise InputError(
            f"--static lookup: {model.name} has embeddings of {width} dimensions and layers of "
            f"{hidden_size}; take --static embeddings"
        )
    return config.static or "embeddings"


# --- reading a model ------------------------------------------------------------------------------


def _read_model(name: str, revision: str | None) -> _Model:
    """Find a model, and make sure that its files fit each other."""
    folder = find_model(name, revision)
    model_config = _read_model_config(folder)
    model = _Model(folder, model_config, FAMILIES[model_config.model_type], *_read_tokenizer(folder))
    try:
        check_config(model_config, model.family.parts, read_shapes(folder))
        check_tokenizer(Tokenizer.from_str(model.tokenizer), int(model_config.vocab_size), model.pad_id)
    except InputError as error:
        raise InputError(f"--model {folder.name}: {error}") from error
    return model


def _read_model_config(folder: ModelFolder) -> Any:  # noqa: ANN401 (a class per family)
    try:
        with transformers_silent():
            model_config = transformers.AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        model_type = model_config.model_type
    except Exception as error:  # transformers raises of many kinds, depending on what is wrong in the file
        raise model_error(f"--model {folder.name}: {folder.path}/{CONFIG}", error) from error
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise InputError(
            f"--model {folder.name} is of type {model_type}, which is not supported: use {supported}"
        )
    return model_config


def _read_tokenizer(folder: ModelFolder) -> tuple[str, int]:
    """Return the serialised tokenizer without stored truncation and padding, and its longest input."""
    # Without one of these transformers makes up a tokenizer to which every word is unknown.
    files = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    if not any(any(folder.path.glob(name)) for name in files):
        raise InputError(f"--model {folder.name}: {folder.path} holds no tokenizer ({', '.join(files)})")
    try:
        with transformers_silent():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
        longest = int(min(tokenizer.model_max_length, sys.maxsize))
    except Exception as error:  # of many kinds, as above
        raise model_error(f"--model {folder.name} has no fast tokenizer", error) from error
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str(), longest


def _digest(tokenizer_json: str) -> str:
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


def read_tokenizer(config: ResolvedConfig, model: ModelFolder | None = None) -> str:
    """Return the serialised tokenizer of a resolved configuration.

    Args:
        config: The resolved configuration.
        model: Where its model is; found by its name if not given.

    Raises:
        InputError: The model cannot be found.
        StoreError: Its tokenizer is another than that of the configuration.
    """
    folder = model or find_model(config.model, config.revision)
    tokenizer_json, _ = _read_tokenizer(folder)
    if _digest(tokenizer_json) != config.digests["tokenizer"]:
        raise StoreError(f"the tokenizer in {folder.path} is not the store's: give its model with --model")
    return tokenizer_json


def model_error(what: str, error: Exception) -> CtxbatchError:
    """Return the error for what a library raised: an `InputError`, or the fault of this machine."""
    text = " ".join(str(error).split())
    text = text if " " in text else f"{type(error).__name__}: {text}"
    of_machine = isinstance(error, OSError) and error.errno not in (None, *_WRONG_NAME)
    kind = ResourceError if of_machine or is_out_of_memory(error) else InputError
    return kind(f"{what}: {text}")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory was short: torch has a type for a full GPU, and only a text for a full CPU."""
    full = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, full) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n", 1)[0]
