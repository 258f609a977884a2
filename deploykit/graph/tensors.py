"""What is known of a graph's tensors without running it: shapes, element types, constants, who makes and who reads each.

Shapes come from onnx's shape inference, run on a copy without the weights: inference never looks at a convolution's numbers, and
copying half a gigabyte through protobuf three times made explaining a VGG take nine seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from deploykit.errors import GraphError

Shape = tuple[int | str | None, ...]
"""Dimensions: a number, a symbol such as ``N``, or None where inference could not tell."""

# Larger constants are weights; shapes, axes and indices, which inference reads, are far below this.
_LARGEST_READ_CONSTANT = 1024


@dataclass(frozen=True)
class Tensors:
    """Facts about every tensor of one graph, by name.

    Args:
        shapes: dimensions; a name is absent where not even the rank is known.
        types: ``TensorProto`` element types.
        constants: initializers and the values of Constant nodes.
        producers: the node that makes a tensor; absent for inputs and initializers.
        consumers: the nodes that read a tensor, in graph order.
        outputs: names of the graph's outputs.
    """

    shapes: dict[str, Shape]
    types: dict[str, int]
    constants: dict[str, TensorProto]
    producers: dict[str, NodeProto]
    consumers: dict[str, list[NodeProto]]
    outputs: frozenset[str]

    def shape(self, name: str) -> Shape:
        """The dimensions of a tensor.

        Raises:
            GraphError: inference could not tell even its rank.
        """
        if name not in self.shapes:
            raise GraphError(
                f"the shape of tensor {name!r} cannot be inferred; its rank and all but its batch dimension must be known",
                hint="export with fixed image height and width, so that only the batch is dynamic",
            )
        return self.shapes[name]

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """The value of a constant; None where the tensor is computed from an input."""
        tensor = self.constants.get(name)
        if tensor is None:
            node = self.producers.get(name)
            return self.constant(node.input[0]) if node is not None and node.op_type == "Identity" else None
        if tensor.data_location == TensorProto.EXTERNAL:
            raise GraphError(
                f"the value of {name!r} is needed but lies in an external file", hint="load the graph with its external data"
            )
        return numpy_helper.to_array(tensor)


@dataclass(frozen=True)
class Integers:
    """How a quantized graph carries a tensor: value = scale * (integers - zero), with one scale. ``zero`` is "" where it is 0."""

    integers: str
    scale: str
    zero: str
    dequantized: str


def describe_tensors(model: ModelProto) -> Tensors:
    """Collect the facts about all tensors of the main graph. Costs milliseconds, whatever the size of the weights.

    Raises:
        GraphError: the graph contradicts itself, or uses a domain that it does not declare.
    """
    graph = model.graph
    try:
        inferred = shape_inference.infer_shapes(_without_weights(model), data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise GraphError(f"the shapes of the graph's tensors cannot be inferred: {error}") from error
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    for info in _value_infos(inferred):
        tensor_type = info.type.tensor_type
        types[info.name] = tensor_type.elem_type
        if tensor_type.HasField("shape"):
            shapes[info.name] = tuple(_dimension(d) for d in tensor_type.shape.dim)
    constants = {t.name: t for t in graph.initializer}
    producers: dict[str, NodeProto] = {}
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                constants[node.output[0]] = _constant_tensor(attribute)
        producers.update((name, node) for name in node.output if name)
        for name in dict.fromkeys(node.input):
            consumers.setdefault(name, []).append(node)
    for name, tensor in constants.items():
        shapes[name], types[name] = tuple(tensor.dims), tensor.data_type
    return Tensors(shapes, types, constants, producers, consumers, frozenset(o.name for o in graph.output))


def carried_as(tensors: Tensors, name: str) -> Integers | None:
    """The unsigned integers behind a tensor that is made by DequantizeLinear or read by QuantizeLinear alone; None for any other.

    The backward part reads these instead, because a runtime fuses Q/DQ pairs into integer kernels only where nothing else reads
    between: otherwise the logits would no longer be those of the predict graph. ONNX Runtime 1.32 keeps all 52 convolutions of a
    uint8 MobileNetV2 integer this way, 51 if the float tensors are read. Signed pairs it rewrites to unsigned first, but only where
    the integers have no other reader (12 of 37 would stay), so there the float tensors are read.
    """
    maker, readers = tensors.producers.get(name), tensors.consumers.get(name, [])
    if maker is not None and maker.op_type == "DequantizeLinear":
        pair, behind = [*maker.input], name
    elif len(readers) == 1 and readers[0].op_type == "QuantizeLinear" and name not in tensors.outputs:
        pair = [readers[0].output[0], *readers[0].input[1:]]
        behind = next((n.output[0] for n in tensors.consumers.get(pair[0], []) if n.op_type == "DequantizeLinear"), name)
    else:
        return None
    is_weight = pair[0] in tensors.constants
    is_unsigned = tensors.types.get(pair[0]) in {TensorProto.UINT8, TensorProto.UINT16}
    if is_weight or not is_unsigned or tensors.shapes.get(pair[1]) not in {(), (1,)}:
        return None
    return Integers(pair[0], pair[1], pair[2] if len(pair) > 2 else "", behind)


def ancestors(graph: GraphProto, names: Iterable[str]) -> set[str]:
    """The tensors that the named ones are computed from, with the named ones; constants and inputs included."""
    wanted = set(names)
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(name for name in node.input if name)
    return wanted


def tensor_names(model: ModelProto) -> set[str]:
    """Every tensor name that the main graph uses."""
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    return names | {t.name for t in graph.initializer} | {i.name for i in (*graph.input, *graph.output)}


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy in which large initializers have become graph inputs of the same type and shape."""
    skeleton = ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.value_info.extend(model.graph.value_info)
    graph.output.extend(model.graph.output)
    initializers = {t.name for t in model.graph.initializer}
    graph.input.extend(i for i in model.graph.input if i.name not in initializers)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= _LARGEST_READ_CONSTANT and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return skeleton


def _value_infos(graph: GraphProto) -> Iterable[ValueInfoProto]:
    return (info for group in (graph.value_info, graph.input, graph.output) for info in group)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else None


def _constant_tensor(attribute: onnx.AttributeProto) -> TensorProto:
    """The tensor that a Constant node's one attribute describes (``value``, ``value_ints``, ``value_float``, ...)."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return value
    dtype = np.float32 if "float" in attribute.name else np.int64 if "int" in attribute.name else np.object_
    return numpy_helper.from_array(np.asarray(value, dtype=dtype))
