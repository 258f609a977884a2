"""Cross-layer equalization changes no answer, evens the channels' ranges, and leaves alone what is not homogeneous."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.quantization.equalize import describe, equalize
from tests.oracles.gradient_oracle import run
from tests.unit.quantized_graphs import HEAD, graph_of, head, images, quantized


def _chain(between: str, spread: float = 3.0) -> onnx.ModelProto:
    """1x1, depthwise and 1x1 convolutions whose channels differ by orders of magnitude."""
    random = np.random.default_rng(0)
    factor = np.logspace(-spread / 2, spread / 2, 8).reshape(-1, 1, 1, 1)
    function = {"Relu": "Relu ({})", "LeakyRelu": "LeakyRelu <alpha=0.1> ({})", "Clip": "Clip ({}, low, high)"}[between]
    return graph_of(
        "c = Conv (image, w0, b0)",
        f"r = {function.format('c')}",
        "d = Conv <pads=[1,1,1,1], group=8> (r, w1, b1)",
        f"s = {function.format('d')}",
        "e = Conv (s, w2, b2)",
        "last = Relu (e)",
        *HEAD,
        weights={
            "w0": random.normal(size=(8, 3, 1, 1)) * factor,
            "b0": random.normal(size=8) * factor.ravel(),
            "w1": random.normal(size=(8, 1, 3, 3)) / factor,
            "b1": (8,),
            "w2": (4, 8, 1, 1),
            "b2": (4,),
            **({"low": np.array(0.0), "high": np.array(6.0)} if between == "Clip" else {}),
            **head(4),
        },
    )


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu"])
def test_answers_stay_and_the_ranges_of_neighbours_become_equal(between: str) -> None:
    graph = _chain(between)
    found = equalize(graph)
    assert found.pairs == (("c", "d"), ("d", "e"))
    image = images(graph, 4)
    # The same products in float32, scaled: rounding alone differs.
    np.testing.assert_allclose(run(found.graph, image=image)["logits"], run(graph, image=image)["logits"], rtol=1e-4, atol=1e-5)
    weights = {t.name: numpy_helper.to_array(t) for t in found.graph.graph.initializer}
    of = np.abs(weights["w0"]).max((1, 2, 3)), np.abs(weights["w1"]).max((1, 2, 3)), np.abs(weights["w2"]).max((0, 2, 3))
    # Iteration stops when no factor moves by more than 0.1 %; a pair earlier in the chain may be off by as much.
    np.testing.assert_allclose(of[0], of[1], rtol=5e-3)
    np.testing.assert_allclose(of[1], of[2], rtol=5e-3)


def test_int8_is_better_for_it_where_channels_differ() -> None:
    graph = _chain("Relu")
    image = images(graph, 16, seed=5)
    expected = run(graph, image=image)["logits"]
    error = [
        float(np.square(run(quantized(form).graph, image=image)["logits"] - expected).mean())
        for form in (graph, equalize(graph).graph)
    ]
    assert error[1] < 0.5 * error[0]


def test_relu6_is_left_alone_and_counted() -> None:
    graph = _chain("Clip")
    found = equalize(graph)
    assert found.graph is graph
    assert describe(found) == {"pairs": 0, "left_alone_behind_a_bound": 2, "largest_factor": 1.0}


def test_a_tensor_that_two_nodes_read_is_left_alone() -> None:
    graph = graph_of(
        "c = Conv (image, w0)", "d = Conv (c, w1)", "last = Add (c, d)", *HEAD,
        weights={"w0": (4, 3, 1, 1), "w1": (4, 4, 1, 1), **head(4)},
    )  # fmt: skip
    assert equalize(graph).pairs == ()


def test_a_dead_filter_keeps_its_partner() -> None:
    random = np.random.default_rng(0)
    dead = random.normal(size=(4, 3, 1, 1))
    dead[2] = 0
    graph = graph_of(
        "c = Conv (image, w0)", "r = Relu (c)", "last = Conv (r, w1)", *HEAD,
        weights={"w0": dead, "w1": random.normal(size=(4, 4, 1, 1)), **head(4)},
    )  # fmt: skip
    before = numpy_helper.to_array(graph.graph.initializer[1])
    after = {t.name: numpy_helper.to_array(t) for t in equalize(graph).graph.graph.initializer}["w1"]
    np.testing.assert_array_equal(after[:, 2], before[:, 2])
