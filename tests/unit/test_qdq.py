"""The quantized graph: integers, scales, axes and sizes; zero tensors and filters; and TensorRT's builder on the result."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, numpy_helper

from deploykit.errors import GraphError, UsageError
from deploykit.graph.explain import make_explain_graph
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import check_scales, quantize_graph
from deploykit.quantization.twin import make_cpu_twin
from deploykit.quantization.weights import quantize_weight
from tests.engines import engine_bytes
from tests.oracles.gradient_oracle import relative, run
from tests.unit.quantized_graphs import (
    DENSE,
    HEAD,
    INCEPTION,
    RESIDUAL,
    SQUEEZE_EXCITE,
    Array,
    graph_of,
    head,
    images,
    net,
    quantized,
    thresholds_of,
)


def constants(graph: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}


def named(graph: onnx.ModelProto, name: str) -> NodeProto:
    return next(node for node in graph.graph.node if node.name == name)


def test_activations_are_signed_with_zero_point_0_and_threshold_over_127_as_scale() -> None:
    placement = place(RESIDUAL)
    result = quantize_graph(RESIDUAL, placement, dict.fromkeys(placement.calibrated, 2.54))
    values = constants(result.graph)
    for node in result.graph.graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[1]] == np.float32(0.02)
            assert values[node.input[2]] == 0
            assert values[node.input[2]].dtype == np.int8
    assert set(result.report.scales) == set(placement.tensors)
    assert result.cpu_scales == {"g": pytest.approx(0.02)}


def test_a_tensor_has_one_pair_whoever_reads_it() -> None:
    result = quantized(RESIDUAL).graph
    pairs = Counter(node.input[0] for node in result.graph.node if node.op_type == "QuantizeLinear")
    assert pairs == dict.fromkeys(["image", "r", "e", "last", "f"], 1)
    readers = {node.name for node in result.graph.node if "r_dequantized" in node.input}
    assert readers == {"d", "s"}
    assert named(result, "s").input[0] == "g"


def test_every_quantized_graph_is_valid_and_gives_almost_the_float_logits() -> None:
    for graph in (RESIDUAL, DENSE, SQUEEZE_EXCITE, INCEPTION):
        result = quantized(graph).graph
        onnx.checker.check_model(result, full_check=True)
        pictures = images(graph, 4, seed=1)
        # Steps of 1 in 127 on a handful of layers, on the pictures that were calibrated on.
        assert relative(run(result, image=pictures)["logits"], run(graph, image=pictures)["logits"]) < 0.08


LINEAR = ("p = GlobalAveragePool (image)", "f = Flatten (p)")


@pytest.mark.parametrize(
    ("lines", "shape", "axis", "channels"),
    [
        ([*LINEAR, "logits = Gemm <transB=1> (f, w)"], (5, 8), 0, 5),
        ([*LINEAR, "logits = Gemm (f, w)"], (8, 5), 1, 5),
        ([*LINEAR, "logits = MatMul (f, w)"], (8, 5), 1, 5),
        (["c = Conv <group=4> (image, w)", "p = GlobalAveragePool (c)", "logits = Flatten (p)"], (12, 2, 3, 3), 0, 12),
        (["c = Conv <group=8> (image, w)", "p = GlobalAveragePool (c)", "logits = Flatten (p)"], (8, 1, 3, 3), 0, 8),
        (["c = ConvTranspose (image, w)", "p = GlobalAveragePool (c)", "logits = Flatten (p)"], (8, 5, 3, 3), 1, 5),
        (["c = ConvTranspose <group=8> (image, w)", "p = GlobalAveragePool (c)", "logits = Flatten (p)"], (8, 1, 3, 3), 0, 8),
    ],
)
def test_weights_have_one_scale_per_output_channel(lines: list[str], shape: Sequence[int], axis: int, channels: int) -> None:
    factors = np.logspace(-3, 1, channels).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    weight = np.random.default_rng(0).normal(size=tuple(shape)) * factors
    graph = graph_of(*lines, weights={"w": weight}, classes=channels, image=(8, 6, 6))
    result = quantized(graph)
    values, dequantize = constants(result.graph), named(result.graph, "w/DequantizeLinear")
    assert dequantize.attribute[0].i == axis
    assert values["w_scale"].shape == (channels,)
    np.testing.assert_allclose(
        values["w_scale"], np.abs(weight).max(tuple(i for i in range(len(shape)) if i != axis)) / 127, rtol=1e-6
    )
    assert values["w_int8"].dtype == np.int8
    assert (np.abs(values["w_int8"].astype(int)).max(tuple(i for i in range(len(shape)) if i != axis)) == 127).all()
    pictures = images(graph, 3, seed=1)
    answer, expected = run(result.graph, image=pictures)["logits"], run(graph, image=pictures)["logits"]
    worst = np.abs(answer - expected).max(0) / np.abs(expected).max(0)
    assert worst.max() < 0.05, "channels of every size keep their precision"


def test_a_transposed_convolution_whose_groups_have_several_channels_stays_in_float() -> None:
    lines = ["c = ConvTranspose <group=2> (image, w)", "d = Conv (c, v)", "p = GlobalAveragePool (d)", "logits = Flatten (p)"]
    placement = place(graph_of(*lines, weights={"w": (8, 3, 3, 3), "v": (5, 6, 1, 1)}, image=(8, 6, 6)))
    assert [(layer.node, layer.rule) for layer in placement.floats] == [("c", "grouped transposed")]


def test_a_weight_that_two_layers_share_is_stored_once() -> None:
    graph = graph_of(
        "a = Conv <pads=[1,1,1,1]> (image, w)",
        "b = Conv <pads=[1,1,1,1]> (a, w)",
        "last = Relu (b)",
        *HEAD,
        weights={"w": (3, 3, 3, 3), **head(3)},
    )
    result = quantized(graph).graph
    assert Counter(node.name for node in result.graph.node)["w/DequantizeLinear"] == 1
    assert named(result, "a").input[1] == named(result, "b").input[1] == "w_dequantized"
    assert "w" not in constants(result)
    # A layer that is kept in float still reads the weight unrounded.
    half = quantized(graph, keep=["b"]).graph
    assert (named(half, "a").input[1], named(half, "b").input[1]) == ("w_dequantized", "w")


def test_a_weight_read_along_two_axes_is_rounded_for_each() -> None:
    graph = graph_of(
        *LINEAR, "g = Gemm <transB=1> (f, w)", "logits = Gemm (g, w)", weights={"w": (8, 8)}, classes=8, image=(8, 6, 6)
    )
    result = quantized(graph).graph
    assert named(result, "g").input[1] == "w_axis0_dequantized"
    assert named(result, "logits").input[1] == "w_axis1_dequantized"


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0", "resnet18"])
def test_the_file_is_at_most_three_tenths_of_the_float_one(name: str) -> None:
    """With their gates' weights too, which compute in float."""
    graph = net(name)
    assert quantized(graph).graph.ByteSize() <= 0.30 * graph.ByteSize()


