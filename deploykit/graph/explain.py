"""The explain graph: a predict graph that also answers why, with Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, section 3).

In goes a graph with an input ``image`` and an output ``logits``; out comes one with

    inputs   image; class_index int64 [N], -1 for the row's own top-1
    outputs  logits float32; explained_class int64 [N]; activations, gradients float32 [N, C, h, w]; cam float32 [N, h, w]

where gradients = d score / d activations and cam = relu(sum_c mean_hw(gradients_c) activations_c), not scaled. The score of a row
is the logit of its class. The logits come from the very nodes and weights of the predict graph.
"""

from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploykit.errors import GraphError, UsageError
from deploykit.graph.gradient import add_gradient, backward_type
from deploykit.graph.layers import LayerCandidate, default_layer, resolve_layer
from deploykit.graph.resize_normalize import DOMAIN
from deploykit.graph.rules.emit import Emitter
from deploykit.graph.tensors import Tensors, carried_as, describe_tensors, tensor_names
from deploykit.graph.versions import FUNCTIONS_IR_VERSION, opset_of

_CHANNELS_FIRST = [0, 3, 1, 2]


def make_explain_graph(predict: ModelProto, layer: str | Sequence[str] | None = None, *, with_mask: bool = False) -> ModelProto:
    """Make the explain graph of a predict graph.

    Args:
        predict: a graph with the output ``logits`` [N, K], or [N, K, h, w] of a segmentation net; at any precision.
        layer: tensor names or torch module paths (``deploykit.graph.layers``); ``None`` takes the default layer. With several, the
            first has the plain outputs and the others ``activations_2``, ``gradients_2``, ``cam_2`` and so on, in the order given.
        with_mask: segmentation only: adds the input ``mask`` float32 [N, h, w].

    A class_index that is not a class, -1 aside, gives that row explained_class -1 and zeros for gradients and cam; nothing else
    ever has explained_class -1, so a caller in any language can tell.

    Segmentation: the score is the sum of the class's logits over the pixels where it is the prediction, or over all pixels weighted
    by the mask; -1 means the class predicted at most pixels. A class predicted nowhere scores 0 and has a map of zeros.

    In a graph of uint8 pairs the activations are read behind the layer's pair, as the numbers that the graph itself goes on with.
    Layers laid out [N, h, w, C] are given as [N, C, h, w].

    Raises:
        UsageError: there is no such layer; see ``resolve_layer``.
        GraphError: an operator behind the layer has no gradient rule, or the graph uses a name that the explain graph needs.
    """
    tensors = describe_tensors(predict)
    layers = _chosen(predict, layer, tensors)
    _require_free_names(predict, len(layers))
    explain = ModelProto()
    explain.CopyFrom(predict)
    batch = tensors.shape("logits")[0]
    explain.graph.input.append(helper.make_tensor_value_info("class_index", TensorProto.INT64, [batch]))
    if with_mask:
        shape = tensors.shape("logits")
        if len(shape) != 4:
            raise UsageError(f"a mask needs segmentation logits [N, K, h, w], not {list(shape)}")
        explain.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [batch, *shape[2:]]))
    seed = add_class_score(explain, tensors, "mask" if with_mask else None)
    at = [layer_tensor(tensors, layer) for layer in layers]
    gradients = add_gradient(explain, at, "logits", seed, tensors=tensors)
    for i, (found, name) in enumerate(zip(layers, at, strict=True)):
        suffix = f"_{i + 1}" if i else ""
        add_layer_output(explain, tensors, found, _shown(explain, tensors, name, suffix), f"activations{suffix}")
        add_layer_output(explain, tensors, found, gradients[name], f"gradients{suffix}")
        add_cam(explain, found, batch, suffix)
    return explain


