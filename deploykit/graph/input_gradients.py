"""The graph behind guided backpropagation and the deconvnet: both gradients with respect to the picture, from one forward pass."""

from collections.abc import Mapping

from onnx import ModelProto, TensorProto, helper

from deploykit.errors import GraphError
from deploykit.graph.explain import add_class_score, normalized_input
from deploykit.graph.gradient import add_gradient
from deploykit.graph.rules.activation import is_rectifier
from deploykit.graph.tensors import describe_tensors

INPUT_GRADIENTS: Mapping[str, str] = {"guided_backprop": "guided", "deconvnet": "deconvnet"}
"""ReLU rule by output name."""


def make_input_gradients_graph(predict: ModelProto, rules: Mapping[str, str] = INPUT_GRADIENTS) -> ModelProto:
    """A predict graph that also gives d score / d input under some rules.

    The input meant is the normalized float tensor [N, 3, H, W] that the network itself sees: behind the cast, the move of axes and
    the normalization where the graph takes pixels, ``image`` itself where it takes floats. Relu and ReLU6 nodes follow the rule; in
    Captum and pytorch-grad-cam, ReLU modules alone do.

    Args:
        predict: see `deploykit.graph.explain.make_explain_graph`.
        rules: rule (``standard``, ``guided``, ``deconvnet``) by output name.

    Returns:
        The graph with the input ``class_index`` int64 [N] (-1: the row's own top-1) and the outputs ``explained_class`` int64 [N]
        and, per rule, float32 [N, 3, H, W].

    Raises:
        GraphError: an operator has no gradient rule; or the graph has no ReLU and no ReLU6, so that the rules would change nothing
            and the plain gradient would go by their names.
        UsageError: a rule does not exist.
    """
    tensors = describe_tensors(predict)
    if set(rules.values()) != {"standard"} and not any(is_rectifier(node, tensors) for node in predict.graph.node):
        raise GraphError(
            "guided backpropagation and the deconvnet change how ReLUs pass the gradient; the graph has no Relu and no Clip at 0",
            hint="leave --input-gradients out, and take grad-cam; SiLU and GELU have no such rule",
        )
    graph = ModelProto()
    graph.CopyFrom(predict)
    name = normalized_input(predict, tensors)
    shape = tensors.shape(name)
    graph.graph.input.append(helper.make_tensor_value_info("class_index", TensorProto.INT64, [shape[0]]))
    seed = add_class_score(graph, tensors, None)
    for output, rule in rules.items():
        gradient = add_gradient(graph, [name], "logits", seed, relu_rule=rule, tensors=tensors)[name]
        graph.graph.node.append(helper.make_node("Identity", [gradient], [output], name=f"explain/{output}"))
        graph.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    return graph
