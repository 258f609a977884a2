"""The CPU twin: equal to the TensorRT-shaped graph integer by integer, and integer kernels throughout on ONNX Runtime."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.graph.explain import make_explain_graph
from deploykit.graph.layers import default_layer
from deploykit.graph.scopes import with_outputs
from deploykit.quantization.pixels import find_pixel_input, integer_bias, widen_scale
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import QuantizedGraph, quantize_graph
from deploykit.quantization.twin import UNIT_SCALE, added_pairs, make_cpu_twin
from deploykit.spec import ImageSpec
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
    optimized,
    quantized,
    thresholds_of,
)

SMALL = {"residual": RESIDUAL, "dense": DENSE, "gate": SQUEEZE_EXCITE, "branches": INCEPTION}


def zero_points(twin: onnx.ModelProto) -> dict[str, int]:
    """The zero point of every tensor of integers that is read as activations."""
    values = {t.name: numpy_helper.to_array(t) for t in twin.graph.initializer}
    pairs = [n for n in twin.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in values and n.input[0] != "image"]
    return {node.input[0]: int(values[node.input[2]]) for node in pairs}


def layer_by_layer(signed: onnx.ModelProto, twin: onnx.ModelProto, pictures: Array) -> dict[str, Array]:
    """Each layer's integers of the twin, minus those of the signed graph, when the twin's layers are fed with the latter."""
    zero = zero_points(twin)
    expected = run(with_outputs(signed, list(zero)), image=pictures)
    forced = onnx.ModelProto()
    forced.CopyFrom(twin)
    for node in forced.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in zero:
            node.input[0] += "_forced"
    forced.graph.input.extend(helper.make_tensor_value_info(f"{name}_forced", TensorProto.UINT8, None) for name in zero)
    integers = {name: expected[name].astype(np.int16) + point for name, point in zero.items()}
    assert all(values.min() >= 0 and values.max() <= 255 for values in integers.values())
    feeds: dict[str, Any] = {f"{name}_forced": values.astype(np.uint8) for name, values in integers.items()}
    answer = run(with_outputs(forced, list(zero)), image=pictures, **feeds)
    return {name: answer[name].astype(np.int16) - integers[name] for name in zero}


def require_equal(signed: onnx.ModelProto, twin: onnx.ModelProto, pictures: Array) -> None:
    """At most one integer of a tensor, or 1 in 10,000, may differ, and by one.

    A value on the border of two integers goes either way: the signed graph computes it in float32, the twin in 32-bit integers.
    """
    for name, difference in layer_by_layer(signed, twin, pictures).items():
        assert np.abs(difference).max() <= 1, name
        assert np.count_nonzero(difference) <= max(1, difference.size / 10_000), name


@pytest.mark.parametrize("name", SMALL)
def test_every_layer_of_the_exact_twin_gives_the_integers_of_the_tensorrt_graph(name: str) -> None:
    result = quantized(SMALL[name])
    require_equal(result.graph, make_cpu_twin(result, exact=True), images(SMALL[name], 4, seed=1))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "efficientnet_b0"])
def test_every_layer_of_a_real_net_gives_the_integers_of_the_tensorrt_graph(name: str) -> None:
    result = quantized(net(name))
    require_equal(result.graph, make_cpu_twin(result, exact=True), images(net(name), 2, seed=1))


@pytest.mark.parametrize("name", SMALL)
def test_both_saturate_alike(name: str) -> None:
    """Thresholds at half of what the pictures reach: with zero point 0 a byte could go on to 255, the signed graph stops at 127."""
    placement = place(SMALL[name])
    halves = {tensor: threshold / 2 for tensor, threshold in thresholds_of(SMALL[name], placement).items()}
    result = quantize_graph(SMALL[name], placement, halves)
    pictures = images(SMALL[name], 4, seed=1)
    integers = run(with_outputs(result.graph, [f"{t}_quantized" for t in placement.tensors]), image=pictures)
    assert sum(int((values == 127).sum()) > 1 for values in integers.values() if values.dtype == np.int8) >= 3
    require_equal(result.graph, make_cpu_twin(result, exact=True), pictures)


def as_signed(twin: onnx.ModelProto) -> onnx.ModelProto:
    """A twin with its zero points moved back to 0, everything else as it is."""
    signed = onnx.ModelProto()
    signed.CopyFrom(twin)
    for tensor in signed.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.uint8 and tensor.name.startswith("zero_"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(value, np.int8), tensor.name))
        elif value.dtype == np.uint8:
            # Bounds of rectifiers: 128 means 0 where the zero point was 128, and 127 is 127 where it was 0.
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(0 if value == 128 else value, np.int8), tensor.name))
    signed.graph.initializer.append(numpy_helper.from_array(np.asarray(0, np.int8), "nothing"))
    for node in signed.graph.node:
        if node.op_type == "Clip" and not node.input[1]:
            node.input[1] = "nothing"  # unsigned integers stop at 0 by themselves
    return signed


@pytest.mark.parametrize("name", ["residual", "dense", "branches"])
def test_the_twin_that_serves_differs_from_the_tensorrt_graph_by_its_added_pairs_alone(name: str) -> None:
    """SiLU's sigmoid has 256 levels, which a signed graph cannot have; so the net with gates is not among these."""
    twin = make_cpu_twin(quantized(SMALL[name]))
    require_equal(as_signed(twin), twin, images(SMALL[name], 4, seed=1))


