"""The CPU twin of a quantized graph: the same scales and weights, in the shape whose integer kernels ONNX Runtime has on x86.

In: a graph in TensorRT's shape, signed with zero point 0, which ONNX Runtime runs in plain loops there (onnxruntime pull request
21984). Out: uint8 activations with the zero point moved to 128, or to 0 where a tensor has no negative values. An integer means the
same number in both:

    signed q in [-128, 127]       twin q + 128 in [0, 255]       rectified, q in [0, 127]       twin q, clipped to [0, 127]

What else is rewritten keeps the values: a rectifier before a rounding becomes a clip of the integers (rounding is monotonic, so
both orders give the same); a BatchNormalization between two pairs becomes a depthwise 1x1 convolution with weights of +-127; biases
become the 32-bit integers that integer kernels add.

How equal: given the same integers, a layer of the exact twin gives the integers of the TensorRT graph, but for values that lie on
the border of two integers within float32's precision and then differ by one: measured, one in a million, and at most 1 in 10,000 of
any tensor. End to end such a step spreads, as it does between any two runtimes, and logits differ within the quantization's own
error.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper

from deploykit.quantization.draft import Draft
from deploykit.quantization.placement_nodes import RECTIFIERS
from deploykit.quantization.qdq import QuantizedGraph, check_scales
from deploykit.quantization.twin_layers import (
    convolve_normalizations,
    convolve_pixels,
    name_global_poolings,
    round_biases,
    unpack_float_weights,
)
from deploykit.quantization.weights import STEPS

UNIT_SCALE = 1 / 255
"""Of what lies in [0, 1]: the sigmoid inside SiLU, and squeeze-excite gates. Needs no calibration."""

_UNIT_RANGE = frozenset({"Sigmoid", "HardSigmoid"})
_MIDDLE = 128


def make_cpu_twin(quantized: QuantizedGraph, *, exact: bool = False) -> ModelProto:
    """The same quantized network for ONNX Runtime on a CPU.

    Args:
        quantized: the TensorRT-shaped graph.
        exact: leave in float what the TensorRT graph leaves in float. Then the twin equals it in value, and convolutions whose
            output has no pair (before a residual addition, before SiLU) run in float: a proof, too slow to serve. By default such
            outputs get pairs of their own (`added_pairs`), with which every convolution runs in integers.

    Raises:
        GraphError: a scale of the result is unusable.
    """
    twin = ModelProto()
    twin.CopyFrom(quantized.graph)
    del twin.graph.value_info[:]  # it holds types of tensors that change theirs
    draft = Draft.of(twin)
    zero = _zero_points(draft, [group.tensors for group in quantized.placement.groups])
    if not exact:
        pairs = added_pairs(quantized)
        zero |= _zero_points(draft, [(name,) for name in pairs])
        zero |= {pooled: zero[source] for pooled, source in _max_poolings(draft, pairs).items() if source in zero}
        _read_rounded(draft, quantized)
        _add_pairs(draft, pairs)
    _move_zero_points(draft, zero)
    _name_rectified(draft, _clip_integers(draft, zero))
    convolve_normalizations(draft)
    convolve_pixels(draft, quantized)
    name_global_poolings(draft)
    unpack_float_weights(draft)
    round_biases(draft)
    draft.write(twin)
    check_scales(twin)
    return twin


def added_pairs(quantized: QuantizedGraph) -> dict[str, float]:
    """Tensor -> scale of the pairs that the twin has and the TensorRT graph does not.

    Outputs of convolutions that TensorRT keeps inside a fused kernel, the pooled input of a squeeze-excite gate, the gate itself,
    and the sigmoid inside SiLU. Each rounds once more; what it costs is measured, not assumed (PLACEMENT.md).
    """
    draft = Draft.of(quantized.graph)
    pairs = dict(quantized.cpu_scales)
    for node in draft.nodes:
        if node.op_type not in _UNIT_RANGE:
            continue
        readers = draft.readers(node.output[0])
        inside_silu = _real(node.input[0]) in pairs
        if readers and all(n.op_type == "Mul" and (inside_silu or _reads_pair(n)) for n in readers):
            pairs[node.output[0]] = UNIT_SCALE
    for pooled, source in _max_poolings(draft, pairs).items():
        pairs[pooled] = pairs.get(source, quantized.report.scales.get(source, pairs[pooled]))
    return pairs


def _max_poolings(draft: Draft, pairs: Collection[str]) -> dict[str, str]:
    """Max poolings whose output gets a pair, as in Xception before additions: output -> input.

    Both share scale and zero point: the values are the input's own, and ONNX Runtime pools integers only then.
    """
    return {n.output[0]: _real(n.input[0]) for n in draft.nodes if n.op_type == "MaxPool" and n.output[0] in pairs}


def _read_rounded(draft: Draft, quantized: QuantizedGraph) -> None:
    """Let who still reads a tensor with a pair in float read it through the pair: its maker could not run in integers otherwise."""
    paired = set(quantized.placement.tensors)
    for node in draft.nodes:
        for i, name in enumerate(node.input):
            if name in paired and node.op_type != "QuantizeLinear":
                node.input[i] = f"{name}_dequantized"


def _add_pairs(draft: Draft, pairs: Mapping[str, float]) -> None:
    """Let every reader of these tensors read them through a pair, whose zero point is set with the others'."""
    for node in draft.nodes:
        for i, name in enumerate(node.input):
            if name in pairs:
                node.input[i] = f"{name}_dequantized"

    def with_pair(node: NodeProto) -> list[NodeProto]:
        name = node.output[0]
        if name not in pairs:
            return [node]
        constants = [draft.constant(f"{name}_scale", pairs[name], np.float32), ""]
        integers, real = f"{name}_quantized", f"{name}_dequantized"
        return [
            node,
            helper.make_node("QuantizeLinear", [name, *constants], [integers], name=f"{name}/QuantizeLinear"),
            helper.make_node("DequantizeLinear", [integers, *constants], [real], name=f"{name}/DequantizeLinear"),
        ]

    draft.rewrite(with_pair)


