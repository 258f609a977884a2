"""Single operators of the CPU twin (`twin`), each rewritten to the form that has an integer kernel in ONNX Runtime, values kept."""

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from deploykit.graph.pixels import IMAGE_NAME
from deploykit.quantization.draft import Draft
from deploykit.quantization.pixels import find_pixel_input, integer_bias
from deploykit.quantization.qdq import QuantizedGraph, normalization_as_affine
from deploykit.quantization.weights import STEPS


def convolve_normalizations(draft: Draft) -> None:
    """BatchNormalization between two pairs as a depthwise 1x1 convolution, whose integer kernel reads and writes bytes.

    y = w x + b with w = gamma / sqrt(variance + epsilon) is exact in INT8: with the scale |w| / 127 of its own every weight is
    +-127. Measured on DenseNet-121, whose 62 normalizations cannot be folded: 1.7 times as fast as with them in float.
    """
    producers, consumers = draft.producers(), draft.consumers()

    def convolved(node: NodeProto) -> list[NodeProto]:
        maker = producers.get(node.input[0])
        readers = consumers.get(node.output[0], [])
        is_between = (
            maker is not None and maker.op_type == "DequantizeLinear" and [n.op_type for n in readers] == ["QuantizeLinear"]
        )
        if node.op_type != "BatchNormalization" or not is_between or any(name not in draft.constants for name in node.input[1:]):
            return [node]
        weight, bias = normalization_as_affine(node, {name: draft.value(name) for name in node.input[1:]})
        return _affine(draft, node, weight, bias)

    draft.rewrite(convolved)


def convolve_pixels(draft: Draft, quantized: QuantizedGraph) -> None:
    """The pixel input as a 1x1 convolution of bytes, where that gives every grey level the same integer (`pixels`)."""
    pixels = find_pixel_input(quantized.graph)
    scale = quantized.report.scales.get(pixels.output) if pixels is not None else None
    readers = draft.readers(pixels.output) if pixels is not None else []
    if pixels is None or scale is None or [n.op_type for n in readers] != ["QuantizeLinear"]:
        return
    bias = integer_bias(pixels, scale)
    if bias is None:
        return
    cast, transpose, _, add = (node.name for node in pixels.nodes)
    real, weight, added = (f"{pixels.output}_{part}_dequantized" for part in ("pixels", "weight", "bias"))
    step = (pixels.scale / np.float32(STEPS)).astype(np.float32)
    unit = [draft.constant("one", 1, np.float32), draft.constant("zero_0", 0, np.uint8)]
    weights = [
        draft.constant(f"{pixels.output}_weight_int8", (np.eye(3) * STEPS).reshape(3, 3, 1, 1), np.int8),
        draft.constant(f"{pixels.output}_step", step, np.float32),
    ]
    biases = [draft.constant(f"{pixels.output}_bias_int32", bias, np.int32), weights[1]]
    zeros = [draft.constant("zero_int8_3", [0] * 3, np.int8), draft.constant("zero_int32_3", [0] * 3, np.int32)]

    def convolved(node: NodeProto) -> list[NodeProto]:
        if node.name == cast:
            return [helper.make_node("DequantizeLinear", [IMAGE_NAME, *unit], [real], name=f"{real}/DequantizeLinear")]
        if node.name == transpose:
            node.input[0] = real
        if node.name != add:
            return [node]
        return [
            helper.make_node("DequantizeLinear", [*weights, zeros[0]], [weight], name=f"{weight}/DequantizeLinear", axis=0),
            helper.make_node("DequantizeLinear", [*biases, zeros[1]], [added], name=f"{added}/DequantizeLinear", axis=0),
            helper.make_node("Conv", [pixels.nodes[1].output[0], weight, added], [pixels.output], name=add, kernel_shape=[1, 1]),
        ]

    draft.rewrite(convolved)


