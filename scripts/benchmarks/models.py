"""Models that the benchmarks run: random weights of a known shape, and what a model multiplies."""

from pathlib import Path


def random_model(tokenizer_from: Path, folder: Path) -> Path:
    """Return a BERT of bert-base's shape with random weights and another model's tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    config = transformers.BertConfig()
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
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
