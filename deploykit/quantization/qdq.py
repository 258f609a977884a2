"""The quantized graph in TensorRT's shape. In: a float graph, a placement, thresholds. Out: a graph with Q/DQ pairs, and a report.

Activations are signed with zero point 0, which is all that TensorRT takes (NVIDIA TensorRT documentation, "Working with Quantized
Types"); weights stand as INT8 behind a DequantizeLinear alone, so the file is a quarter of the float one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.errors import GraphError, UsageError
from deploykit.graph.tensors import tensor_names
from deploykit.quantization.pixels import find_pixel_input, widen_scale
from deploykit.quantization.placed import Placement, WeightEdge
from deploykit.quantization.placement_nodes import LAYERS, node_id
from deploykit.quantization.weights import SMALLEST_SCALE, STEPS, Int8Weight, quantize_weight

ZERO_TENSOR_SCALE = 2.0**-13
"""The scale of an activation that is zero on every picture: any scale gives exactly zero. This one is a normal float16, and small
enough that a bias in units of it is exact to seven digits, and large enough that such a bias fits in 32 bits."""


@dataclass(frozen=True)
class QuantizationReport:
    """What was done.

    Args:
        scales: of every tensor with a pair: threshold / 127. The normalized pixels' may be up to 1 % larger (`pixels.widen_scale`).
        zero_tensors: activations whose threshold was zero or too small to be told from it; they give exactly zero.
        zero_filters: by weight, the output channels that are zero or too small to be told from it.
        int8_weights, float_weights: how many numbers became INT8, and how many of layers' weights did not.
    """

    scales: Mapping[str, float]
    zero_tensors: tuple[str, ...] = ()
    zero_filters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    int8_weights: int = 0
    float_weights: int = 0


@dataclass(frozen=True, eq=False)
class QuantizedGraph:
    """A graph in TensorRT's shape: signed INT8 with zero point 0, and what its CPU twin needs to know.

    Args:
        graph: with Q/DQ pairs; ``image`` and ``logits`` as before.
        report: what was done.
        placement: where the pairs stand.
        cpu_scales: of the tensors in ``placement.cpu_tensors``.
    """

    graph: ModelProto
    report: QuantizationReport
    placement: Placement
    cpu_scales: Mapping[str, float]


def quantize_graph(
    graph: ModelProto, placement: Placement, thresholds: Mapping[str, float], *, per_channel: bool = True
) -> QuantizedGraph:
    """Put pairs into a copy of a graph and store its weights as INT8.

    Weights: per output channel, symmetric, -127 to 127. Activations: one scale per tensor, threshold / 127, zero point 0.
    Biases stay float32, moved to the nearest step of the kernels' 32-bit sums; a Gemm without one gets zeros.

    Args:
        placement: made from this very graph.
        thresholds: for every tensor of ``placement.calibrated`` the absolute value that becomes 127; others are ignored.
        per_channel: False gives each weight one scale for all channels, for showing what that costs.

    Raises:
        UsageError: thresholds are missing.
        GraphError: a threshold or a weight is NaN, infinite or negative; or the placement belongs to another graph.
    """
    scales, cpu_scales, zero_tensors = _activation_scales(placement, thresholds)
    if (pixels := find_pixel_input(graph)) is not None and pixels.output in scales:
        scales[pixels.output] = widen_scale(pixels, scales[pixels.output])
    result = ModelProto()
    result.CopyFrom(graph)
    body = result.graph
    _require_fit(result, placement)
    _give_biases(body, placement)
    for group in placement.groups:
        for name in group.tensors:
            body.initializer.append(numpy_helper.from_array(np.asarray(scales[name], np.float32), f"{name}_scale"))
    body.initializer.append(numpy_helper.from_array(np.asarray(0, np.int8), ZERO_POINT))
    zero_filters, int8_weights = _store_weights(body, placement, scales, per_channel=per_channel)
    _round_biases(body, placement, scales)
    _insert_pairs(body, placement)
    float_weights = sum(int(np.prod(t.dims)) for t in body.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1)
    check_scales(result)
    report = QuantizationReport(scales, zero_tensors, zero_filters, int8_weights, float_weights)
    return QuantizedGraph(result, report, placement, cpu_scales)


ZERO_POINT = "zero_int8"
"""The zero point of every activation."""


def check_scales(graph: ModelProto) -> None:
    """Look at every Q/DQ node of a finished graph: runtimes refuse bad scales without naming the tensor, or compute with them.

    Raises:
        GraphError: a scale that is zero, negative, subnormal, NaN, infinite or computed; all of them are named.
    """
    constants = {t.name: t for t in graph.graph.initializer}
    bad = []
    for node in graph.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        scale = constants.get(node.input[1])
        if scale is None:
            bad.append(f"{node.input[0]} (computed)")
            continue
        values = np.atleast_1d(numpy_helper.to_array(scale)).astype(np.float64)
        if not (np.isfinite(values).all() and (values >= SMALLEST_SCALE).all()):
            bad.append(f"{node.input[0]} ({values.min():g} to {values.max():g})")
    if bad:
        raise GraphError(
            f"scales must be finite and at least {SMALLEST_SCALE:g}; these are not: {', '.join(dict.fromkeys(bad))}",
            hint="quantize again from the float graph",
        )


def _activation_scales(
    placement: Placement, thresholds: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float], tuple[str, ...]]:
    """The scale of every tensor with a pair, of every tensor that only the CPU twin rounds, and the tensors that are zero."""
    missing = [name for name in placement.calibrated if name not in thresholds]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UsageError(f"{len(missing)} of {len(placement.calibrated)} tensors have no threshold: {shown}", hint="calibrate them")
    bad = [f"{n} ({thresholds[n]:g})" for n in placement.calibrated if not (np.isfinite(thresholds[n]) and thresholds[n] >= 0)]
    if bad:
        raise GraphError(
            f"thresholds must be finite and not negative; these are not: {', '.join(bad)}",
            hint="NaN or infinity in an activation comes from the float graph: check it with `deploykit verify`",
        )
    scales: dict[str, float] = {}
    for group in placement.groups:
        scales.update(dict.fromkeys(group.tensors, max(thresholds[name] for name in group.calibrated) / STEPS))
    cpu_scales = {name: thresholds[name] / STEPS for name in placement.cpu_tensors}
    zero = tuple(name for name, scale in [*scales.items(), *cpu_scales.items()] if scale < SMALLEST_SCALE)
    return _usable(scales), _usable(cpu_scales), zero


def _usable(scales: Mapping[str, float]) -> dict[str, float]:
    """Scales as float32, those that count as zero replaced."""
    return {name: float(np.float32(ZERO_TENSOR_SCALE if scale < SMALLEST_SCALE else scale)) for name, scale in scales.items()}


def _require_fit(graph: ModelProto, placement: Placement) -> None:
    """Does every edge of the placement exist?"""
    nodes = {node_id(node): node for node in graph.graph.node}
    for edge in placement.edges:
        node = nodes.get(edge.node)
        if node is None or len(node.input) <= edge.input or node.input[edge.input] != edge.tensor:
            raise GraphError(
                f"the placement belongs to another graph: node {edge.node!r} does not read {edge.tensor!r} as input {edge.input}",
                hint="place again from this graph",
            )
    names = [suffixed for t in placement.tensors for suffixed in (f"{t}_scale", f"{t}_quantized", f"{t}_dequantized")]
    taken = sorted(tensor_names(graph).intersection([*names, ZERO_POINT]))
    if taken:
        raise GraphError(f"the graph already has tensors named {', '.join(taken)}, which quantization adds")


def _give_biases(body: GraphProto, placement: Placement) -> None:
    """Give each quantized Gemm a bias.

    ONNX Runtime multiplies one without a bias as integers or as floats by who reads the Relu behind it (QGemm or FusedGemm), so an
    explain graph's logits would differ from its predict graph's in the last digits.
    """
    constants = {t.name: t for t in body.initializer}
    nodes = {node_id(node): node for node in body.node}
    for edge in placement.weights:
        node = nodes[edge.node]
        if node.op_type != "Gemm" or (len(node.input) > 2 and node.input[2]):
            continue
        zeros = numpy_helper.from_array(np.zeros(constants[edge.weight].dims[edge.axis], np.float32), f"{node.output[0]}_bias_zero")
        node.input[:] = [*node.input[:2], zeros.name]
        body.initializer.append(zeros)


def _store_weights(
    body: GraphProto, placement: Placement, scales: Mapping[str, float], *, per_channel: bool
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Replace the weights of layers by INT8 and a DequantizeLinear; float ones go where nobody reads them any more.

    Returns:
        By weight, its zero filters; and how many numbers became INT8.
    """
    constants = {t.name: t for t in body.initializer}
    nodes = {node_id(node): node for node in body.node}
    by_weight: dict[tuple[str, int], list[WeightEdge]] = {}
    for edge in placement.weights:
        by_weight.setdefault((edge.weight, edge.axis), []).append(edge)
    zero_filters: dict[str, tuple[int, ...]] = {}
    added: list[NodeProto] = []
    count = 0
    for (name, axis), edges in by_weight.items():
        weight = numpy_helper.to_array(constants[name])
        steps = _bias_steps([nodes[e.node] for e in edges], constants, placement, scales, weight.shape[axis])
        int8 = quantize_weight(weight, axis if per_channel else None, name, steps)
        if int8.zero_filters:
            zero_filters[name] = int8.zero_filters
        prefix = name if sum(other == name for other, _ in by_weight) == 1 else f"{name}_axis{axis}"
        added.append(_weight_node(body, prefix, int8))
        count += weight.size
        for edge in edges:
            nodes[edge.node].input[edge.input] = added[-1].output[0]
    _put_first(body, added)
    _drop_unread(body, {edge.weight for edge in placement.weights})
    return zero_filters, count


