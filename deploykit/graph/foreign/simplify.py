"""What a graph says in too many words: constants as nodes, copies of tensors, arithmetic on constants, parts that nothing reads.

The gradient rules and the quantizer look at neighbours (a convolution, then its activation), and converters from other frameworks
put a hundred nodes between them that compute nothing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploykit.graph.foreign.names import redirect_readers, set_nodes
from deploykit.graph.layers import read_by
from deploykit.graph.tensors import Tensors, describe_tensors

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

# Operators that are exact or nearly so on constants. Quantized weights stay as they are: folding Q/DQ would undo the quantization.
_FOLDED = frozenset(
    {
        *("Abs", "Add", "Ceil", "Div", "Floor", "Max", "Min", "Mod", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"),
        *("And", "Equal", "Greater", "Less", "Not", "Or", "Where"),
        *("Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Range", "Reshape", "ScatterND", "Shape", "Size"),
        *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
# A folded constant may be this much larger than what it is made of, or ConstantOfShape would fill the file.
_MOST_GROWTH = 1024
# From here on initializers need not be inputs.
_WEIGHTS_APART_IR_VERSION = 4


def simplify_graph(model: ModelProto) -> None:
    """Before: any graph in opset 13 or newer. After: its constants are initializers, no node only repeats a tensor or computes from
    constants alone, everything left leads to an output, and the notes on inner shapes are gone (they may be about another batch).
    """
    del model.graph.value_info[:]
    _move_constants(model)
    _drop_copies(model)
    _fold_constants(model)
    drop_unread(model)


def drop_weight_inputs(model: ModelProto) -> None:
    """Before: weights may stand among the inputs too, as the first IR versions asked for. After: inputs are what a caller gives."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _WEIGHTS_APART_IR_VERSION)


def drop_unread(model: ModelProto) -> None:
    """After: every node, input and initializer leads to an output."""
    graph = model.graph
    wanted = {o.name for o in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(read_by(node))
    set_nodes(graph, reversed(kept))
    for named in (graph.initializer, graph.input):
        read = [t for t in named if t.name in wanted]
        if len(read) < len(named):
            del named[:]
            named.extend(read)  # type: ignore[arg-type]


def _move_constants(model: ModelProto) -> None:
    """Values of Constant nodes become initializers of the same name; sparse and text constants stay."""
    constants = describe_tensors(model).constants
    kept = []
    for node in model.graph.node:
        tensor = constants.get(node.output[0]) if node.op_type == "Constant" else None
        if tensor is None or tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
            kept.append(node)
            continue
        moved = TensorProto()
        moved.CopyFrom(tensor)
        moved.name = node.output[0]
        model.graph.initializer.append(moved)
    set_nodes(model.graph, kept)


def _drop_copies(model: ModelProto) -> None:
    """Readers of an Identity, of a Cast to the type that a tensor has, and of a Dropout read the tensor itself; so do outputs."""
    tensors = describe_tensors(model)
    outputs = {o.name: o for o in model.graph.output}
    source_of: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        source = source_of.get(node.input[0], node.input[0]) if node.input else ""
        # An output needs a maker, and cannot be an input or a weight.
        if not _is_copy(node, tensors) or (node.output[0] in outputs and source not in tensors.producers):
            kept.append(node)
            continue
        redirect_readers(model.graph, node.output[0], source)
        source_of[node.output[0]] = source
        if node.output[0] in outputs:
            outputs[node.output[0]].name = source
    set_nodes(model.graph, kept)


def _is_copy(node: NodeProto, tensors: Tensors) -> bool:
    if node.op_type == "Cast":
        to = next(a.i for a in node.attribute if a.name == "to")
        return tensors.types.get(node.input[0]) == to
    if node.op_type == "Dropout":
        live = tensors.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.array(False)
        return live is not None and not live.any() and not any(node.output[1:])
    return node.op_type == "Identity"


def _fold_constants(model: ModelProto) -> None:
    known: Arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        result = _evaluate(node, known, model) if _is_foldable(node, known) else None
        if result is None:
            kept.append(node)
            continue
        known[node.output[0]] = result
        model.graph.initializer.append(numpy_helper.from_array(result, node.output[0]))
    set_nodes(model.graph, kept)


def _is_foldable(node: NodeProto, known: Arrays) -> bool:
    return (
        node.op_type in _FOLDED
        and len(node.output) == 1
        and any(node.input)
        and all(name in known for name in node.input if name)
        and not any(a.type == AttributeProto.GRAPH for a in node.attribute)
    )


def _evaluate(node: NodeProto, known: Arrays, model: ModelProto) -> Array | None:
    """The node's value by ONNX's reference implementation; None where it is too large to keep."""
    names = list(dict.fromkeys(name for name in node.input if name))
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(known[n].dtype), list(known[n].shape)) for n in names
    ]
    graph = helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    alone = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    values: Any = ReferenceEvaluator(alone).run(None, {name: known[name] for name in names})
    result = np.asarray(values[0])
    return result if result.size <= _MOST_GROWTH + sum(known[name].size for name in names) else None
