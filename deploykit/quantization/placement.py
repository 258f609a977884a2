"""Where Q/DQ pairs stand in a graph, and why. In: a float predict graph. Out: a `Placement`, which names tensors and nodes alone.

A pair on an edge means: this node reads this tensor rounded to INT8. The edges are those of TensorRT's fusions (NVIDIA TensorRT
documentation, "Working with Quantized Types", "Q/DQ Placement Recommendations"); `placement_rules.RULES` gives each rule's reason.
Nothing is calibrated here: which tensors need a threshold is part of the answer.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto

from deploykit.errors import GraphError
from deploykit.graph.tensors import Tensors, describe_tensors
from deploykit.quantization.placed import Edge, FloatNode, Placement, ScaleGroup, WeightEdge
from deploykit.quantization.placement_nodes import (
    LAYERS,
    RECTIFIERS,
    attribute,
    gate_nodes,
    gated_input,
    is_global_pooling,
    kept_nodes,
    node_id,
    resize_mode,
    weight_axis,
)

# What runs inside a neighbour's kernel, or moves values about: INT8 before it and behind it is of use across it.
_LIGHT = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Div", "Dropout", "Elu", "Flatten", "GlobalAveragePool",
     "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mul", "PRelu", "Pad", "ReduceMean", "Relu", "Reshape",
     "Resize", "Sigmoid", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)  # fmt: skip

_RESHAPES = frozenset({"Flatten", "Identity", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def place(graph: ModelProto, keep: Collection[str] = ()) -> Placement:
    """Decide which edges of a graph get a pair.

    Args:
        graph: a float predict graph with its BatchNorms folded where they can be.
        keep: what stays out of INT8: node names, names of tensors that nodes make, or torch module paths (all nodes under them).

    Raises:
        UsageError: a name in ``keep`` that the graph does not have.
        GraphError: the graph has pairs already, or nothing in it can be quantized.
    """
    tensors = describe_tensors(graph)
    nodes = list(graph.graph.node)
    if any(node.op_type == "QuantizeLinear" for node in nodes):
        raise GraphError("the graph is quantized already: it has QuantizeLinear nodes", hint="start from the float graph")
    draft = _Draft(nodes, tensors, kept_nodes(nodes, keep), gate_nodes(nodes, tensors))
    for node in nodes:
        if node.op_type in LAYERS:
            _place_layer(draft, node)
    if not draft.edges:
        raise GraphError(
            "nothing in the graph can be quantized: no convolution or linear layer with constant weights is left in INT8"
        )
    useful = _useful_tensors(draft)
    for node in reversed(nodes):
        if node_id(node) not in draft.kept and node.output[0] in useful:
            _place_neighbour(draft, node)
    _share_pairs(draft)
    return Placement(
        groups=_groups(draft),
        edges=tuple(draft.edges[key] for key in sorted(draft.edges)),
        weights=tuple(draft.weights),
        floats=tuple(draft.floats),
        cpu_tensors=_cpu_tensors(draft),
    )


@dataclass
class _Draft:
    """A placement in the making."""

    nodes: list[NodeProto]
    facts: Tensors
    kept: frozenset[str]
    gates: frozenset[str]
    edges: dict[tuple[int, int], Edge] = field(default_factory=dict)
    weights: list[WeightEdge] = field(default_factory=list)
    floats: list[FloatNode] = field(default_factory=list)
    shared: list[tuple[str, str, str]] = field(default_factory=list)
    position: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.position = {node_id(node): i for i, node in enumerate(self.nodes)}
        if len(self.position) < len(self.nodes):
            raise GraphError("two nodes of the graph have the same name; node names must differ")

    def add(self, node: NodeProto, index: int, rule: str) -> None:
        """Let a node read an input through a pair, unless it does so already."""
        key = (self.position[node_id(node)], index)
        self.edges.setdefault(key, Edge(node_id(node), index, node.input[index], rule))

    def share(self, whole: str, part: str, rule: str) -> None:
        """Give two tensors one scale; the values of ``part`` are among those of ``whole``."""
        self.shared.append((whole, part, rule))

    @property
    def paired(self) -> set[str]:
        return {edge.tensor for edge in self.edges.values()}


def _place_layer(draft: _Draft, node: NodeProto) -> None:
    """Rules: layer input, weights, depthwise, first layer, last layer, gate, kept."""
    name = node_id(node)
    axis = weight_axis(node, draft.facts)
    rule = "kept" if name in draft.kept else axis if isinstance(axis, str) else "gate" if name in draft.gates else None
    if rule is not None:
        draft.floats.append(FloatNode(name, node.op_type, rule))
    else:
        draft.add(node, 0, _layer_rule(draft, node))
    if isinstance(axis, int) and rule != "kept":
        draft.weights.append(WeightEdge(name, 1, node.input[1], axis))


def _layer_rule(draft: _Draft, node: NodeProto) -> str:
    """The rule that a layer's input falls under; all mean the same pair, their reasons differ."""
    shape = draft.facts.shapes.get(node.input[1], ())
    group = attribute(node, "group", 1)
    if node.op_type == "Conv" and group > 1 and shape[0] == group and shape[1] == 1:
        return "depthwise"
    if not any(e.rule != "kept" for e in draft.edges.values()) and not draft.floats:
        return "first layer"
    return "last layer" if node.output[0] in draft.facts.outputs else "layer input"