def _zero_points(draft: Draft, groups: Iterable[Sequence[str]]) -> dict[str, int]:
    """The zero point of every tensor: 0 where a whole group that shares a scale has no negative values, else 128."""
    producers, zero = draft.producers(), {}
    for group in groups:
        rectified = all(_is_rectified(draft, producers.get(name), set(group)) for name in group)
        zero.update(dict.fromkeys(group, 0 if rectified else _MIDDLE))
    return zero


def _is_rectified(draft: Draft, maker: NodeProto | None, group: set[str]) -> bool:
    """Does a node give no negative values, by what it is or because it passes those of its group on?"""
    if maker is None:
        return False
    if maker.op_type in {"MaxPool", "Concat", "Resize"}:
        return all(_real(name) in group for name in maker.input if name and name not in draft.constants)
    return maker.op_type in _UNIT_RANGE or (maker.op_type in RECTIFIERS and _bounds(draft, maker)[0] >= 0)


def _move_zero_points(draft: Draft, zero: Mapping[str, int]) -> None:
    for node in draft.nodes:
        if node.op_type == "QuantizeLinear":
            name = node.input[0]
        elif node.op_type == "DequantizeLinear":
            name = _real(node.output[0])
        else:
            continue
        if name in zero:
            node.input[2] = draft.constant(f"zero_{zero[name]}", zero[name], np.uint8)


def _clip_integers(draft: Draft, zero: Mapping[str, int]) -> dict[str, NodeProto]:
    """Round before the rectifier and clip the integers, so that the rounding is the convolution's own.

    Without this ONNX Runtime runs every convolution before a rectifier in float. With zero point 0 the clip at 127 is also where
    the signed graph saturates; with 128 the type saturates there by itself.

    Returns:
        The rectified tensors that are computed no more, each with its rectifier.
    """
    producers, consumers = draft.producers(), draft.consumers()
    dropped: dict[str, NodeProto] = {}

    def clipped(node: NodeProto) -> list[NodeProto]:
        maker = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if maker is None or node.input[0] not in zero:
            return [node]
        point, scale = zero[node.input[0]], float(draft.value(node.input[1]))
        low, high = 0, 2 * STEPS + 1 if point else STEPS
        if maker.op_type in RECTIFIERS and len(consumers[node.input[0]]) == 1:
            least, most = (np.rint(bound / scale) + point for bound in _bounds(draft, maker))
            low, high = int(np.clip(least, low, high)), int(np.clip(most, low, high))
            dropped[node.input[0]] = maker
            node.input[0] = maker.input[0]
        elif maker.op_type in {"MaxPool", "Concat", "Resize"} or scale == np.float32(UNIT_SCALE):
            return [node]  # within bounds as they are
        if (low, high) == (0, 255):
            return [node]
        integers = node.output[0]
        node.output[0] = f"{integers}_unclipped"
        bounds = [
            draft.constant(f"integer_{low}", low, np.uint8) if low > 0 else "",
            draft.constant(f"integer_{high}", high, np.uint8) if high < 255 else "",
        ]
        return [node, helper.make_node("Clip", [node.output[0], *bounds], [integers], name=f"{integers}/Clip")]

    draft.rewrite(clipped)
    return dropped


def _name_rectified(draft: Draft, rectifiers: Mapping[str, NodeProto]) -> None:
    """Give what is read in place of a rectified tensor its name and module, so that layers are found as in the float graph."""
    names = {f"{name}_dequantized": name for name in rectifiers}
    for node in draft.nodes:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]
        if node.output[0] in names:
            node.output[0] = names[node.output[0]]
            node.metadata_props.extend(rectifiers[node.output[0]].metadata_props)


def _bounds(draft: Draft, node: NodeProto) -> tuple[float, float]:
    """The least and the largest value that a rectifier gives; infinite where a bound is missing or computed."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    given = [name if name in draft.constants else "" for name in [*node.input[1:], "", ""][:2]]
    return (
        float(draft.value(given[0])) if given[0] else float("-inf"),
        float(draft.value(given[1])) if given[1] else float("inf"),
    )


def _real(name: str) -> str:
    """The tensor behind a pair's output."""
    return name.removesuffix("_dequantized")


def _reads_pair(node: NodeProto) -> bool:
    return any(name.endswith("_dequantized") for name in node.input)
