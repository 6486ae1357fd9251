"""Checks that the files of a model fit each other: configuration, tokenizer and shapes of the weights.

A mismatch would stop every worker, some of them in the middle of a text. Reads only the headers of the
weights; imports neither torch nor transformers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from ctxbatch.errors import InputError, cannot_be_read
from ctxbatch.model.hub import ModelFolder

Shapes = Mapping[str, tuple[int, ...]]
# Far more than any model needs, at a hundred bytes per tensor.
_HEADER_BYTES = 32 << 20
# Not in any vocabulary, so a tokenizer needs a token for unknown text.
_UNKNOWN = "a \ue000 a"


@dataclass(frozen=True, slots=True)
class Parts:
    """The names of a family's tensors in the weights; some checkpoints add a prefix.

    ``positions`` is ``None`` if positions are computed, not weights.
    """

    layers: str
    embeddings: str = "embeddings.word_embeddings.weight"
    positions: str | None = "embeddings.position_embeddings.weight"


def read_shapes(folder: ModelFolder) -> Shapes:
    """Return the shapes of a model's tensors by name.

    Raises:
        InputError: The weights are damaged.
        ResourceError: They cannot be read.
    """
    shapes = {}
    for path in folder.loaded:
        damaged = f"{path} is damaged"
        try:
            with path.open("rb") as file:
                if (size := int.from_bytes(file.read(8), "little")) > _HEADER_BYTES:
                    raise InputError(f"{damaged}: its header claims {size:,} bytes")
            with safe_open(path, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    shapes[name] = tuple(opened.get_slice(name).get_shape())
        except SafetensorError as error:
            raise InputError(f"{damaged}: {error}") from error
        except OSError as error:
            raise cannot_be_read(path, error) from error
    return shapes


def check_config(model_config: Any, parts: Parts, shapes: Shapes) -> None:  # noqa: ANN401 (a class per family)
    """Compare a model's configuration with the shapes of its weights.

    Raises:
        InputError: They do not agree.
    """
    names = [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ]
    for name in names:
        given = getattr(model_config, name)
        if not isinstance(given, int) or given < 1:
            raise InputError(f"config.json says {name} {given!r}: it must be 1 or more")
    if model_config.hidden_size % model_config.num_attention_heads:
        raise InputError(
            f"config.json says hidden_size {model_config.hidden_size}, which is not a multiple of "
            f"num_attention_heads {model_config.num_attention_heads}"
        )
    for name in ("quantization_config", "transformers_weights"):
        if getattr(model_config, name, None) is not None:
            raise InputError(f"config.json has {name}, which is not supported: save the model without it")
    width = getattr(model_config, "embedding_size", model_config.hidden_size)
    tables = {parts.embeddings: ("vocab_size", model_config.vocab_size)}
    if parts.positions is not None:
        tables[parts.positions] = ("max_position_embeddings", model_config.max_position_embeddings)
    for name, (what, length) in tables.items():
        shape = _shape_of(name, shapes)
        if shape is None:
            raise InputError(f"its weights lack {name}")
        if shape != (length, width):
            raise InputError(
                f"its weights have {name} of shape {shape}, but config.json says {what} {length} and width "
                f"{width}"
            )
    _check_layers(parts.layers, model_config.num_hidden_layers, shapes)


def _shape_of(name: str, shapes: Shapes) -> tuple[int, ...] | None:
    """Return the shape of a tensor, whatever prefix its name has."""
    return next((shape for found, shape in shapes.items() if f".{found}".endswith(f".{name}")), None)


def _by_layer(path: str, shapes: Shapes) -> dict[int, dict[str, tuple[int, ...]]]:
    """Return the shapes of each layer's tensors, by number of the layer and name in it."""
    pattern = re.compile(rf"(?:.*\.)?{re.escape(path)}\.(\d{{1,6}})\.(.+)")
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := pattern.fullmatch(name):
            layers.setdefault(int(match[1]), {})[match[2]] = shape
    return layers


def _check_layers(path: str, n_layers: int, shapes: Shapes) -> None:
    """Compare layers with each other; only the first may lack a tensor, as in ModernBERT."""
    layers = _by_layer(path, shapes)
    if lacking := n_layers - sum(number < n_layers for number in layers):
        raise InputError(
            f"config.json says num_hidden_layers {n_layers}, but its weights lack {lacking} of them"
        )
    expected = {name: shape for number in range(n_layers) for name, shape in layers[number].items()}
    for number in range(n_layers):
        for name, shape in expected.items():
            found = layers[number].get(name)
            if found is None and number:
                raise InputError(f"its weights lack {path}.{number}.{name}")
            if found not in (None, shape):
                whole = f"{path}.{number}.{name}"
                raise InputError(f"its weights have {whole} of shape {found}, but {shape} in other layers")


def check_tokenizer(tokenizer: Tokenizer, n_embeddings: int, pad_id: int) -> None:
    """Raise an error unless every possible token has an embedding.

    Raises:
        InputError: A token has none, or the tokenizer fails.
    """
    if not 0 <= pad_id < n_embeddings:
        raise InputError(
            f"config.json says pad_token_id {pad_id}, but its weights have {n_embeddings} embeddings"
        )
    try:
        ids: Sequence[int] = tokenizer.encode(_UNKNOWN).ids
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"its tokenizer cannot be used: {error}") from error
    largest = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *ids], default=0)
    if largest >= n_embeddings:
        raise InputError(
            f"its tokenizer has token ids up to {largest}, but its weights have {n_embeddings} embeddings: "
            "use the tokenizer that the model was trained with, or call resize_token_embeddings"
        )
