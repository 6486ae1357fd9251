"""Resolves the options of a run for one model on one kind of device: `RunConfig` -> `ResolvedConfig`.

Owns defaults that depend on the model and the device. Runs the model only to measure `--precision auto`.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ctxbatch.choices import DEFAULT_SHIFT, DEFAULT_STATIC, Arithmetic, StaticKind, default_layer
from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import InputError, StoreError
from ctxbatch.formulas import ShiftFormula
from ctxbatch.model.devices import facts_of
from ctxbatch.model.facts import ModelFacts, read_facts
from ctxbatch.model.families import FAMILIES
from ctxbatch.model.graphs import ConversionError, find_graphs
from ctxbatch.model.hub import ModelFolder, find_model
from ctxbatch.model.precision import faster_precision
from ctxbatch.text.sentence_rules import RULES
from ctxbatch.text.sentences import resolve_language
from ctxbatch.text.unicode_words import RULE, versions
from ctxbatch.text.word_key import word_key
from ctxbatch.versions import version_of

if TYPE_CHECKING:  # a worker has no options to read, and would import what reads them
    from ctxbatch.run_config import RunConfig

log = logging.getLogger("ctxbatch")
# Of flash attention.
_LARGEST_PACKED_HEAD = 256


def resolve(config: "RunConfig", device: str) -> ResolvedConfig:
    """Find the model and settle every option that depends on it or on the kind of device.

    Args:
        config: The options.
        device: ``cpu`` or ``cuda:N``; only its kind counts.

    Raises:
        InputError: The model cannot be found, read or used, or does not have what an option asks for.
    """
    lang = resolve_language(config.split, config.lang)
    formula = _resolve_shift(config)
    _check_precision(config, device)
    folder = find_model(config.model, config.revision)
    graphs = _find_graphs(config, device, folder)  # first: its process reads the facts too
    facts = read_facts(folder)
    layers = _resolve_layers(config, facts.n_layers, folder.name)
    salience_layer, salience_head = _resolve_salience(config, facts, layers, folder.name)
    static = _resolve_static(config, facts, folder.name)
    precision = _resolve_precision(config, device, graphs, facts, folder.name)
    parameters = {} if formula is None else formula.parameters
    packed = device != "cpu" and salience_layer is None and _can_pack(device, precision, facts)
    return ResolvedConfig(
        model=folder.name,
        revision=folder.revision,
        model_type=facts.model_type,
        hidden_size=facts.hidden_size,
        n_layers=facts.n_layers,
        max_tokens=facts.longest_window,
        pad_id=facts.pad_id,
        layers=layers,
        vectors=tuple(kind for kind in ("static", "contextual", "shift") if kind in config.vectors),
        static=static,
        shift=None if formula is None else formula.kind,
        floor=parameters.get("floor"),
        delta=parameters.get("delta"),
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
        runtime="torch" if graphs is None else "openvino",
        tokens_per_batch=config.tokens_per_batch or _default_token_budget(device, packed),
        packed=packed,
        shared_sequences=graphs is not None,
        sentence_rules=None if lang is None else RULES,
        digests=_digests(folder, facts),
        word_rule=RULE,
        versions={name: version_of(name) for name in ("sentencex", "tokenizers")} | versions(),
    )


def _digests(folder: ModelFolder, facts: ModelFacts) -> dict[str, str]:
    return {
        "weights": folder.weights_digest(),
        "tokenizer": facts.tokenizer_digest,
        "model_config": folder.config_digest(),
    }


def _default_token_budget(device: str, packed: bool) -> int:
    """Return the tokens per batch: a fixed function of the kind of device, and of whether windows are packed.

    On CPUs more tokens leave the caches and pad more, fewer are not worth their calls; to find what is
    best for a model on a machine: ``scripts/benchmarks/token_budget.py``. On GPUs fewer take less time than
    the host needs to launch them.
    """
    if packed:
        return 65_536
    return 16_384 if device.startswith("cuda") else 1_024


def _can_pack(device: str, precision: Arithmetic, facts: ModelFacts) -> bool:
    """Return whether the windows of a batch can be packed: what `ctxbatch.model.packing` asks for."""
    size = facts.hidden_size // facts.n_heads
    fits = precision in ("bf16", "fp16") and size % 8 == 0 and size <= _LARGEST_PACKED_HEAD
    return fits and FAMILIES[facts.model_type].shows_attention and facts_of(device).packs


def _check_precision(config: "RunConfig", device: str) -> None:
    if config.precision == "fp16" and device == "cpu":
        raise InputError("--precision fp16 needs a GPU, and this runs on a CPU: take auto, bf16 or fp32")
    if config.precision == "int8" and device != "cpu":
        raise InputError(
            f"--precision int8 needs a CPU, and this runs on {device}: take auto, or --devices cpu"
        )


def _find_graphs(config: "RunConfig", device: str, folder: ModelFolder) -> Path | None:
    """Return the OpenVINO graphs of a model; ``None`` if torch runs it."""
    if device != "cpu":
        return None
    try:
        return find_graphs(folder)
    except ConversionError as error:
        if config.precision == "int8":
            raise InputError(f"--precision int8: {error}; take another --precision") from error
        log.warning("%s; torch runs it instead", error)
        return None


def _resolve_precision(
    config: "RunConfig", device: str, graphs: Path | None, facts: ModelFacts, name: str
) -> Arithmetic:
    """Return the arithmetic of the model's layers."""
    if config.precision != "auto":
        return config.precision
    if config.vectors == ("static",):
        return "fp32"
    if device != "cpu":
        return "bf16" if facts_of(device).bf16 else "fp16"
    return "fp32" if graphs is None else faster_precision(graphs, name, facts)