def _affine(draft: Draft, node: NodeProto, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> list[NodeProto]:
    """y = weight x + bias, channel by channel, as a depthwise convolution; its bias is rounded with the others'."""
    name, channels = node.output[0], len(weight)
    scales = np.where(weight == 0, 1.0, np.abs(weight) / STEPS)
    inputs = [
        draft.constant(f"{name}_weight_int8", (np.sign(weight) * STEPS).reshape(-1, 1, 1, 1), np.int8),
        draft.constant(f"{name}_weight_scale", scales, np.float32),
        draft.constant(f"zero_int8_{channels}", np.zeros(channels), np.int8),
    ]
    real = f"{name}_weight_dequantized"
    convolution = helper.make_node(
        "Conv",
        [node.input[0], real, draft.constant(f"{name}_bias", bias, np.float32)],
        [name],
        name=node.name or name,
        group=channels,
        kernel_shape=[1, 1],
    )
    convolution.metadata_props.extend(node.metadata_props)
    return [helper.make_node("DequantizeLinear", inputs, [real], name=f"{real}/DequantizeLinear", axis=0), convolution]


def round_biases(draft: Draft) -> None:
    """Biases of integer layers as 32-bit integers in steps of input scale times weight scale, as their kernels add them.

    ONNX Runtime before 1.20 makes a convolution integer only where it finds its bias so.
    """
    producers = draft.producers()

    def rounded(node: NodeProto) -> list[NodeProto]:
        if node.op_type not in {"Conv", "Gemm"} or len(node.input) < 3 or node.input[2] not in draft.constants:
            return [node]
        pairs = [producers.get(name) for name in node.input[:2]]
        if any(pair is None or pair.op_type != "DequantizeLinear" for pair in pairs):
            return [node]
        scales = [draft.value(pair.input[1]).astype(np.float32) for pair in pairs if pair is not None]
        step = np.atleast_1d((scales[0] * scales[1]).astype(np.float32))
        bias = draft.value(node.input[2]).astype(np.float64).reshape(-1)
        steps = np.rint(bias / step.astype(np.float64))
        if np.abs(steps).max() > 2**31 - 1 or (step < np.finfo(np.float32).tiny).any():
            return [node]
        name, channels = f"{node.output[0]}_bias", len(step)
        inputs = [
            draft.constant(f"{name}_int32", steps, np.int32),
            draft.constant(f"{name}_step", step if channels > 1 else step[0], np.float32),
            draft.constant(f"zero_int32_{channels}", np.zeros(channels) if channels > 1 else 0, np.int32),
        ]
        node.input[2] = f"{name}_dequantized"
        axis = {"axis": 0} if channels > 1 else {}
        return [
            helper.make_node("DequantizeLinear", inputs, [node.input[2]], name=f"{name}/DequantizeLinear", **axis),  # type: ignore[arg-type]
            node,
        ]

    draft.rewrite(rounded)


def name_global_poolings(draft: Draft) -> None:
    """ReduceMean over all pixels as GlobalAveragePool, which has an integer kernel."""
    producers = draft.producers()
    for node in draft.nodes:
        maker = producers.get(node.input[0]) if node.op_type == "ReduceMean" else None
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        axes = draft.value(node.input[1]) if len(node.input) > 1 and node.input[1] in draft.constants else None
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if axes is not None and keeps and sorted(int(axis) % 4 for axis in axes) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]


def unpack_float_weights(draft: Draft) -> None:
    """Weights of convolutions whose output is not rounded, which run in float, as float constants: or every run would make them."""
    producers, consumers = draft.producers(), draft.consumers()
    for node in draft.nodes:
        maker = producers.get(node.input[1]) if node.op_type in {"Conv", "ConvTranspose"} else None
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in draft.constants:
            continue
        if any(reader.op_type == "QuantizeLinear" for reader in consumers.get(node.output[0], [])):
            continue
        integers, scales = draft.value(maker.input[0]), draft.value(maker.input[1])
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 0)
        shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
        name = draft.constant(f"{maker.output[0]}_float", integers * scales.reshape(shape if scales.ndim else []), np.float32)
        node.input[1] = name
