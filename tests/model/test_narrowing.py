"""A graph is narrowed up to where a token looks at another, and no further."""

import numpy as np
import pytest

from ctxbatch.model.graphs import import_openvino
from ctxbatch.model.narrowing import TOKENS, narrow

ov = import_openvino()
ops = ov.opset13
SIZE = 6
rng = np.random.default_rng(0)
WEIGHTS = rng.normal(size=(SIZE, SIZE)).astype(np.float32)
HIDDEN = rng.normal(size=(2, 5, SIZE)).astype(np.float32)
CHOSEN = np.array([7, 0, 3])


def graph_of(*outputs, inputs):
    """Return a graph whose outputs are called last, other, ..."""
    graph = ov.Model(list(outputs), inputs)
    for output, name in zip(graph.outputs, ("last", "other"), strict=False):
        output.get_tensor().set_names({name})
    return graph


def given():
    hidden = ops.parameter([-1, -1, SIZE], np.float32)
    hidden.output(0).get_tensor().set_names({"hidden_0"})
    return hidden


def outputs_of(graph, **more):
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"hidden_0": HIDDEN, **more})


def mixed(hidden):
    """Let every token look at all others."""
    return ops.matmul(ops.softmax(ops.matmul(hidden, hidden, False, True), 2), hidden, False, False)


def feed_forward(hidden):
    grown = ops.gelu(ops.matmul(hidden, WEIGHTS, False, False), "erf")
    return ops.mvn(ops.add(grown, hidden), np.array([-1]), True, 1e-5, "inside_sqrt")


def test_what_follows_the_last_look_at_other_tokens_is_computed_for_the_chosen_ones():
    hidden = given()
    before = mixed(hidden)
    after = ops.add(feed_forward(before), hidden)
    graph = graph_of(after, inputs=[hidden])
    expected = outputs_of(graph)["last"].reshape(-1, SIZE)[CHOSEN]
    assert narrow(graph, "last")
    found = outputs_of(graph, **{TOKENS: CHOSEN})["last"]
    assert found.shape == (1, 3, SIZE)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_halves_of_a_vector_are_taken_of_the_chosen_tokens():
    hidden = given()
    halves = ops.split(feed_forward(mixed(hidden)), np.array(2), 2)
    graph = graph_of(ops.multiply(ops.tanh(halves.output(0)), halves.output(1)), inputs=[hidden])
    expected = outputs_of(graph)["last"].reshape(-1, SIZE // 2)[CHOSEN]
    assert narrow(graph, "last")
    np.testing.assert_allclose(outputs_of(graph, **{TOKENS: CHOSEN})["last"][0], expected, atol=1e-5)


LOOKING = {
    "softmax over tokens": lambda hidden: ops.softmax(hidden, 1),
    "mean over tokens": lambda hidden: ops.mvn(hidden, np.array([1]), True, 1e-5, "inside_sqrt"),
    "attention": mixed,
    "halves of the tokens": lambda hidden: ops.split(hidden, np.array(1), 5).output(0),
    "numbers of its own for each token": lambda hidden: ops.add(hidden, np.ones((1, 5, 1), np.float32)),
    "weights that are hidden states": lambda hidden: ops.matmul(hidden, hidden, False, True),
}


@pytest.mark.parametrize("last", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_other_tokens_is_computed_for_all(last):
    hidden = given()
    graph = graph_of(last(hidden), inputs=[hidden])
    expected = outputs_of(graph)["last"]
    assert not narrow(graph, "last")
    np.testing.assert_array_equal(outputs_of(graph)["last"], expected)


def test_what_another_output_needs_too_is_computed_for_all():
    hidden = given()
    shared = feed_forward(mixed(hidden))
    graph = graph_of(feed_forward(shared), ops.softmax(shared, 1), inputs=[hidden])
    expected = outputs_of(graph)
    expected = {name: expected[name] for name in ("last", "other")}
    assert narrow(graph, "last")
    found = outputs_of(graph, **{TOKENS: CHOSEN})
    np.testing.assert_allclose(found["other"], expected["other"], atol=1e-6)
    np.testing.assert_allclose(found["last"][0], expected["last"].reshape(-1, SIZE)[CHOSEN], atol=1e-5)
