"""Models that the benchmarks run: random weights of a known shape, and what a model multiplies."""

from pathlib import Path
from typing import Any

# The type and the configuration of each shape, where it differs from transformers' own default.
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "bert-base": ("bert", {}),
    "bert-large": (
        "bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "modernbert-base": ("modernbert", {}),
}
SHAPES = tuple(_CONFIGS)


def random_model(tokenizer_from: Path, folder: Path, shape: str) -> Path:
    """Return a model of one of `SHAPES`, with random weights and another model's tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    kind, sizes = _CONFIGS[shape]
    specials = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    config = transformers.AutoConfig.for_model(kind, **sizes, **specials)
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def linear_shapes(model: Path, model_type: str) -> list[tuple[int, int]]:
    """Return inputs and outputs of every linear weight in the model's layers."""
    import torch
    import transformers

    from ctxbatch.model.resolve import FAMILIES

    config = transformers.AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        layers = transformers.AutoModel.from_config(config).get_submodule(FAMILIES[model_type].layers)
    linears = (module for module in layers.modules() if isinstance(module, torch.nn.Linear))
    return [(linear.in_features, linear.out_features) for linear in linears]