def dead() -> onnx.ModelProto:
    """Case O11: the first Relu never fires; one filter is zero, one subnormal."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 8, 3, 3)).astype(np.float32) * 0.1
    weight[3] = 0
    weight[5] *= np.float32(1e-42)
    return graph_of(
        "c = Conv (image, w0, b0)",
        "r = Relu (c)",
        "d = Conv (r, w1, b1)",
        "last = Relu (d)",
        *HEAD,
        weights={"w0": (8, 3, 3, 3), "b0": np.full(8, -100.0), "w1": weight, "b1": (8,), **head(8)},
    )


def test_zero_tensors_and_zero_filters_get_scales_that_every_parser_takes_and_are_named_once() -> None:
    graph = dead()
    result = quantized(graph)
    assert result.report.zero_tensors == ("r",)
    assert result.report.zero_filters == {"w1": (3, 5)}
    scales = [values for name, values in constants(result.graph).items() if name.endswith("_scale")]
    assert all(np.isfinite(s).all() and (s > 1e-30).all() for s in scales)
    pictures = images(graph, 4, seed=1)
    answer, expected = run(result.graph, image=pictures)["logits"], run(graph, image=pictures)["logits"]
    # The logits are constant here; what is left is the rounding of the head's input, one step of it per channel.
    step = result.report.scales["f"] * np.abs(constants(graph)["head"]).sum(1)
    assert (np.abs(answer - expected) <= step).all()
    assert engine_bytes(result.graph) > 10_000


def test_a_filter_that_is_tiny_beside_its_bias_keeps_the_bias() -> None:
    """A folded BatchNorm whose gamma is almost zero: in steps of its own weights the bias would not fit in 32 bits."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
    weight[1] *= 1e-12
    graph = graph_of("c = Conv (image, w, b)", "last = Relu (c)", *HEAD, weights={"w": weight, "b": np.ones(4), **head(4)})
    result = quantized(graph)
    steps = 1 / (result.report.scales["image"] * constants(result.graph)["w_scale"].astype(np.float64))
    assert steps.max() <= 2**30 * 1.001
    np.testing.assert_allclose(constants(result.graph)["c_bias_rounded"], np.ones(4), rtol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_thresholds_that_are_no_range_are_refused_by_name(bad: float) -> None:
    placement = place(RESIDUAL)
    thresholds = dict.fromkeys(placement.calibrated, 1.0) | {"e": bad}
    with pytest.raises(GraphError, match=re.escape(f"these are not: e ({bad:g})")):
        quantize_graph(RESIDUAL, placement, thresholds)


def test_missing_thresholds_are_counted_and_named() -> None:
    placement = place(RESIDUAL)
    thresholds = {name: 1.0 for name in placement.calibrated if name not in {"e", "g"}}
    with pytest.raises(UsageError, match="2 of 6 tensors have no threshold: e, g"):
        quantize_graph(RESIDUAL, placement, thresholds)


def test_a_placement_of_another_graph_is_refused() -> None:
    with pytest.raises(GraphError, match="the placement belongs to another graph"):
        quantize_graph(DENSE, place(RESIDUAL), dict.fromkeys(place(RESIDUAL).calibrated, 1.0))


def test_a_weight_with_nan_is_refused_by_name() -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(RESIDUAL)
    tensor = next(t for t in graph.graph.initializer if t.name == "w1")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, "w1"))
    with pytest.raises(GraphError, match="weight w1 has 1 NaN or infinite values"):
        quantize_graph(graph, place(graph), dict.fromkeys(place(graph).calibrated, 1.0))


