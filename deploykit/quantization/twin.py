"""The CPU twin of a quantized graph: the same scales and weights, in the shape whose integer kernels ONNX Runtime has on x86.

In: a graph in TensorRT's shape, signed with zero point 0, which ONNX Runtime runs in plain loops there (onnxruntime pull request
21984). Out: uint8 activations with the zero point moved to 128, or to 0 where a tensor has no negative values. An integer means the
same number in both:

    signed q in [-128, 127]       twin q + 128 in [0, 255]       rectified, q in [0, 127]       twin q, clipped to [0, 127]

What else is rewritten keeps the values: a rectifier before a rounding becomes a clip of the integers (rounding is monotonic, so both
orders give the same); a BatchNormalization between two pairs becomes a depthwise 1x1 convolution with weights of +-127; biases become
32-bit integers in steps of input scale times weight scale, as the integer kernels add them. Only the last two round anew: by half a
step of a 32-bit sum, which can move a value that lies on the border between two integers to the other one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.quantization.placement import node_id
from deploykit.quantization.qdq import QuantizedGraph, check_scales
from deploykit.quantization.weights import STEPS

UNIT_SCALE = 1 / 255
"""Of what lies in [0, 1]: the sigmoid inside SiLU, and squeeze-excite gates. Needs no calibration."""

_UNIT_RANGE = frozenset({"Sigmoid", "HardSigmoid"})
_RECTIFIERS = frozenset({"Relu", "Clip"})
_MIDDLE = 128


def make_cpu_twin(quantized: QuantizedGraph, *, exact: bool = False) -> ModelProto:
    """The same quantized network for ONNX Runtime on a CPU.

    Args:
        quantized: the TensorRT-shaped graph.
        exact: leave in float what the TensorRT graph leaves in float. Then the twin equals it in value, and convolutions whose output
            has no pair (before a residual addition, before SiLU) run in float: a proof, too slow to serve. By default such outputs get
            pairs of their own (`added_pairs`), with which every convolution runs in integers.

    Raises:
        GraphError: a scale of the result is unusable.
    """
    twin = ModelProto()
    twin.CopyFrom(quantized.graph)
    del twin.graph.value_info[:]  # it holds types of tensors that change theirs
    draft = _Draft.of(twin)
    if not exact:
        _add_pairs(draft, added_pairs(quantized))
    zero = _zero_points(draft, quantized)
    _move_zero_points(draft, zero)
    _clip_integers(draft, zero)
    _convolve_normalizations(draft)
    _name_global_poolings(draft)
    _unpack_float_weights(draft, {layer.node for layer in quantized.placement.floats})
    _round_biases(draft)
    draft.write(twin)
    check_scales(twin)
    return twin


def added_pairs(quantized: QuantizedGraph) -> dict[str, float]:
    """Tensor -> scale of the pairs that the twin has and the TensorRT graph does not.

    Outputs of convolutions that TensorRT keeps inside a fused kernel, the pooled input of a squeeze-excite gate, the gate itself, and the
    sigmoid inside SiLU. Each rounds once more; what it costs is measured, not assumed (PLACEMENT.md).
    """
    draft = _Draft.of(quantized.graph)
    pairs = dict(quantized.cpu_scales)
    for node in draft.nodes:
        if node.op_type not in _UNIT_RANGE:
            continue
        readers = draft.readers(node.output[0])
        inside_silu = _real(node.input[0]) in pairs
        if readers and all(n.op_type == "Mul" and (inside_silu or _reads_pair(n)) for n in readers):
            pairs[node.output[0]] = UNIT_SCALE
    return pairs


@dataclass
class _Draft:
    """A graph in the making: nodes in order, constants by name."""

    nodes: list[NodeProto]
    constants: dict[str, TensorProto]
    outputs: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> "_Draft":
        graph = model.graph
        return cls(list(graph.node), {t.name: t for t in graph.initializer}, frozenset(o.name for o in graph.output))

    def producers(self) -> dict[str, NodeProto]:
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[NodeProto]]:
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def readers(self, name: str) -> list[NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def constant(self, name: str, value: npt.ArrayLike, dtype: type) -> str:
        """Add a constant, once."""
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def value(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def rewrite(self, change: Callable[[NodeProto], list[NodeProto]]) -> None:
        """Put what ``change`` gives in each node's place."""
        self.nodes = [new for node in self.nodes for new in change(node)]
        self._drop_unread()

    def _drop_unread(self) -> set[str]:
        """Drop the nodes whose outputs nobody reads; gives the names that are read."""
        read, alive = set(self.outputs), []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                alive.append(node)
                read.update(node.input)
        self.nodes = alive[::-1]
        return read

    def write(self, model: ModelProto) -> None:
        """Give a model these nodes, and the constants that they read."""
        read = self._drop_unread()
        copies = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        constants = [TensorProto.FromString(t.SerializeToString()) for name, t in self.constants.items() if name in read]
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(copies)
        model.graph.initializer.extend(constants)


def _add_pairs(draft: _Draft, pairs: Mapping[str, float]) -> None:
    """Let every reader of these tensors read them through a pair."""
    zero = draft.constant(f"zero_{_MIDDLE}", _MIDDLE, np.uint8)
    lowest = draft.constant("zero_0", 0, np.uint8)
    for node in draft.nodes:
        for i, name in enumerate(node.input):
            if name in pairs:
                node.input[i] = f"{name}_dequantized"

    def with_pair(node: NodeProto) -> list[NodeProto]:
        name = node.output[0]
        if name not in pairs:
            return [node]
        constants = [draft.constant(f"{name}_scale", pairs[name], np.float32), lowest if node.op_type in _UNIT_RANGE else zero]
        integers, real = f"{name}_quantized", f"{name}_dequantized"
        return [
            node,
            helper.make_node("QuantizeLinear", [name, *constants], [integers], name=f"{name}/QuantizeLinear"),
            helper.make_node("DequantizeLinear", [integers, *constants], [real], name=f"{name}/DequantizeLinear"),
        ]

    draft.rewrite(with_pair)