def test_only_what_a_convolution_cannot_write_in_integers_gets_a_pair_of_its_own() -> None:
    assert set(added_pairs(quantized(RESIDUAL))) == {"g"}
    assert added_pairs(quantized(DENSE)) == {}
    pairs = added_pairs(quantized(SQUEEZE_EXCITE))
    assert set(pairs) == {"c", "cs", "d", "ds", "q", "gate", "a"}
    assert pairs["cs"] == pairs["ds"] == pairs["gate"] == UNIT_SCALE
    exact = make_cpu_twin(quantized(SQUEEZE_EXCITE), exact=True)
    assert {f"{name}_quantized" for name in pairs}.isdisjoint(zero_points(exact))


def test_the_pair_that_the_cpu_needs_before_a_kept_layer_stands_behind_the_rectifier() -> None:
    placement = place(RESIDUAL, ["g"])
    assert placement.cpu_tensors == ("e",)
    result = quantize_graph(RESIDUAL, placement, thresholds_of(RESIDUAL, placement))
    assert zero_points(make_cpu_twin(result))["e_quantized"] == 0


def test_max_pooling_on_a_residual_branch_pools_integers(tmp_path: Path) -> None:
    """As in Xception: convolution, max pooling, addition with a strided convolution."""
    graph = graph_of(
        "r = Relu (image)",
        "short = Conv <strides=[2,2]> (r, w0)",
        "c = Conv (r, w1)",
        "m = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (c)",
        "last = Add (m, short)",
        *HEAD,
        weights={"w0": (8, 3, 1, 1), "w1": (8, 3, 1, 1), **head(8)},
    )
    result = quantized(graph)
    pairs = added_pairs(result)
    assert set(pairs) == {"c", "m"}
    assert pairs["c"] == pairs["m"]
    twin = make_cpu_twin(result)
    operators = Counter(n.op_type for n in optimized(twin, tmp_path / "o.onnx").graph.node)
    # The pooling that reads and writes [N, h, w, C] is the integers' own.
    assert (operators["QLinearConv"], operators["NhwcMaxPool"], operators["QLinearAdd"]) == (2, 1, 1)
    require_equal(as_signed(twin), twin, images(graph, 4, seed=1))


