"""Converts a model into two OpenVINO graphs: ``python -m ctxbatch.model.graph_conversion NAME MODEL FOLDER``.

The first graph goes from token ids to the embedding layer's output, the second from there to the hidden
states of all layers, with the queries, keys and masks from which salience is computed. Two graphs, because
the first is always run in fp32. Owns which outputs the graphs have; `ctxbatch.model.graphs` keeps them.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctxbatch.errors import CtxbatchError
from ctxbatch.model.encoder import load_model
from ctxbatch.model.facts import first_line, is_out_of_memory, read_facts
from ctxbatch.model.families import FAMILIES, Family
from ctxbatch.model.graphs import CHECKED, EMBEDDING, LAYERS, UNSUPPORTED, ConversionError, import_openvino
from ctxbatch.model.hub import ModelFolder

_ATTENTION = "ctxbatch_recorded"
_NUMBER = "ctxbatch_layer"
_INPUTS = ("ids", "places", "windows")


class _HiddenStates(nn.Module):
    """A model that returns everything that stored columns can be made of, by name.

    Args:
        folder: Where the model is.
    """

    def __init__(self, folder: ModelFolder) -> None:
        super().__init__()
        self.names: list[str] = []
        self._found: dict[str, Tensor] = {}
        self._model = load_model(folder, _recorded_attention(self._record))
        # Older transformers make mpnet's mask with this, and it knows no masks of four dimensions.
        self._model.get_extended_attention_mask = lambda mask, *_, **__: mask
        config = self._model.config
        family = FAMILIES[config.model_type]
        # Raw rows of the embedding matrix are static vectors only where they have the width of the others.
        self._has_lookup = getattr(config, "embedding_size", config.hidden_size) == config.hidden_size
        # Some families count positions from this token's id on, and leave it out.
        self._padding: int | None = None
        if family.first_position_after_pad:
            self._padding = self._model.embeddings.padding_idx
        self._watch(family)

    def _watch(self, family: Family) -> None:
        layers: nn.ModuleList = self._model.get_submodule(family.layers)
        layers[0].register_forward_pre_hook(lambda _, args: self._record(hidden_0=args[0]), prepend=True)
        for number, layer in enumerate(layers, 1):
            for module in layer.modules():
                setattr(module, _NUMBER, number)
            kept_at = layer
            if family.final_norm and number == len(layers):
                kept_at = self._model.get_submodule(family.final_norm)
            kept_at.register_forward_hook(functools.partial(self._record_output, number))

    def _record_output(self, number: int, _module: nn.Module, _args: object, output: Any) -> None:  # noqa: ANN401 (as hooks are)
        self._record(**{f"hidden_{number}": output[0] if isinstance(output, tuple) else output})

    def _record(self, **found: Tensor) -> None:
        self._found |= found

    def forward(self, ids_BT: Tensor, place_BT: Tensor, window_BT: Tensor) -> tuple[Tensor, ...]:
        """Run a batch whose tokens see those of their window; ``names`` then says what the outputs are."""
        self._found.clear()
        is_other_BTT = window_BT[:, :, None] != window_BT[:, None, :]
        position_BT = place_BT
        if self._padding is not None:
            position_BT = _positions(ids_BT, is_other_BTT, self._padding)
        mask_BTT = torch.zeros(()).masked_fill(is_other_BTT, torch.finfo(torch.float32).min)
        self._model(input_ids=ids_BT, attention_mask=mask_BTT[:, None], position_ids=position_BT)
        found = {"hidden_0": self._found.pop("hidden_0")}
        if self._has_lookup:
            found["lookup"] = self._model.get_input_embeddings()(ids_BT)
        found |= self._found
        self.names = list(found)
        return tuple(found.values())


def _positions(ids_BT: Tensor, is_other_BTT: Tensor, padding: int) -> Tensor:
    """Return the positions of tokens in their windows as transformers finds them where it is not told."""
    is_counted_BT = ids_BT.ne(padding)
    is_before_BTT = torch.ones_like(is_other_BTT).tril() & ~is_other_BTT & is_counted_BT[:, None]
    return is_before_BTT.long().sum(2) * is_counted_BT + padding


def _recorded_attention(record: Any) -> str:  # noqa: ANN401 (a method)
    """Return the name of an attention that records what salience needs; attention itself is eager."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        **options: Any,  # noqa: ANN401 (what a family adds)
    ) -> tuple[Tensor, None]:
        number = getattr(module, _NUMBER)
        scaling = options.get("scaling")
        scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        found = {f"query_{number}": scaled, f"key_{number}": key}
        if (width := options.get("sliding_window")) is not None:  # ours knows of none
            mask = torch.minimum(mask, _outside(width, mask.shape[-1]))
        record(**found, **{f"mask_{number}": mask})
        scores = scaled @ key.transpose(2, 3) + mask
        return (scores.softmax(dim=3) @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register(_ATTENTION, attend)
    AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)
    return _ATTENTION


