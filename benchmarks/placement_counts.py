"""What a quantized graph does, counted: who reads rounded tensors, what is rounded twice, what stays in float."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})


@dataclass(frozen=True)
class Pairs:
    """The Q/DQ pairs of a graph.

    Args:
        nodes: all nodes.
        constants: the arrays of the initializers.
        makers: by tensor.
        rounded: tensor that a DequantizeLinear of activations gives -> the float tensor before its QuantizeLinear.
    """

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, Any]
    makers: Mapping[str, NodeProto]
    rounded: Mapping[str, str]


def read_pairs(graph: ModelProto) -> Pairs:
    """Collect them."""
    constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    makers = {name: node for node in graph.graph.node for name in node.output}
    rounded = {}
    for node in graph.graph.node:
        quantize = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is not None and quantize.op_type == "QuantizeLinear" and quantize.input[0] not in constants:
            rounded[node.output[0]] = quantize.input[0]
    return Pairs(tuple(graph.graph.node), constants, makers, rounded)


def count_placement(graph: ModelProto) -> dict[str, Any]:
    """The figures of one quantized graph.

    Returns:
        ``pairs``: tensors that are rounded; ``scales``: different scales among them; ``readers``: by operator, edges that read a
        rounded tensor; ``layers_float``: convolutions and linear layers of which not both operands are rounded; ``own_outputs``:
        outputs of convolutions that are rounded before the activation or addition behind them; ``additions``: by the number of
        rounded inputs; ``concats_one_scale`` of ``concats``; ``biases_int32``; ``weights_int8``: layers whose weight is INT8;
        ``per_channel``: of these with one scale per channel.
    """
    pairs = read_pairs(graph)
    readers, additions = Counter[str](), Counter[int]()
    for node in pairs.nodes:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        inputs = sum(name in pairs.rounded for name in node.input)
        readers[_label(node, pairs)] += inputs
        if node.op_type == "Add" and not any(name in pairs.constants for name in node.input):
            additions[inputs] += 1
    layers = [node for node in pairs.nodes if node.op_type in _LAYERS]
    weights = [pairs.makers[n.input[1]] for n in layers if (m := pairs.makers.get(n.input[1])) and m.op_type == "DequantizeLinear"]
    concats = [node for node in pairs.nodes if node.op_type == "Concat" and all(name in pairs.rounded for name in node.input)]
    return {
        "pairs": len(set(pairs.rounded.values())),
        "scales": len({float(pairs.constants[pairs.makers[name].input[1]]) for name in pairs.rounded}),
        "readers": {name: count for name, count in sorted(readers.items()) if count},
        "layers_float": sum(not _is_int8(node, pairs) for node in layers),
        "own_outputs": _own_outputs(pairs),
        "additions": {str(inputs): count for inputs, count in sorted(additions.items())},
        "concats": sum(node.op_type == "Concat" for node in pairs.nodes),
        "concats_one_scale": sum(_has_one_scale(node, pairs) for node in concats),
        "biases_int32": sum(_reads_int32(node, pairs) for node in layers),
        "weights_int8": len(weights),
        "per_channel": sum(np.size(pairs.constants[node.input[1]]) > 1 for node in weights),
    }


def _label(node: NodeProto, pairs: Pairs) -> str:
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    return f"{node.op_type}, depthwise" if node.op_type == "Conv" and group > 1 else str(node.op_type)


def _is_int8(node: NodeProto, pairs: Pairs) -> bool:
    weight = pairs.makers.get(node.input[1])
    return node.input[0] in pairs.rounded and weight is not None and weight.op_type == "DequantizeLinear"


def _own_outputs(pairs: Pairs) -> int:
    """Convolutions whose output is rounded and then read by an activation, a normalization or an addition."""
    behind = {"Relu", "Clip", "Sigmoid", "Mul", "Add", "HardSigmoid", "HardSwish", "BatchNormalization"}
    found = {
        source
        for node in pairs.nodes
        for name in node.input
        if node.op_type in behind and (source := pairs.rounded.get(name)) is not None
        if (maker := pairs.makers.get(source)) is not None and maker.op_type == "Conv"
    }
    # The identity of a residual addition may be a convolution's output too; it is what should be rounded.
    identities = {name for node in pairs.nodes if node.op_type == "Add" for name in _rounded_identity(node, pairs)}
    return len(found - identities)


def _rounded_identity(node: NodeProto, pairs: Pairs) -> list[str]:
    sources = [pairs.rounded[name] for name in node.input if name in pairs.rounded]
    return sources if len(sources) == 1 else []


def _has_one_scale(node: NodeProto, pairs: Pairs) -> bool:
    scales = {float(pairs.constants[pairs.makers[name].input[1]]) for name in node.input}
    behind = [n for n in pairs.nodes if n.op_type == "QuantizeLinear" and n.input[0] == node.output[0]]
    scales |= {float(pairs.constants[n.input[1]]) for n in behind}
    return len(scales) == 1 and bool(behind)


def _reads_int32(node: NodeProto, pairs: Pairs) -> bool:
    maker = pairs.makers.get(node.input[2]) if len(node.input) > 2 else None
    return maker is not None and maker.op_type == "DequantizeLinear"