def test_tensors_without_negative_values_keep_zero_point_0_and_others_get_128() -> None:
    assert zero_points(make_cpu_twin(quantized(RESIDUAL))) == {
        "image_quantized": 128, "r_quantized": 0, "e_quantized": 0, "g_quantized": 128, "last_quantized": 0, "f_quantized": 128,
    }  # fmt: skip
    # Poolings and concatenations share a scale with a convolution that writes negative numbers: one zero point for all.
    zero = zero_points(make_cpu_twin(quantized(DENSE)))
    assert {zero[f"{name}_quantized"] for name in ("r", "m", "d1", "k1", "d2", "k2")} == {128}
    zero = zero_points(make_cpu_twin(quantized(INCEPTION)))
    assert {zero[f"{name}_quantized"] for name in ("r", "b2", "b1r", "b3r", "k")} == {0}


INTEGER_KERNELS = {
    "residual": {"QLinearConv": 3, "QLinearAdd": 1, "QGemm": 1},
    "dense": {"QLinearConv": 7, "QLinearConcat": 2, "QLinearAveragePool": 1, "QGemm": 1},
    "gate": {"QLinearConv": 4, "QLinearAdd": 1, "QLinearMul": 3, "QLinearSigmoid": 2, "QGemm": 1},
    "branches": {"QLinearConv": 4, "QLinearConcat": 1, "QLinearAveragePool": 1, "QGemm": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_onnx_runtime_runs_every_layer_in_integers(name: str, tmp_path: Path) -> None:
    operators = Counter(n.op_type for n in optimized(make_cpu_twin(quantized(SMALL[name])), tmp_path / "o.onnx").graph.node)
    assert {operator: operators[operator] for operator in INTEGER_KERNELS[name]} == INTEGER_KERNELS[name]
    assert not {"BatchNormalization", "Relu", "Add", "Concat"}.intersection(operators)
    assert operators["Conv"] + operators["FusedConv"] == (2 if name == "gate" else 0), "only the gate's layers compute in float"


@pytest.mark.parametrize(
    ("name", "convolutions", "additions"), [("resnet18", 20, 8), ("efficientnet_lite0", 49, 9), ("efficientnet_b0", 49, 9)]
)
def test_onnx_runtime_runs_every_layer_of_real_nets_in_integers(
    name: str, convolutions: int, additions: int, tmp_path: Path
) -> None:
    operators = Counter(n.op_type for n in optimized(make_cpu_twin(quantized(net(name))), tmp_path / "o.onnx").graph.node)
    # One more convolution: the pixels' normalization.
    assert (operators["QLinearConv"], operators["QLinearAdd"], operators["QGemm"]) == (convolutions + 1, additions, 1)
    assert operators["Add"] == operators["Relu"] == operators["Clip"] - (33 if "lite" in name else 17 if "res" in name else 0) == 0


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_the_added_pairs_cost_little_beside_the_quantization_itself(name: str) -> None:
    graph, result = net(name), quantized(net(name))
    pictures = images(graph, 8, seed=2)
    expected = run(graph, image=pictures)["logits"]
    error, twin_error = (
        float(np.linalg.norm(run(m, image=pictures)["logits"] - expected)) for m in (result.graph, make_cpu_twin(result))
    )
    # Rounding once more at a residual addition; independent errors add up as squares.
    assert twin_error < 1.6 * error


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "efficientnet_b0"])
def test_the_explain_graph_of_a_twin_explains_the_same_layer_and_costs_no_integer_kernel(name: str, tmp_path: Path) -> None:
    graph = net(name)
    twin = make_cpu_twin(quantized(graph))
    assert default_layer(twin).tensor == default_layer(graph).tensor
    explain = make_explain_graph(twin)
    pictures = images(graph, 2, seed=2)
    answer = run(explain, image=pictures, class_index=[1, 2])
    np.testing.assert_array_equal(answer["logits"], run(twin, image=pictures)["logits"])
    expected = run(make_explain_graph(graph), image=pictures, class_index=[1, 2])
    # The tail is a pooling and a linear layer, whose weights are rounded to 1 in 127.
    assert relative(answer["gradients"], expected["gradients"]) < 0.02
    kernels = [
        Counter(n.op_type for n in optimized(m, tmp_path / "o.onnx").graph.node if n.op_type.startswith("QLinear"))
        for m in (twin, explain)
    ]
    assert kernels[0] == kernels[1]


