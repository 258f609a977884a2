"""What a quantized graph stores, read back: weights as the numbers they stand for, and the integers of two shapes compared.

In: finished graphs. Out: arrays, or the nodes at which the CPU twin does not hold what the graph in TensorRT's shape holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

Array = npt.NDArray[Any]

TWIN_ZERO_POINTS = (0, 128)
"""Of the twin's activations: 0 where a tensor has no negative values (`deploykit.quantization.twin`)."""


_NONE = TensorProto()


@dataclass(frozen=True, eq=False)
class _Stored:
    """Q and DQ nodes of a graph, and its constants."""

    constants: dict[str, TensorProto]
    nodes: tuple[NodeProto, ...]

    @classmethod
    def of(cls, graph: ModelProto) -> "_Stored":
        nodes = tuple(n for n in graph.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"})
        return cls({t.name: t for t in graph.graph.initializer}, nodes)

    def value(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def is_weight(self, node: NodeProto) -> bool:
        return node.op_type == "DequantizeLinear" and self.constants.get(node.input[0], _NONE).data_type == TensorProto.INT8

    def scale(self, node: NodeProto) -> Array | None:
        return self.value(node.input[1]) if node.input[1] in self.constants else None

    def zero_point(self, node: NodeProto) -> Array:
        is_given = len(node.input) > 2 and node.input[2] in self.constants
        return self.value(node.input[2]) if is_given else np.zeros((), np.int8)


def dequantized_weights(floats: ModelProto, graph: ModelProto) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Each INT8 weight as numbers, and the float weight of its name in the float graph: the name of the DQ node's output, both.

    Weights that the float graph does not have, or has in another shape, are passed over. One pair is in memory at a time.
    """
    stored, reference = _Stored.of(graph), {t.name: t for t in floats.graph.initializer}
    seen = set()
    for node in stored.nodes:
        name = node.output[0]
        before = reference.get(name.removesuffix("_dequantized"))
        if not stored.is_weight(node) or before is None or name in seen:
            continue
        seen.add(name)
        expected = numpy_helper.to_array(before)
        numbers = _dequantized(stored, node)
        if numbers.shape == expected.shape:
            yield name, (numbers, expected)


def first_unlike(signed: ModelProto, twin: ModelProto) -> str | None:
    """The first Q or DQ node of a twin that does not stand for the numbers of the signed graph, as a sentence; None where all do.

    Weights of the same name must be the same integers with the same scales, activations of the same name must have the same scale,
    and zero points must be 0 in the signed graph, 0 or 128 in the twin.
    """
    left, right = _Stored.of(signed), _Stored.of(twin)
    weights = {node.output[0]: node for node in left.nodes if left.is_weight(node)}
    scales = {_real(node): left.scale(node) for node in left.nodes if not left.is_weight(node)}
    for node in left.nodes:
        if np.any(left.zero_point(node)):
            return f"Node {_label(node)} of the signed graph has zero point {left.zero_point(node)}, and TensorRT takes 0 alone"
    for node in right.nodes:
        zero = right.zero_point(node)
        if right.is_weight(node):
            if (what := _unlike_weight(left, weights.get(node.output[0]), right, node)) is not None:
                return what
        elif node.input[0] in right.constants:
            continue  # biases, which the signed graph keeps in float
        elif zero.dtype == np.uint8 and int(zero) not in TWIN_ZERO_POINTS:
            return f"Node {_label(node)} of the twin has zero point {zero}, expected one of {TWIN_ZERO_POINTS}"
        else:
            theirs, ours = scales.get(_real(node)), right.scale(node)
            if theirs is not None and ours is not None and not np.array_equal(theirs, ours):
                return f"Node {_label(node)} of the twin has scale {ours}, the signed graph has {theirs}"
    return None


def _unlike_weight(left: _Stored, signed: NodeProto | None, right: _Stored, twin: NodeProto) -> str | None:
    if signed is None:
        return None  # the twin's own, such as a normalization that became a convolution
    if not np.array_equal(left.value(signed.input[0]), right.value(twin.input[0])):
        return f"Node {_label(twin)} of the twin has other integers than the signed graph"
    if not np.array_equal(left.value(signed.input[1]), right.value(twin.input[1])):
        return f"Node {_label(twin)} of the twin has other scales than the signed graph"
    if np.any(right.zero_point(twin)):
        return f"Node {_label(twin)} of the twin has a zero point that is not 0, and weights are symmetric"
    return None


def _label(node: NodeProto) -> str:
    return f"{node.name or node.output[0]} ({node.op_type})"


def _real(node: NodeProto) -> str:
    """The tensor that a pair rounds: what a Q node reads, or the name of a DQ node's output."""
    return node.input[0] if node.op_type == "QuantizeLinear" else node.output[0].removesuffix("_dequantized")


def _dequantized(stored: _Stored, node: NodeProto) -> Array:
    integers = stored.value(node.input[0]).astype(np.float32)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)

    def along(values: Array) -> Array:
        return values.reshape([-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)]) if values.ndim else values

    return (integers - along(stored.zero_point(node).astype(np.float32))) * along(stored.value(node.input[1]))