def _outside(width: int, n_tokens: int) -> Tensor:
    """Return what hides tokens outside a sliding window, which counts the token itself to each side."""
    place_T = torch.arange(n_tokens)
    is_far_TT = (place_T[:, None] - place_T).abs() >= width
    return torch.zeros(()).masked_fill(is_far_TT, torch.finfo(torch.float32).min)


def convert(folder: ModelFolder, out: Path) -> None:
    """Write both graphs of a model into a folder.

    Raises:
        InputError: The model cannot be loaded.
        ConversionError: OpenVINO cannot convert it.
    """
    ov = import_openvino()
    model = _HiddenStates(folder)
    ids_BT = torch.arange(21).remainder(int(model._model.config.vocab_size)).reshape(3, 7)
    place_BT = torch.arange(7).repeat(3, 1)
    window_BT = torch.zeros_like(ids_BT)
    window_BT[1, 4:] = -1
    shapes = [ov.PartialShape([-1, -1])] * 3
    try:
        with torch.no_grad():
            example = (ids_BT, place_BT, window_BT)
            whole = ov.convert_model(model, example_input=example, input=shapes)
    except Exception as error:  # tracing and the frontend raise of many kinds
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        raise ConversionError(first_line(error)) from error
    for given, name in zip(whole.inputs, _INPUTS, strict=True):
        given.get_tensor().set_names({name})
    for output, name in zip(whole.outputs, model.names, strict=True):
        output.get_tensor().set_names({name})
    for graph, name in ((_embedding(ov, whole, model.names), EMBEDDING), (_layers(ov, whole), LAYERS)):
        ov.save_model(graph, out / f"{name}.xml", compress_to_fp16=False)


def _embedding(ov: Any, whole: Any, names: list[str]) -> Any:  # noqa: ANN401 (OpenVINO has no types)
    """Return the graph from token ids to the embedding layer's output, and the raw rows of the matrix."""
    model = whole.clone()
    results = [model.outputs[number].get_node() for number in range(1 + ("lookup" in names))]
    return ov.Model(results, _read_by(results, model.inputs), EMBEDDING)


def _layers(ov: Any, whole: Any) -> Any:  # noqa: ANN401 (OpenVINO has no types)
    """Return the graph from the embedding layer's output to everything else."""
    from openvino import opset13

    model = whole.clone()
    first = model.outputs[0].get_node()
    embedded = first.input_value(0)
    hidden = opset13.parameter(embedded.get_partial_shape(), ov.Type.f32, name="hidden_0")
    hidden.output(0).get_tensor().set_names({"hidden_0"})
    for target in list(embedded.get_target_inputs()):
        if target.get_node().get_friendly_name() != first.get_friendly_name():
            target.replace_source_output(hidden.output(0))
    rest = [each.get_node() for each in model.outputs if not {"hidden_0", "lookup"} & each.get_names()]
    return ov.Model(rest, [hidden, *_read_by(rest, model.inputs)], LAYERS)


def _read_by(results: list[Any], inputs: list[Any]) -> list[Any]:
    """Return the parameters among inputs that results depend on."""
    seen, waiting = set(), list(results)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            waiting += [node.input_value(number).get_node() for number in range(node.get_input_size())]
    return [each.get_node() for each in inputs if each.get_node().get_friendly_name() in seen]


def _main(name: str, path: str, out: str) -> int:
    folder = ModelFolder(name, Path(path), None)
    try:
        read_facts(folder)
        sys.stdout.write(CHECKED)
        sys.stdout.flush()
        convert(folder, Path(out))
    except CtxbatchError as error:
        sys.stderr.write(f"{error}\n")
        return UNSUPPORTED if isinstance(error, ConversionError) else error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