def _resolve_layers(config: "RunConfig", n_layers: int, name: str) -> tuple[int, ...]:
    if config.vectors == ("static",):
        return ()
    default = default_layer(n_layers)
    if config.layers == "all":  # search goes by the first
        return (default, *(layer for layer in range(n_layers, 0, -1) if layer != default))
    layers = config.layers or (default,)
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
    config: "RunConfig",
    facts: ModelFacts,
    layers: tuple[int, ...],
    name: str,
) -> tuple[int | None, int | None]:
    """Return the layer and the head whose attention is salience, if it is asked for."""
    if not config.wants_salience:
        return None, None
    if not FAMILIES[facts.model_type].shows_attention:
        raise InputError(
            f"{name} is a {facts.model_type} model, which gives no attention: leave out "
            "--salience and --top-salient, or use another --model"
        )
    layer, head = max(layers), None
    if config.salience_layer is not None:
        layer = _counted_from_1(
            "--salience-layer", config.salience_layer, facts.n_layers, f"{name} has layers"
        )
    if layer > max(layers):
        raise InputError(
            f"--salience-layer {layer} lies above {max(layers)}, the highest layer that is run: "
            "name it in --layers too, or take a lower one"
        )
    if config.salience_head is not None:
        head = _counted_from_1("--salience-head", config.salience_head, facts.n_heads, f"{name} has heads")
    return layer, head


def _resolve_shift(config: "RunConfig") -> ShiftFormula | None:
    """Return the shift to store, if any is."""
    if "shift" not in config.vectors:
        return None
    return ShiftFormula.of(config.shift or DEFAULT_SHIFT, floor=config.floor, delta=config.delta)


def _resolve_words(config: "RunConfig") -> tuple[str, ...] | None:
    """Return the keys of the wanted words, whatever their order."""
    if config.words is None:
        return None
    keys = {*map(word_key, config.words)} - {""}
    if not keys:
        raise InputError("--words holds only characters that are not seen: write one word per line")
    return tuple(sorted(keys))


def _resolve_static(config: "RunConfig", facts: ModelFacts, name: str) -> StaticKind | None:
    if config.vectors == ("contextual",):
        return None
    if config.static == "lookup" and facts.embedding_size != facts.hidden_size:
        raise InputError(
            f"--static lookup: {name} has embeddings of {facts.embedding_size} dimensions and layers of "
            f"{facts.hidden_size}; take --static embeddings"
        )
    return config.static or DEFAULT_STATIC


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
    facts = read_facts(folder)
    if facts.tokenizer_digest != config.digests["tokenizer"]:
        raise StoreError(f"the tokenizer in {folder.path} is not the store's: give its model with --model")
    return facts.tokenizer_json