def add_class_score(model: ModelProto, tensors: Tensors, mask: str | None) -> str:
    """Append what picks the class: reads ``class_index`` and ``logits``, gives the output ``explained_class``; returns the seed's
    name.

    The seed is d score / d logits: one-hot, and for segmentation logits one-hot times the pixels that count.
    """
    shape = tensors.shape("logits")
    if len(shape) not in {2, 4} or not isinstance(shape[1], int):
        raise GraphError(
            f"logits have shape {list(shape)}; Grad-CAM needs [N, K], or [N, K, h, w] of a segmentation net, with K fixed"
        )
    classes, nodes = shape[1], _Nodes("class/")
    ids = nodes.constant("ids", np.arange(classes, dtype=np.int64).reshape(-1, *[1] * (len(shape) - 2)))
    predicted = nodes.op("ArgMax", "logits", axis=1, keepdims=0)
    top = predicted
    one = nodes.constant("axis_1", np.array([1]))
    if len(shape) == 4:
        pixels = nodes.constant("pixel_axes", np.array([2, 3]))
        hits = nodes.op("Cast", nodes.op("Equal", nodes.op("Unsqueeze", predicted, one), ids), to=TensorProto.FLOAT)
        top = nodes.op("ArgMax", nodes.op("ReduceSum", hits, pixels, keepdims=0), axis=1, keepdims=0)
    minus_one = nodes.constant("minus_one", np.array(-1))
    chosen = nodes.op("Where", nodes.op("Equal", "class_index", minus_one), top, "class_index")
    legal = nodes.op(
        "And", nodes.op("Less", chosen, nodes.constant("classes", np.array(classes))), nodes.op("Greater", chosen, minus_one)
    )
    nodes.op("Where", legal, chosen, minus_one, output="explained_class")
    dtype = backward_type(tensors, "logits")
    axes = one if len(shape) == 2 else nodes.constant("broadcast_axes", np.array([1, 2, 3]))
    seed = nodes.op("Cast", nodes.op("Equal", nodes.op("Unsqueeze", "explained_class", axes), ids), to=dtype)
    if len(shape) == 4:
        weight = mask or nodes.op(
            "Equal", predicted, nodes.op("Unsqueeze", "explained_class", nodes.constant("hw", np.array([1, 2])))
        )
        weight = nodes.op("Unsqueeze", nodes.op("Cast", weight, to=dtype), one)
        seed = nodes.op("Mul", seed, weight)
    model.graph.node.extend(nodes.nodes)
    model.graph.initializer.extend(nodes.initializers)
    model.graph.output.append(helper.make_tensor_value_info("explained_class", TensorProto.INT64, [shape[0]]))
    return seed


def layer_tensor(tensors: Tensors, layer: LayerCandidate) -> str:
    """Where a layer is explained: behind its Q/DQ pair of unsigned integers, where it has one (see ``carried_as``)."""
    carried = carried_as(tensors, layer.tensor)
    return layer.tensor if carried is None else carried.dequantized


def _shown(model: ModelProto, tensors: Tensors, name: str, suffix: str) -> str:
    """The tensor to copy a layer's activations from: itself, or made anew of its integers (see ``carried_as``)."""
    emit = Emitter(tensors, TensorProto.FLOAT, f"activations{suffix}/")
    value = emit.forward(name) if carried_as(tensors, name) else None
    model.graph.node.extend(emit.nodes)
    model.graph.initializer.extend(emit.initializers)
    return value.name if value else name


def add_layer_output(model: ModelProto, tensors: Tensors, layer: LayerCandidate, source: str, name: str) -> None:
    """Append an output float32 [N, C, h, w] that shows the layer's tensor ``source``, whatever its type and layout."""
    if tensors.types.get(source, backward_type(tensors, "logits")) != TensorProto.FLOAT:
        model.graph.node.append(helper.make_node("Cast", [source], [f"{name}/float"], name=f"{name}/float", to=TensorProto.FLOAT))
        source = f"{name}/float"
    shape = [tensors.shape("logits")[0], layer.channels, layer.height, layer.width]
    if layer.channels_last:
        _add_output(model, "Transpose", [source], name, TensorProto.FLOAT, shape, perm=_CHANNELS_FIRST)
    else:
        _add_output(model, "Identity", [source], name, TensorProto.FLOAT, shape)