def _bias_steps(
    nodes: list[NodeProto], constants: Mapping[str, TensorProto], placement: Placement, scales: Mapping[str, float], channels: int
) -> npt.NDArray[np.float64] | None:
    """|bias| / input scale of the layers that read a weight, the largest of each channel; None where none has a bias."""
    tensor = {edge.node: edge.tensor for edge in placement.edges if edge.input == 0}
    found = [
        np.abs(numpy_helper.to_array(constants[node.input[2]]).astype(np.float64)).reshape(-1) / scales[tensor[node_id(node)]]
        for node in nodes
        if len(node.input) > 2 and node.input[2] in constants and node_id(node) in tensor
    ]
    return np.max([np.broadcast_to(steps, channels) for steps in found], axis=0) if found else None


def _round_biases(body: GraphProto, placement: Placement, scales: Mapping[str, float]) -> None:
    """Move each float bias to the nearest multiple of input scale times weight scale, the step of the kernel's 32-bit sums.

    A kernel that keeps the bias in float and one that adds it to the sums then give the same: without this a value on the border of
    two integers goes one way here and the other way there, and differences grow from layer to layer.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in body.initializer}
    makers = {node.output[0]: node for node in body.node}
    tensor = {edge.node: edge.tensor for edge in placement.edges if edge.input == 0}
    replaced = set()
    for node in body.node:
        scale = scales.get(tensor.get(node_id(node), ""))
        if scale is None or len(node.input) < 3 or node.input[2] not in constants:
            continue
        bias = constants[node.input[2]]
        if node.op_type == "BatchNormalization":
            rounded = _round_shift(node, constants, scale)
        elif node.op_type in LAYERS and (maker := makers.get(node.input[1])) is not None and maker.op_type == "DequantizeLinear":
            rounded = _to_steps(bias, np.float32(scale) * constants[maker.input[1]])
        else:
            continue
        replaced.add(node.input[2])
        node.input[2] = f"{node.output[0]}_bias_rounded"
        body.initializer.append(numpy_helper.from_array(rounded.astype(np.float32).reshape(bias.shape), node.input[2]))
    _drop_unread(body, replaced)


def _round_shift(node: NodeProto, constants: Mapping[str, npt.NDArray[Any]], scale: float) -> npt.NDArray[Any]:
    """The beta at which a normalization's shift, beta - mean * w, is a multiple of what its weight w is in INT8: |w| / 127."""
    weight, shift = normalization_as_affine(node, constants)
    return _to_steps(shift, np.where(weight == 0, 1.0, np.abs(weight)) / STEPS * scale) + constants[node.input[3]] * weight


