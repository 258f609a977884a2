"""The shifted graph: a predict graph whose layer can be pushed, to measure by how much the logits follow.

The tail graph measures the same for less, but exists only where everything passes through the layer. Inside of a residual block or
beside another branch the picture must come along.
"""

from onnx import ModelProto, TensorProto, helper

from deploykit.graph.explain import layer_tensor
from deploykit.graph.layers import resolve_layer
from deploykit.graph.tensors import describe_tensors

SHIFT_NAME = "shift"


def make_shifted_graph(predict: ModelProto, layer: str) -> ModelProto:
    """A predict graph with one more input ``shift`` float32 [N, C, h, w], which is added to a layer's tensor.

    Args:
        predict: a graph with the output ``logits``.
        layer: a tensor's name or a torch module's path (`deploykit.graph.layers`).

    Raises:
        UsageError: there is no such layer.
    """
    tensors = describe_tensors(predict)
    found = resolve_layer(predict, layer, tensors=tensors)
    at = layer_tensor(tensors, found)
    graph = ModelProto()
    graph.CopyFrom(predict)
    batch = tensors.shape("logits")[0]
    shape = [batch, found.channels, found.height, found.width]
    graph.graph.input.append(helper.make_tensor_value_info(SHIFT_NAME, TensorProto.FLOAT, shape))
    shifted = f"{at}/shifted"
    for node in graph.graph.node:
        for i, name in enumerate(node.input):
            if name == at:
                node.input[i] = shifted
    source, nodes = SHIFT_NAME, []
    if found.channels_last:
        nodes.append(helper.make_node("Transpose", [source], ["shift/moved"], name="shift/moved", perm=[0, 2, 3, 1]))
        source = "shift/moved"
    if tensors.types.get(at, TensorProto.FLOAT) != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [source], ["shift/cast"], name="shift/cast", to=tensors.types[at]))
        source = "shift/cast"
    nodes.append(helper.make_node("Add", [at, source], [shifted], name=shifted))
    place = next(i for i, node in enumerate(graph.graph.node) if at in node.output) + 1
    ordered = [*graph.graph.node[:place], *nodes, *graph.graph.node[place:]]
    del graph.graph.node[:]
    graph.graph.node.extend(ordered)
    return graph
