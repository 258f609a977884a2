"""The way out: from whatever a graph answers to ``logits`` float32 [N, K] (segmentation: [N, K, h, w]).

Probabilities are no good for explaining: where a softmax is sure of itself its gradient is zero to the last bit, and the map of a
certain answer would be empty. So the final activation goes, and the gradient is taken of the logit, as Grad-CAM's paper does.
"""

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.foreign.names import redirect_readers, rename_tensor
from deploykit.graph.foreign.ports import ForeignOutput
from deploykit.graph.tensors import Shape, ancestors, describe_tensors

LOGITS_NAME = "logits"


def cut_final_activation(model: ModelProto, output: ForeignOutput) -> None:
    """Before: the graph as its file has it. After: one output, which the final activation no longer stands before.

    Nodes behind the activation that only carry values (Identity, Reshape) stay and now carry the scores.
    """
    graph, name = model.graph, output.name
    if output.activation is not None:
        behind = ancestors(graph, [name])
        node = next(
            n for n in graph.node if n.input[:1] == [output.scores] and n.output[0] in behind and n.op_type == output.activation
        )
        redirect_readers(graph, node.output[0], output.scores)
        name = output.scores if node.output[0] == name else name
    del graph.output[:]
    graph.output.append(ValueInfoProto(name=name))


def name_logits(model: ModelProto, output: ForeignOutput, layout: str) -> bool:
    """Before: one output with one score per class and image, of any floating-point type. After: it is ``logits`` float32 [N, K] or
    [N, K, h, w], and no other tensor is called so.

    [N, K, 1, 1] and [N, 1, 1, K] are flattened. One score before a sigmoid becomes the logits of two classes, -z/2 and z/2, whose
    softmax is the sigmoid's 1 - p and p, and whose gradients differ in sign alone.

    Args:
        layout: of the graph's input; maps of scores are understood with channels first only.

    Returns:
        Whether the logits are such a pair.

    Raises:
        GraphError: another shape.
    """
    graph = model.graph
    name = graph.output[0].name
    tensors = describe_tensors(model)
    dtype, shape = tensors.types.get(name, TensorProto.FLOAT), tensors.shape(name)
    if len(shape) == 4 and sum(d == 1 for d in shape[1:]) >= 2:
        name = _append(model, "Flatten", [name], "logits/flat", axis=1)
        shape = (shape[0], next((d for d in shape[1:] if d != 1), 1))
    _check_scores(graph.output[0].name, shape, output, layout)
    if dtype != TensorProto.FLOAT:
        name = _append(model, "Cast", [name], "logits/float", to=TensorProto.FLOAT)
    is_pair = shape[1] == 1
    if is_pair:
        graph.initializer.append(numpy_helper.from_array(np.array([[-0.5, 0.5]], np.float32), "logits/signs"))
        name = _append(model, "Mul", [name, "logits/signs"], "logits/pair")
        shape = (shape[0], 2)
    rename_tensor(graph, name, LOGITS_NAME)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOGITS_NAME, TensorProto.FLOAT, list(shape)))
    return is_pair


def _check_scores(name: str, shape: Shape, output: ForeignOutput, layout: str) -> None:
    ranks = (2, 4) if layout == "nchw" else (2,)
    if len(shape) not in ranks or not isinstance(shape[1], int):
        maps = ", or [N, K, h, w] of a segmentation net" if layout == "nchw" else ""
        raise GraphError(
            f"the graph's scores {name!r} have shape {list(shape)}, expected [N, K]{maps}",
            hint="name another output, or an inner tensor, with --scores",
        )
    if shape[1] == 1 and not (output.activation == "Sigmoid" and len(shape) == 2):
        raise GraphError(f"the graph's scores {name!r} are one number each without a sigmoid: no classes to rank or to explain")


def _append(model: ModelProto, op_type: str, inputs: list[str], output: str, **attributes: int) -> str:
    model.graph.node.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))  # type: ignore[arg-type]
    return output