def _zero_points(draft: _Draft, quantized: QuantizedGraph) -> dict[str, int]:
    """The zero point of every tensor with a pair of the TensorRT graph: 0 where a whole group has no negative values, else 128."""
    producers, zero = draft.producers(), {}
    for group in quantized.placement.groups:
        inside = set(group.tensors)
        rectified = all(_is_rectified(draft, producers.get(name), inside) for name in group.tensors)
        zero.update(dict.fromkeys(group.tensors, 0 if rectified else _MIDDLE))
    return zero


def _is_rectified(draft: _Draft, maker: NodeProto | None, group: set[str]) -> bool:
    """Does a node give no negative values, by what it is or because it passes those of its group on?"""
    if maker is None:
        return False
    if maker.op_type in {"MaxPool", "Concat", "Resize"}:
        return all(_real(name) in group for name in maker.input if name and name not in draft.constants)
    return maker.op_type in _RECTIFIERS and _bounds(draft, maker)[0] >= 0


def _move_zero_points(draft: _Draft, zero: Mapping[str, int]) -> None:
    for node in draft.nodes:
        if node.op_type == "QuantizeLinear":
            name = node.input[0]
        elif node.op_type == "DequantizeLinear":
            name = _real(node.output[0])
        else:
            continue
        if name in zero:
            node.input[2] = draft.constant(f"zero_{zero[name]}", zero[name], np.uint8)


def _clip_integers(draft: _Draft, zero: Mapping[str, int]) -> None:
    """Round before the rectifier and clip the integers, so that the rounding is the convolution's own.

    Without this ONNX Runtime runs every convolution before a rectifier in float. With zero point 0 the clip at 127 is also where the
    signed graph saturates; with 128 the type saturates there by itself.
    """
    producers, consumers = draft.producers(), draft.consumers()

    def clipped(node: NodeProto) -> list[NodeProto]:
        maker = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if maker is None or node.input[0] not in zero:
            return [node]
        point = zero[node.input[0]]
        low, high = 0, 2 * STEPS + 1 if point else STEPS
        if maker.op_type in _RECTIFIERS and len(consumers[node.input[0]]) == 1:
            scale = float(draft.value(node.input[1]))
            least, most = (np.rint(bound / scale) + point for bound in _bounds(draft, maker))
            low, high = int(np.clip(least, low, high)), int(np.clip(most, low, high))
            node.input[0] = maker.input[0]
        elif maker.op_type in {"MaxPool", "Concat", "Resize"}:
            return [node]  # its input's integers are within bounds
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


def _bounds(draft: _Draft, node: NodeProto) -> tuple[float, float]:
    """The least and the largest value that a rectifier gives; infinite where a bound is missing or computed."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    given = [name if name in draft.constants else "" for name in [*node.input[1:], "", ""][:2]]
    return (
        float(draft.value(given[0])) if given[0] else float("-inf"),
        float(draft.value(given[1])) if given[1] else float("inf"),
    )


def _convolve_normalizations(draft: _Draft) -> None:
    """BatchNormalization between two pairs as a depthwise 1x1 convolution, whose integer kernel reads and writes bytes.

    y = w x + b with w = gamma / sqrt(variance + epsilon) is exact in INT8: with the scale |w| / 127 of its own every weight is +-127.
    Measured on DenseNet-121, whose 62 normalizations cannot be folded: 1.7 times as fast as in float.
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
        gamma, beta, mean, variance = (draft.value(name).astype(np.float64) for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        weight = gamma / np.sqrt(variance + epsilon)
        return _affine(draft, node, weight, beta - mean * weight)

    draft.rewrite(convolved)


def _affine(draft: _Draft, node: NodeProto, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> list[NodeProto]:
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


def _round_biases(draft: _Draft) -> None:
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


def _name_global_poolings(draft: _Draft) -> None:
    """ReduceMean over all pixels as GlobalAveragePool, which has an integer kernel."""
    for node in draft.nodes:
        if node.op_type != "ReduceMean" or not node.input[0].endswith("_dequantized"):
            continue
        axes = draft.value(node.input[1]) if len(node.input) > 1 and node.input[1] in draft.constants else None
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if axes is not None and keeps and sorted(int(axis) % 4 for axis in axes) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]


def _unpack_float_weights(draft: _Draft, layers: set[str]) -> None:
    """Weights of layers that compute in float as float constants: ONNX Runtime would make them anew in every run."""
    producers = draft.producers()
    for node in draft.nodes:
        maker = producers.get(node.input[1]) if node_id(node) in layers else None
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in draft.constants:
            continue
        integers, scales = draft.value(maker.input[0]), draft.value(maker.input[1])
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 0)
        shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
        name = draft.constant(f"{maker.output[0]}_float", integers * scales.reshape(shape if scales.ndim else []), np.float32)
        node.input[1] = name


def _real(name: str) -> str:
    """The tensor behind a pair's output."""
    return name.removesuffix("_dequantized")


def _reads_pair(node: NodeProto) -> bool:
    return any(name.endswith("_dequantized") for name in node.input)
