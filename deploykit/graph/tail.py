"""The tail graph: from a layer's activations to the logits, differentiated. It explains many classes of one image without seeing it
again.

The explain graph gives the activations once; repeated along the batch and sent through the tail with one class per row they give a
map for every class at the price of the layers behind, which at the last feature map are a pooling and a matrix product.
"""

from collections.abc import Iterable

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from deploykit.errors import GraphError
from deploykit.graph.explain import add_cam, add_class_score, add_layer_output, layer_tensor
from deploykit.graph.gradient import add_gradient
from deploykit.graph.layers import LayerCandidate, read_by, resolve_layer
from deploykit.graph.rules.emit import Emitter, Value
from deploykit.graph.tensors import Tensors, describe_tensors


def make_tail_graph(model: ModelProto, layer: str) -> ModelProto:
    """Cut a predict or explain graph at a layer and differentiate what lies behind.

    Args:
        model: a graph with the output ``logits``.
        layer: a tensor's name or a torch module's path (``deploykit.graph.layers``).

    Returns:
        A graph with the inputs ``activations`` float32 [N, C, h, w] and ``class_index`` int64 [N] (-1: the row's own top-1), and
        the outputs ``logits``, ``explained_class``, ``gradients`` and ``cam`` of the explain graph at that layer.

    Raises:
        GraphError: the logits do not depend on the image through this layer alone, so they cannot be computed from it; or an
            operator behind it has no gradient rule.
        UsageError: there is no such layer.
    """
    tensors = describe_tensors(model)
    found = resolve_layer(model, layer, tensors=tensors)
    at = layer_tensor(tensors, found)
    tail = _cut(model, tensors, found, at)
    facts = describe_tensors(tail)
    batch = tensors.shape("logits")[0]
    tail.graph.input.append(helper.make_tensor_value_info("class_index", TensorProto.INT64, [batch]))
    seed = add_class_score(tail, facts, None)
    gradient = add_gradient(tail, [at], "logits", seed, tensors=facts)[at]
    add_layer_output(tail, facts, found, gradient, "gradients")
    add_cam(tail, found, batch)
    return tail


def _cut(model: ModelProto, tensors: Tensors, layer: LayerCandidate, at: str) -> ModelProto:
    """The nodes between the layer and the logits, fed from an input ``activations``."""
    tail = ModelProto(ir_version=model.ir_version)
    tail.opset_import.extend(model.opset_import)
    tail.functions.extend(model.functions)
    graph = tail.graph
    graph.name = "tail"
    batch = tensors.shape("logits")[0]
    shape = [batch, layer.channels, layer.height, layer.width]
    graph.input.append(helper.make_tensor_value_info("activations", TensorProto.FLOAT, shape))
    graph.output.extend(o for o in model.graph.output if o.name == "logits")
    graph.node.extend(_entry(tensors, layer, at))
    nodes = _behind(model.graph, at)
    emit = Emitter(tensors, TensorProto.FLOAT, "tail/")
    kept = [_fixed_shape(node, tensors, emit) for node in nodes]
    graph.node.extend([*emit.nodes, *kept])
    read = {name for node in graph.node for name in read_by(node)}
    graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    graph.initializer.extend(emit.initializers)
    _require_cut(graph, layer)
    return tail


def _entry(tensors: Tensors, layer: LayerCandidate, at: str) -> Iterable[NodeProto]:
    """Make the layer's tensor of ``activations``: float32 [N, C, h, w] to its own type and layout."""
    source = "activations"
    if layer.channels_last:
        yield helper.make_node("Transpose", [source], ["activations/moved"], name="activations/moved", perm=[0, 2, 3, 1])
        source = "activations/moved"
    if tensors.types.get(at, TensorProto.FLOAT) == TensorProto.FLOAT:
        yield helper.make_node("Identity", [source], [at], name="activations/as_layer")
    else:
        yield helper.make_node("Cast", [source], [at], name="activations/as_layer", to=tensors.types[at])


def _behind(graph: GraphProto, at: str) -> list[NodeProto]:
    """The nodes that the logits need once the layer's tensor is given."""
    wanted, nodes = {"logits"}, []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output) and at not in node.output:
            nodes.append(node)
            # What a Shape node tells of a tensor in front of the layer is known without it, save the batch, which is the layer's.
            wanted.update(name for name in read_by(node) if name != at and node.op_type != "Shape")
    return nodes[::-1]


def _fixed_shape(node: NodeProto, tensors: Tensors, emit: Emitter) -> NodeProto:
    """Replace Shape of a tensor whose dimensions are fixed but for the batch: a tensor in front of the layer no longer exists."""
    if node.op_type != "Shape":
        return node
    shape = tensors.shapes.get(node.input[0], (None, None))
    if not all(isinstance(d, int) for d in shape[1:]):
        return node
    bounds = {a.name: a.i for a in node.attribute}
    chosen = list(range(len(shape)))[bounds.get("start", 0) : bounds.get("end", len(shape))]
    batch = emit.op("Slice", emit.op("Shape", Value("activations", emit)), emit.ints([0]), emit.ints([1]), emit.ints([0]))
    parts = [emit.ints([d]) if isinstance(d := shape[i], int) else batch for i in chosen]
    joined = emit.op("Concat", *parts, axis=0)
    return helper.make_node("Identity", [joined.name], list(node.output), name=node.name)


def _require_cut(graph: GraphProto, layer: LayerCandidate) -> None:
    """Every tensor of the tail must come from the activations or from constants."""
    known = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        missing = [name for name in read_by(node) if name not in known]
        if missing:
            raise GraphError(
                f"the logits cannot be computed from {layer} alone: {node.op_type} node {node.name!r} also reads {missing[0]!r}, "
                "which comes past it",
                hint="choose a layer that everything passes through, such as the output of a whole stage",
            )
        known.update(node.output)