@pytest.mark.parametrize("scale", [0.0, -0.1, 1e-42, float("nan"), float("inf")])
def test_the_finished_graph_is_checked_for_bad_scales(scale: float) -> None:
    graph = quantized(RESIDUAL).graph
    tensor = next(t for t in graph.graph.initializer if t.name == "e_scale")
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(scale, np.float32), "e_scale"))
    with pytest.raises(GraphError, match=r"these are not: e \("):
        check_scales(graph)


def depthwise() -> tuple[onnx.ModelProto, Array]:
    """Case O15: filters from 0.001 to 10."""
    weight = np.random.default_rng(0).normal(size=(16, 1, 3, 3)) * np.logspace(-3, 1, 16).reshape(-1, 1, 1, 1)
    lines = ["c = Conv <group=16, pads=[1,1,1,1]> (image, w)", "r = Relu (c)", "p = GlobalAveragePool (r)", "logits = Flatten (p)"]
    return graph_of(*lines, weights={"w": weight}, classes=16, image=(16, 12, 12)), weight


def worst_channel(graph: onnx.ModelProto, *, per_channel: bool) -> float:
    pictures = images(graph, 4, seed=1)
    answer = run(quantized(graph, per_channel=per_channel).graph, image=pictures)["logits"]
    expected = run(graph, image=pictures)["logits"]
    return float((np.abs(answer - expected).mean(0) / np.abs(expected).mean(0)).max())


def test_one_scale_per_tensor_wipes_small_depthwise_filters_out_and_one_per_channel_does_not() -> None:
    graph, _ = depthwise()
    assert worst_channel(graph, per_channel=True) < 0.02
    assert worst_channel(graph, per_channel=False) == pytest.approx(1.0)


def test_rounding_is_to_the_nearest_integer_and_symmetric() -> None:
    weight = np.array([[1.27, 0.014, -0.016], [-2.54, 0.02, 0.0]], np.float32)
    int8 = quantize_weight(weight, 0, "w")
    assert int8.values.tolist() == [[127, 1, -2], [-127, 1, 0]]
    np.testing.assert_allclose(int8.scales, [0.01, 0.02], rtol=1e-6)


@pytest.mark.parametrize("graph", [RESIDUAL, DENSE, SQUEEZE_EXCITE, INCEPTION], ids=["residual", "dense", "gate", "branches"])
def test_tensorrt_builds_small_graphs(graph: onnx.ModelProto) -> None:
    assert engine_bytes(quantized(graph).graph) > 10_000


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "efficientnet_b0"])
def test_tensorrt_builds_predict_and_explain_of_real_nets(name: str) -> None:
    result = quantized(net(name)).graph
    assert engine_bytes(result) > 100_000
    assert engine_bytes(make_explain_graph(result)) > 100_000


def test_the_explain_graph_of_a_quantized_graph_gives_its_logits_to_the_last_bit() -> None:
    graph = quantized(net("resnet18")).graph
    pictures = images(graph, 2)
    answer = run(make_explain_graph(graph), image=pictures, class_index=[-1, 3])
    np.testing.assert_array_equal(answer["logits"], run(graph, image=pictures)["logits"])


def test_thresholds_may_name_more_tensors_than_are_needed() -> None:
    placement = place(RESIDUAL)
    thresholds = thresholds_of(RESIDUAL, placement)
    more = quantize_graph(RESIDUAL, placement, thresholds | {"c": 1.0})
    assert more.graph == quantize_graph(RESIDUAL, placement, thresholds).graph


@pytest.mark.parametrize("bias", ["", ", hidden_bias"])
def test_a_rectified_gemm_gives_an_explain_graph_the_predict_graphs_logits_with_and_without_a_bias(bias: str) -> None:
    # VGG's classifier. Without a bias ONNX Runtime took QGemm in one graph and FusedGemm in the other.
    graph = graph_of(
        "last = Conv <pads=[1,1,1,1]> (image, w, b)",
        "features = Relu (last)",
        "p = GlobalAveragePool (features)",
        "f = Flatten (p)",
        f"h = Gemm <transB=1> (f, hidden{bias})",
        "r = Relu (h)",
        "logits = Gemm <transB=1> (r, head, head_bias)",
        weights={"w": (16, 3, 3, 3), "b": (16,), "hidden": (64, 16), "hidden_bias": (64,), "head": (5, 64), "head_bias": (5,)},
    )
    signed = quantized(graph)
    assert all(len(node.input) == 3 for node in signed.graph.graph.node if node.op_type == "Gemm")
    batch = images(graph, 64)
    for predict in (signed.graph, make_cpu_twin(signed)):
        answer = run(make_explain_graph(predict, "features"), image=batch, class_index=[-1] * len(batch))
        np.testing.assert_array_equal(answer["logits"], run(predict, image=batch)["logits"])