def _place_neighbour(draft: _Draft, node: NodeProto) -> None:
    """Rules for what stands between layers; called from the last node to the first, so that what follows a node is known."""
    shape = draft.facts.shapes.get(node.output[0], ())
    if node.op_type == "Add":
        _place_addition(draft, node)
    elif node.op_type == "Concat" and len(shape) == 4 and attribute(node, "axis", 0) in {1, -3}:
        if all(_is_computed(draft, name) for name in node.input):
            for i, name in enumerate(node.input):
                draft.add(node, i, "concat")
                draft.share(node.output[0], name, "concat")
    elif node.op_type == "MaxPool" and node.output[0] in _needed_as_int8(draft):
        draft.add(node, 0, "max pooling")
        draft.share(node.input[0], node.output[0], "max pooling")
    elif node.op_type == "Resize" and resize_mode(node) == "nearest" and node.output[0] in _needed_as_int8(draft):
        draft.add(node, 0, "resize")
        draft.share(node.input[0], node.output[0], "resize")
    elif node.op_type == "AveragePool":
        draft.add(node, 0, "average pooling")
    elif is_global_pooling(node, draft.facts):
        draft.add(node, 0, "global pooling")
    elif node.op_type == "Mul" and (gated := gated_input(node, draft.facts)) is not None:
        draft.add(node, gated, "gated tensor")


def _place_addition(draft: _Draft, node: NodeProto) -> None:
    """Rule residual: all tensors but the one that is computed last, which is the convolution that the addition is fused with."""
    shapes = [draft.facts.shapes.get(name) for name in node.input]
    names = list(node.input)
    if not all(_is_computed(draft, name) for name in names) or shapes[0] != shapes[1] or names[0] == names[1]:
        return
    if len(shapes[0] or ()) != 4:
        return
    last = max(names, key=lambda name: _made_at(draft, name))
    draft.add(node, 1 - names.index(last), "residual")


def _needed_as_int8(draft: _Draft) -> set[str]:
    """Tensors with a pair by now."""
    return draft.paired | {name for whole, part, _ in draft.shared for name in (whole, part)}


