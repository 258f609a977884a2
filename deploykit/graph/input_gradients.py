"""The graph behind guided backpropagation and the deconvnet: both gradients with respect to the picture, from one forward pass."""

from collections.abc import Mapping

from onnx import ModelProto, TensorProto, helper

from deploykit.graph.explain import add_class_score, normalized_input
from deploykit.graph.gradient import add_gradient
from deploykit.graph.tensors import describe_tensors

INPUT_GRADIENTS: Mapping[str, str] = {"guided_backprop": "guided", "deconvnet": "deconvnet"}
"""ReLU rule by output name."""


def make_input_gradients_graph(predict: ModelProto) -> ModelProto:
    """A predict graph that also gives d score / d input under the rules of `INPUT_GRADIENTS`.

    Returns:
        The graph with the input ``class_index`` int64 [N] (-1: the row's own top-1) and the outputs ``explained_class`` int64 [N]
        and, per rule, float32 [N, 3, H, W]: the gradient with respect to the normalized picture.

    Raises:
        GraphError: an operator has no gradient rule.
    """
    tensors = describe_tensors(predict)
    graph = ModelProto()
    graph.CopyFrom(predict)
    name = normalized_input(predict, tensors)
    shape = tensors.shape(name)
    graph.graph.input.append(helper.make_tensor_value_info("class_index", TensorProto.INT64, [shape[0]]))
    seed = add_class_score(graph, tensors, None)
    for output, rule in INPUT_GRADIENTS.items():
        gradient = add_gradient(graph, [name], "logits", seed, relu_rule=rule, tensors=tensors)[name]
        graph.graph.node.append(helper.make_node("Identity", [gradient], [output], name=f"explain/{output}"))
        graph.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    return graph
