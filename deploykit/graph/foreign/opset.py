"""What the operators of a graph are written in: inlined functions, one precision, opset 18 at least."""

from collections.abc import Iterable

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    helper,
    inliner,
    numpy_helper,
    version_converter,
)

from deploykit.errors import GraphError
from deploykit.graph.rules.step import describe_node
from deploykit.graph.versions import DEFAULT_OPSET, opset_of, set_ir_version

_STANDARD = ("", "ai.onnx")


def inline_functions(model: ModelProto) -> ModelProto:
    """Before: nodes may call functions that the file defines. After: every node is an operator; other domains have none left.

    Raises:
        GraphError: an operator that is not ONNX's own, such as com.microsoft's fused ones, or ImageScaler of the first days.
    """
    inlined: ModelProto = inliner.inline_local_functions(model) if model.functions else model
    strangers = [n for n in _all_nodes(inlined.graph) if n.domain not in _STANDARD or not defs.has(n.op_type)]
    if strangers:
        node = strangers[0]
        raise GraphError(
            f"{describe_node(node)} is no operator of ONNX, and only those can be run everywhere and differentiated"
            + (f" ({len(strangers)} nodes are not)" if len(strangers) > 1 else ""),
            hint="export the model without a runtime's own optimizations",
        )
    for node in _all_nodes(inlined.graph):
        node.domain = ""
    standard = [helper.make_opsetid("", opset_of(inlined))]
    del inlined.opset_import[:]
    inlined.opset_import.extend(standard)
    return inlined


def raise_opset(model: ModelProto) -> ModelProto:
    """Before: any opset. After: `DEFAULT_OPSET` or the file's own where that is newer, and the lowest IR version that goes with it.

    Raises:
        GraphError: onnx's converter does not know the way for an operator.
    """
    before = opset_of(model)
    if before < DEFAULT_OPSET:
        try:
            model = version_converter.convert_version(model, DEFAULT_OPSET)
        except (RuntimeError, ValueError, version_converter.ConvertError) as error:
            # The converter's own assertions begin with a place in its source.
            reason = str(error).strip().splitlines()[0].rpartition("failed: ")[2] if str(error).strip() else type(error).__name__
            raise GraphError(
                f"the graph is written in opset {before} and does not convert to {DEFAULT_OPSET}: {reason}",
                hint=f"export the model again with opset {DEFAULT_OPSET} or newer",
            ) from error
    set_ir_version(model)
    return model


def widen_half_precision(model: ModelProto) -> bool:
    """Before: any graph. After: it computes in float32 what it computed in float16; every weight keeps its value.

    A bundle's ``fp32`` graph is what the lower precisions are made from and compared with, so it must not be one of them.

    Returns:
        Whether there was anything to widen.
    """
    found = False
    for graph in _all_graphs(model.graph):
        for tensor in graph.initializer:
            found |= _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    found |= _widen(attribute.t)
                elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                    attribute.i, found = TensorProto.FLOAT, True
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type, found = TensorProto.FLOAT, True
    return found


def _widen(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT16:
        return False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return True


def _all_graphs(graph: GraphProto) -> Iterable[GraphProto]:
    """The graph and the bodies of its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _all_graphs(attribute.g)


def _all_nodes(graph: GraphProto) -> Iterable[NodeProto]:
    for inner in _all_graphs(graph):
        yield from inner.node