def _share_pairs(draft: _Draft) -> None:
    """Rule shared pair: an addition, a gate or a pooling that reads a tensor which others read through a pair does so too.

    A tensor whose every reader wants integers needs no float copy. Activations are left out: they belong to the kernel before.
    """
    paired = _needed_as_int8(draft)
    for node in draft.nodes:
        if (
            node.op_type
            not in {"Add", "BatchNormalization", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Mul"}
            or node_id(node) in draft.kept
        ):
            continue
        for i, name in enumerate(node.input):
            if name in paired and not _is_own_output(draft, name, node):
                draft.add(node, i, "shared pair")


def _is_own_output(draft: _Draft, name: str, node: NodeProto) -> bool:
    """Is this the tensor that a fused addition must keep in float?"""
    return node.op_type == "Mul" and any(n.op_type in {"Sigmoid", "HardSigmoid"} for n in draft.facts.consumers.get(name, []))


def _groups(draft: _Draft) -> tuple[ScaleGroup, ...]:
    """Tensors with a pair, put together where they share a scale, in graph order."""
    paired = _needed_as_int8(draft)
    parent = {name: name for name in paired}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for whole, part, _ in draft.shared:
        parent[root(part)] = root(whole)
    members: dict[str, list[str]] = {}
    for name in sorted(paired, key=lambda name: (_made_at(draft, name), name)):
        members.setdefault(root(name), []).append(name)
    contained = _contained(draft)
    rules = {root(whole): rule for whole, _, rule in reversed(draft.shared)}
    return tuple(
        ScaleGroup(tuple(names), tuple(n for n in names if n not in contained) or tuple(names), rules.get(key, "single"))
        for key, names in members.items()
    )


def _contained(draft: _Draft) -> set[str]:
    """Tensors whose values are all in another one of their group: parts of a concatenation, and concatenations of fewer parts."""
    contained = {part for _, part, _ in draft.shared}
    parts: dict[str, frozenset[str]] = {}
    for node in draft.nodes:
        if node.op_type == "Concat":
            own = {part for whole, part, _ in draft.shared if whole == node.output[0]}
            parts[node.output[0]] = frozenset().union(*(parts.get(name, frozenset({name})) for name in own))
    by_part: dict[str, list[str]] = {}
    for whole, names in parts.items():
        for name in names:
            by_part.setdefault(name, []).append(whole)
    for whole, names in parts.items():
        rivals = by_part[min(names)] if names else []
        if any(names < parts[other] for other in rivals):
            contained.add(whole)
    return contained


def _cpu_tensors(draft: _Draft) -> tuple[str, ...]:
    """What must be rounded for a CPU's integer kernels although TensorRT keeps it in float: outputs of INT8 layers that are read in
    float, but for logits and for activations that the next pair takes in; the own branch of additions; and what gates pool."""
    paired = _needed_as_int8(draft)
    through = {(edge.node, edge.tensor) for edge in draft.edges.values()}
    found = []
    for edge in draft.edges.values():
        node = draft.nodes[draft.position[edge.node]]
        output = node.output[0]
        if edge.rule == "residual":
            found += [name for name in node.input if name != edge.tensor and not _is_kept(draft, name)]
        readers = [n for n in draft.facts.consumers.get(output, []) if (node_id(n), output) not in through]
        if node.op_type not in LAYERS and not (is_global_pooling(node, draft.facts) and _all_gates(draft, readers)):
            continue
        if len(readers) == 1 and readers[0].op_type in RECTIFIERS:
            # The pair stands behind the rectifier, which then costs nothing and leaves the integers to values that are not cut off.
            output = readers[0].output[0]
        if readers and not _is_logits(draft, output):
            found.append(output)
    return tuple(sorted(set(found) - paired, key=lambda name: _made_at(draft, name)))


def _is_kept(draft: _Draft, name: str) -> bool:
    """Does a node make this tensor that was asked to stay out of INT8? Then its output stays float on a CPU too."""
    return node_id(draft.facts.producers[name]) in draft.kept


def _is_logits(draft: _Draft, name: str) -> bool:
    """Is a tensor the logits, but for their shape? Those stay float (rule last layer)."""
    readers = draft.facts.consumers.get(name, [])
    return name in draft.facts.outputs or (
        bool(readers) and all(n.op_type in _RESHAPES and _is_logits(draft, n.output[0]) for n in readers)
    )


def _all_gates(draft: _Draft, nodes: list[NodeProto]) -> bool:
    return bool(nodes) and all(node_id(node) in draft.gates for node in nodes)


def _useful_tensors(draft: _Draft) -> set[str]:
    """Tensors that an INT8 layer reads, or reads through what runs inside its neighbours' kernels."""
    useful: set[str] = set()
    for i in range(len(draft.nodes) - 1, -1, -1):
        node = draft.nodes[i]
        if (i, 0) in draft.edges:
            useful.add(node.input[0])
        elif node.op_type in _LIGHT and useful.intersection(node.output):
            useful.update(name for name in node.input if name)
    return useful


def _is_computed(draft: _Draft, name: str) -> bool:
    return name in draft.facts.producers and name not in draft.facts.constants


def _made_at(draft: _Draft, name: str) -> int:
    """Where in the graph a tensor is made; -1 for the graph's inputs."""
    maker = draft.facts.producers.get(name)
    return -1 if maker is None else draft.position[node_id(maker)]