def test_the_gradient_of_a_clip_of_integers_is_a_rectifiers() -> None:
    graph = net("resnet18")
    pictures = images(graph, 2, seed=2)
    layer = "layer3"
    expected, answer = (
        run(make_explain_graph(m, resolve(graph, layer)), image=pictures, class_index=[1, 2])["gradients"]
        for m in (graph, make_cpu_twin(quantized(graph)))
    )
    cosine = float((expected * answer).sum() / np.linalg.norm(expected) / np.linalg.norm(answer))
    # Two convolutions behind the layer; a gate near zero flips now and then.
    assert cosine > 0.9


def resolve(graph: onnx.ModelProto, module: str) -> str:
    from deploykit.graph.layers import resolve_layer

    return resolve_layer(graph, module).tensor


SPECS = {
    "imagenet": ImageSpec(32, 32, 32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "lite": ImageSpec(32, 32, 32, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    "halves": ImageSpec(32, 32, 32, mean=(0.5,) * 3, std=(0.5,) * 3),
}


def pixel_graph(spec: ImageSpec) -> onnx.ModelProto:
    from deploykit.graph.pixels import add_pixel_input

    graph = graph_of("c = Conv (image, w0)", "last = Relu (c)", *HEAD, weights={"w0": (4, 3, 3, 3), **head(4)}, image=(3, 32, 32))
    add_pixel_input(graph, spec)
    return graph


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("share", [1.0, 0.93, 0.8])
def test_every_grey_level_becomes_the_same_integer(name: str, share: float, tmp_path: Path) -> None:
    graph = pixel_graph(SPECS[name])
    placement = place(graph)
    thresholds = dict.fromkeys(placement.calibrated, 1.0) | {"normalized": 2.6 * share}
    result = quantize_graph(graph, placement, thresholds)
    twin = make_cpu_twin(result)
    # 1,024 pixels: each level four times, in another order per channel.
    levels = np.tile(np.arange(256, dtype=np.uint8), 4).reshape(1, 32, 32)
    pictures = np.stack([levels, levels[:, ::-1], levels.transpose(0, 2, 1)], axis=-1)
    integers = [
        run(with_outputs(m, ["normalized_quantized"]), image=pictures)["normalized_quantized"] for m in (result.graph, twin)
    ]
    np.testing.assert_array_equal(integers[0].astype(np.int16) + 128, integers[1])
    assert 1 - 1e-6 <= result.report.scales["normalized"] / (2.6 * share / 127) < 1.01  # float32
    assert Counter(n.op_type for n in optimized(twin, tmp_path / "o.onnx").graph.node)["QLinearConv"] == 2


def test_where_a_grey_level_would_change_the_pixels_are_normalized_in_float() -> None:
    pixels = find_pixel_input(pixel_graph(SPECS["halves"]))
    assert pixels is not None
    scales = np.linspace(0.7, 1.0, 200) / 127
    rough = [scale for scale in scales if integer_bias(pixels, scale) is None]
    assert len(rough) > 20, "most scales put some level on a border"
    assert all(integer_bias(pixels, widen_scale(pixels, scale)) is not None for scale in rough[:20])
    graph = pixel_graph(SPECS["halves"])
    result = quantize_graph(graph, place(graph), dict.fromkeys(place(graph).calibrated, 1.0))
    stuck = QuantizedGraph(result.graph, result.report, result.placement, result.cpu_scales)
    stuck.report.scales["normalized"] = rough[0]  # type: ignore[index]
    assert {"Cast", "Mul", "Add"} <= {n.op_type for n in make_cpu_twin(stuck).graph.node}


def test_bgr_order_is_normalized_in_float() -> None:
    spec = ImageSpec(32, 32, 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), colour_order="bgr")
    result = quantized(pixel_graph(spec))
    assert "Gather" in {n.op_type for n in make_cpu_twin(result).graph.node}
    require_equal(result.graph, make_cpu_twin(result, exact=True), images(result.graph, 2, seed=1))
