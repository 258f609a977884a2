"""Bias correction takes away the mean that INT8 moves, and helps where filters are rounded coarsely."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.quantization.bias import correct_biases
from deploykit.quantization.calibrate import Batch
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import QuantizedGraph, quantize_graph
from deploykit.quantization.sensitivity import LayerNoise, measure_layers, side_by_side
from tests.oracles.gradient_oracle import run
from tests.unit.quantized_graphs import HEAD, graph_of, head, thresholds_of


def _depthwise() -> onnx.ModelProto:
    """A 1x1 convolution, a depthwise one whose filters hold one large and many small weights, and the head: all features positive,
    so that a rounded weight moves a mean."""
    random = np.random.default_rng(3)
    depthwise = random.uniform(0.002, 0.006, (16, 1, 3, 3))
    depthwise[:, 0, 1, 1] = 1.27  # the step is 0.01: small weights become 0 or 0.01
    weights = {"w0": random.uniform(0, 0.3, (16, 3, 1, 1)), "b0": np.full(16, 0.5), "w1": depthwise, "b1": np.zeros(16)}
    return graph_of(
        "a = Relu (image)",
        "c = Conv (a, w0, b0)",
        "r = Relu (c)",
        "d = Conv <pads=[1,1,1,1], group=16> (r, w1, b1)",
        "last = Relu (d)",
        *HEAD,
        weights={**weights, **head(16)},
    )


def _noise(graph: onnx.ModelProto, form: QuantizedGraph) -> dict[str, LayerNoise]:
    both, layers = side_by_side(graph, form, alone=True)
    image = np.random.default_rng(1).normal(size=(8, 3, 12, 12)).astype(np.float32)
    return measure_layers(lambda feeds: run(both, **feeds), layers, [Batch(tuple("abcdefgh"), {"image": image})])


def test_the_mean_shift_is_gone_and_noise_with_it() -> None:
    graph = _depthwise()
    placement, thresholds = place(graph), thresholds_of(graph, place(graph))
    plain = quantize_graph(graph, placement, thresholds)
    before = _noise(graph, plain)
    corrected, nodes = correct_biases(graph, before)
    assert set(nodes) == {"c", "d", "logits"}
    # Noise is what INT8 adds to the original, so the corrected graph stands on the INT8 side alone.
    after = _noise(graph, quantize_graph(corrected, placement, thresholds))
    # What is left is the rounding of the bias to the step of the 32-bit sums.
    assert np.abs(after["d"].shift).max() < 0.01 * np.abs(before["d"].shift).max()
    assert after["d"].noise < 0.5 * before["d"].noise


def test_the_logits_are_nearer_on_pictures_that_were_not_measured_on() -> None:
    graph = _depthwise()
    placement, thresholds = place(graph), thresholds_of(graph, place(graph))
    plain = quantize_graph(graph, placement, thresholds)
    corrected, _ = correct_biases(graph, _noise(graph, plain))
    repaired = quantize_graph(corrected, placement, thresholds)
    image = np.random.default_rng(9).normal(size=(16, 3, 12, 12)).astype(np.float32)
    expected = run(graph, image=image)["logits"]
    error = [float(np.square(run(g.graph, image=image)["logits"] - expected).mean()) for g in (plain, repaired)]
    assert error[1] < 0.25 * error[0]


def test_a_convolution_without_a_bias_gets_one() -> None:
    graph = graph_of("last = Conv (image, w0)", *HEAD, weights={"w0": (4, 3, 1, 1), **head(4)})
    noise = {"last": LayerNoise(1.0, 0.1, np.array([0.5, 0, 0, -1]), 9)}
    corrected, nodes = correct_biases(graph, noise)
    assert nodes == ("last",)
    values = {t.name: numpy_helper.to_array(t) for t in corrected.graph.initializer}
    assert values["last_bias_corrected"].tolist() == [-0.5, 0, 0, 1]


def test_two_layers_that_share_a_bias_are_corrected_apart_and_the_original_is_left_alone() -> None:
    graph = graph_of(
        "c = Conv (image, w0, b)", "last = Conv (c, w1, b)", *HEAD,
        weights={"w0": (4, 3, 1, 1), "w1": (4, 4, 1, 1), "b": np.ones(4), **head(4)},
    )  # fmt: skip
    before = graph.SerializeToString()
    corrected, _ = correct_biases(graph, {"c": LayerNoise(1, 1, np.full(4, 0.25), 1)})
    assert graph.SerializeToString() == before
    values = {t.name: numpy_helper.to_array(t) for t in corrected.graph.initializer}
    assert values["b"].tolist() == [1] * 4
    assert values["c_bias_corrected"] == pytest.approx([0.75] * 4)
