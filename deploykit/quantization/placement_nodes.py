"""What placement must know of single nodes: their name, where their weights are, which of them make a squeeze-excite gate."""

from collections.abc import Collection, Iterable
from typing import Any

from onnx import NodeProto, TensorProto, helper

from deploykit.errors import UsageError
from deploykit.graph.scopes import scopes_of
from deploykit.graph.tensors import Tensors

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with weights."""

RECTIFIERS = frozenset({"Relu", "Clip"})
"""Activations that a rounding to integers can take in."""


def node_id(node: NodeProto) -> str:
    """What a node is called here: its name, or its first output where it has none."""
    return str(node.name or node.output[0])


def weight_axis(node: NodeProto, facts: Tensors) -> int | str:
    """The axis of the output channels in a layer's weight, its second input; or the rule that keeps the layer in float."""
    name = node.input[1]
    tensor = facts.constants.get(name)
    if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or node.input[0] in facts.constants:
        return "no constant weight"
    if node.op_type == "Conv":
        axis = 0
    elif node.op_type == "ConvTranspose":
        # [C in, C out / group, ...]: with groups the output channels are spread over both axes, but for one channel in each.
        group = attribute(node, "group", 1)
        if group > 1 and not (tensor.dims[0] == group and tensor.dims[1] == 1):
            return "grouped transposed"
        axis = 1 if group == 1 else 0
    elif node.op_type == "Gemm":
        if attribute(node, "transA", 0):
            return "no constant weight"
        axis = 0 if attribute(node, "transB", 0) else 1
    else:
        axis = len(tensor.dims) - 1
    return axis


def kept_nodes(nodes: Iterable[NodeProto], keep: Collection[str]) -> frozenset[str]:
    """The nodes that ``keep`` names."""
    found: dict[str, set[str]] = {name: set() for name in keep}
    for node in nodes:
        for name in {node_id(node), *node.output, *scopes_of(node), *_weight_owners(node)}.intersection(keep):
            found[name].add(node_id(node))
    missing = sorted(name for name, ids in found.items() if not ids)
    if missing:
        raise UsageError(
            f"keep names {', '.join(missing)}; the graph has no such node, tensor or module",
            hint="see the names with: deploykit inspect GRAPH",
        )
    return frozenset().union(*found.values()) if found else frozenset()


def _weight_owners(node: NodeProto) -> list[str]:
    """Paths of the modules that a layer's weight belongs to: a folded convolution runs under its BatchNorm's path alone."""
    parts = node.input[1].split(".") if node.op_type in LAYERS else []
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def gate_nodes(nodes: list[NodeProto], facts: Tensors) -> frozenset[str]:
    """The layers of squeeze-excite gates: what lies between a pooling to one pixel and a multiplication of the feature map."""
    gates: set[str] = set()
    for node in nodes:
        gated = gated_input(node, facts) if node.op_type == "Mul" else None
        if gated is None:
            continue
        inside, todo = set(), [node.input[1 - gated]]
        while todo:
            maker = facts.producers.get(todo.pop())
            if maker is None or node_id(maker) in inside or is_global_pooling(maker, facts):
                continue
            inside.add(node_id(maker))
            todo += list(maker.input)
        gates |= inside
    return frozenset(gates)


def gated_input(node: NodeProto, facts: Tensors) -> int | None:
    """Which input of a multiplication is a feature map whose channels the other one scales, image by image; None if neither is."""
    shapes = [facts.shapes.get(name, ()) for name in node.input]
    if any(name in facts.constants for name in node.input) or any(len(shape) != 4 for shape in shapes):
        return None
    pixels = [shape[2:] == (1, 1) for shape in shapes]
    return pixels.index(False) if sorted(pixels) == [False, True] else None


def is_global_pooling(node: NodeProto, facts: Tensors) -> bool:
    """Does a node average each channel of a feature map [N, C, h, w] over its pixels?"""
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type != "ReduceMean" or len(facts.shapes.get(node.input[0], ())) != 4:
        return False
    axes = facts.constant(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", None)
    return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def resize_mode(node: NodeProto) -> str:
    mode = attribute(node, "mode", b"nearest")
    return str(mode.decode() if isinstance(mode, bytes) else mode)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