def add_cam(model: ModelProto, layer: LayerCandidate, batch: int | str | None, suffix: str = "") -> None:
    """Append the output ``cam`` float32 [N, h, w], computed by the model-local function ``deploykit.GradCam``."""
    if not any(f.domain == DOMAIN and f.name == "GradCam" for f in model.functions):
        model.functions.append(grad_cam_function(opset_of(model)))
    if not any(o.domain == DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, FUNCTIONS_IR_VERSION)
    inputs = [f"activations{suffix}", f"gradients{suffix}"]
    _add_output(model, "GradCam", inputs, f"cam{suffix}", TensorProto.FLOAT, [batch, layer.height, layer.width], domain=DOMAIN)


def grad_cam_function(opset: int) -> FunctionProto:
    """``GradCam(activations, gradients) -> cam``, [N, C, h, w] twice -> [N, h, w]: relu(sum_c mean_hw(gradients_c) activations_c).

    A function of standard operators: runtimes execute its body, and TensorRT takes a plugin of that name instead where one is
    registered.
    """
    body = [
        helper.make_node("GlobalAveragePool", ["gradients"], ["weights"]),
        helper.make_node("Mul", ["weights", "activations"], ["weighted"]),
        helper.make_node("Constant", [], ["channel_axis"], value_ints=[1]),
        helper.make_node("ReduceSum", ["weighted", "channel_axis"], ["evidence"], keepdims=0),
        helper.make_node("Relu", ["evidence"], ["cam"]),
    ]
    return helper.make_function(
        DOMAIN,
        "GradCam",
        ["activations", "gradients"],
        ["cam"],
        body,
        [helper.make_opsetid("", opset)],
        doc_string="Grad-CAM: relu(sum over channels of mean(gradients) * activations)",
    )


def normalized_input(model: ModelProto, tensors: Tensors) -> str:
    """The float tensor that the network proper sees: ``image``, or what casts, moves of axes and constants make of it."""
    prepares = {"Cast", "Transpose", "Sub", "Mul", "Div", "Add", "Identity", "Gather", "DequantizeLinear", "QuantizeLinear"}
    name = "image"
    if name not in {i.name for i in model.graph.input}:
        raise GraphError(f"the graph has no input 'image'; its inputs are {', '.join(i.name for i in model.graph.input)}")
    while len(readers := tensors.consumers.get(name, [])) == 1 and readers[0].op_type in prepares:
        others = [i for i in readers[0].input if i != name]
        if name != readers[0].input[0] or any(tensors.constant(i) is None for i in others):
            break
        name = readers[0].output[0]
    return name


class _Nodes:
    """Collects nodes under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._prefix = prefix

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: int) -> str:
        output = output or f"{self._prefix}{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))  # type: ignore[arg-type]
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(value, self._prefix + name))
        return self._prefix + name


def _chosen(predict: ModelProto, layer: str | Sequence[str] | None, tensors: Tensors) -> list[LayerCandidate]:
    if layer is None:
        return [default_layer(predict, tensors=tensors)]
    names = [layer] if isinstance(layer, str) else list(layer)
    if not names:
        raise UsageError("no layer is named; expected one or more, or none at all for the default layer")
    return [resolve_layer(predict, name, tensors=tensors) for name in names]


def _require_free_names(model: ModelProto, layers: int) -> None:
    if "logits" not in {o.name for o in model.graph.output}:
        raise GraphError(f"the graph has no output 'logits'; its outputs are {', '.join(o.name for o in model.graph.output)}")
    suffixes = ["", *(f"_{i + 1}" for i in range(1, layers))]
    needed = {"class_index", "explained_class", "mask", *(f"{n}{s}" for n in ("activations", "gradients", "cam") for s in suffixes)}
    taken = sorted(needed & tensor_names(model))
    if taken:
        raise GraphError(
            f"the graph already has tensors named {', '.join(taken)}, which an explain graph adds",
            hint="make it from the predict graph",
        )


def _add_output(
    model: ModelProto,
    op_type: str,
    inputs: list[str],
    name: str,
    dtype: int,
    shape: Sequence[int | str | None],
    **attributes: object,
) -> None:
    model.graph.node.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))  # type: ignore[arg-type]
    model.graph.output.append(helper.make_tensor_value_info(name, dtype, list(shape)))