def normalization_as_affine(
    node: NodeProto, constants: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """w and b, float64 [C], of a BatchNormalization y = w x + b: w = gamma / sqrt(variance + epsilon), b = beta - mean * w."""
    gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:5])
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    weight = gamma / np.sqrt(variance + epsilon)
    return weight, beta - mean * weight


def _to_steps(values: npt.NDArray[Any], step: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.rint(values.astype(np.float64) / step) * step)


def _drop_unread(body: GraphProto, candidates: set[str]) -> None:
    """Drop constants that no node reads any more."""
    read = {name for node in body.node for name in node.input}
    kept = [t for t in body.initializer if t.name in read or t.name not in candidates]
    del body.initializer[:]
    body.initializer.extend(kept)


def _weight_node(body: GraphProto, name: str, weight: Int8Weight) -> NodeProto:
    """Append a weight's constants; the node that makes floats of them."""
    body.initializer.extend(
        [numpy_helper.from_array(weight.values, f"{name}_int8"), numpy_helper.from_array(weight.scales, f"{name}_scale")]
    )
    zeros = f"{ZERO_POINT}_{weight.scales.size}" if weight.axis is not None else ZERO_POINT
    if zeros not in {t.name for t in body.initializer}:
        body.initializer.append(numpy_helper.from_array(np.zeros(weight.scales.shape, np.int8), zeros))
    axis = {} if weight.axis is None else {"axis": weight.axis}
    inputs = [f"{name}_int8", f"{name}_scale", zeros]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], name=f"{name}/DequantizeLinear", **axis)  # type: ignore[arg-type]


def _insert_pairs(body: GraphProto, placement: Placement) -> None:
    """Let the edges read their tensors through pairs; each pair stands right behind the node that makes its tensor."""
    nodes = {node_id(node): node for node in body.node}
    for edge in placement.edges:
        nodes[edge.node].input[edge.input] = f"{edge.tensor}_dequantized"
    paired = set(placement.tensors)
    made = {name for node in body.node for name in node.output}
    ordered = [n for name in placement.tensors if name not in made for n in _pair(name)]
    for node in body.node:
        ordered.append(node)
        for name in paired.intersection(node.output):
            ordered += _pair(name)
    del body.node[:]
    body.node.extend(ordered)


def _pair(name: str) -> list[NodeProto]:
    constants = [f"{name}_scale", ZERO_POINT]
    integers, real = f"{name}_quantized", f"{name}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [name, *constants], [integers], name=f"{name}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [integers, *constants], [real], name=f"{name}/DequantizeLinear"),
    ]


def _put_first(body: GraphProto, nodes: list[NodeProto]) -> None:
    """Put nodes that read constants alone in front of the others. Protobuf lists have no cheap insert."""
    rest = list(body.node)
    del body.node[:]
    body.node.extend([*nodes, *rest])
