"""Narrows a graph to the tokens that are asked for: the end of its last layer is computed for these alone.

After the attention of a layer, nothing looks from one token to another. So the last layer needs its output
projection and its feed-forward network, three quarters of its work, only for tokens that rows are made of:
neither for special tokens and padding, nor for words that are not stored. Letters of shapes: B
sequences of T tokens, M tokens that are asked for, D hidden size.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ctxbatch.model.graphs import import_openvino

TOKENS = "tokens"
# What computes each token by itself if all that varies with the input is (B, T, D).
_TOKEN_BY_TOKEN = {"Add", "Convert", "Divide", "Erf", "FakeQuantize", "Gelu", "MVN", "MatMul", "Multiply"}
_TOKEN_BY_TOKEN |= {"Power", "Relu", "Sigmoid", "Split", "Sqrt", "Subtract", "Swish", "Tanh", "VariadicSplit"}
# Those whose second input says over which axis they go: it has to be the last.
_ALONG_AN_AXIS = {"MVN", "Split", "VariadicSplit"}


def narrow(graph: Any, name: str) -> bool:  # noqa: ANN401 (OpenVINO has no types)
    """Give a graph one more input, `TOKENS` (M,), and one output only for these tokens.

    Args:
        graph: The graph, changed in place. It shares its nodes with no other graph.
        name: The output (B, T, D) that becomes (1, M, D). The tokens are indices into the flattened (B * T).

    Returns:
        Whether there was something to narrow; otherwise the graph is as it was.
    """
    ov = import_openvino()
    result = next(each for each in graph.outputs if name in each.get_names()).get_node()
    varying = _varying(graph)
    alone = _computed_token_by_token(result, varying)
    if not alone:
        return False
    tokens = ov.opset13.parameter([-1], np.int64)
    tokens.output(0).get_tensor().set_names({TOKENS})
    taken: dict[tuple[str, int], Any] = {}
    for node in alone.values():
        for number, source in enumerate(_sources(node)):
            key = _name(source), source.get_index()
            if _name(source) in alone or _name(source) not in varying:
                continue
            if key not in taken:
                width = source.get_partial_shape()[2].get_length()
                flat = ov.opset13.reshape(source, np.array([1, -1, width]), special_zero=False)
                taken[key] = ov.opset13.gather(flat, tokens, np.array(1))
            node.input(number).replace_source_output(taken[key].output(0))
    graph.add_parameters([tokens])
    graph.validate_nodes_and_infer_types()
    return True


def _varying(graph: Any) -> set[str]:  # noqa: ANN401 (as above)
    """Return the names of the nodes that depend on the input, unlike weights and what is made of them."""
    found: set[str] = set()
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Parameter" or any(_name(source) in found for source in _sources(node)):
            found.add(node.get_friendly_name())
    return found


def _computed_token_by_token(result: Any, varying: set[str]) -> dict[str, Any]:  # noqa: ANN401 (as above)
    """Return the nodes before a result that nothing else needs, and that look at no other token."""
    alone: dict[str, Any] = {}
    waiting = [result.input_value(0).get_node()]
    while waiting:
        node = waiting.pop()
        ports = (port for output in node.outputs() for port in output.get_target_inputs())
        readers = {port.get_node().get_friendly_name() for port in ports}
        # A node with several readers is met again from the last of them.
        if readers <= alone.keys() | {result.get_friendly_name()} and _looks_at_no_other(node, varying):
            alone[node.get_friendly_name()] = node
            waiting += [source.get_node() for source in _sources(node) if _name(source) in varying]
    return alone


def _looks_at_no_other(node: Any, varying: set[str]) -> bool:  # noqa: ANN401 (as above)
    kind, sources = node.get_type_name(), list(_sources(node))
    changing = [number for number, source in enumerate(sources) if _name(source) in varying]
    if kind not in _TOKEN_BY_TOKEN or not all(
        _is_hidden(sources[number].get_partial_shape()) for number in changing
    ):
        return False
    if kind == "MatMul":
        return changing == [0] and not node.get_attributes()["transpose_a"]
    if kind in _ALONG_AN_AXIS:
        axis = sources[1].get_node()
        return axis.get_type_name() == "Constant" and set(axis.get_data().ravel().tolist()) <= {2, -1}
    fixed = [source for number, source in enumerate(sources) if number not in changing]
    return all(_is_for_all(source.get_partial_shape()) for source in fixed)


def _sources(node: Any) -> Iterator[Any]:  # noqa: ANN401 (as above)
    """Yield the outputs of other nodes that a node reads."""
    return (node.input_value(number) for number in range(node.get_input_size()))


def _name(output: Any) -> str:  # noqa: ANN401 (as above)
    name: str = output.get_node().get_friendly_name()
    return name


def _is_hidden(shape: Any) -> bool:  # noqa: ANN401 (as above)
    """Whether a shape is (B, T, D), its D known."""
    is_3d = bool(shape.rank.is_static and shape.rank.get_length() == 3)
    return is_3d and bool(shape[1].is_dynamic and shape[2].is_static)


def _is_for_all(shape: Any) -> bool:  # noqa: ANN401 (as above)
    """Whether what has a shape is the same for all tokens."""
    n_axes = shape.rank.get_length()
    return n_axes < 2 or bool(shape[n_axes - 2] == 1)
