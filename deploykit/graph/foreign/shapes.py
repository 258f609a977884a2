"""Sizes that a graph asks itself for although they are fixed: the "same" padding of Keras, a reshape by height and width.

They come as Shape, then Gather or Slice, then arithmetic. Only the batch stays open in deploykit's graphs, so everything else is a
constant, which the gradient rules and TensorRT want to see.
"""

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from deploykit.graph.foreign.names import set_nodes
from deploykit.graph.foreign.simplify import simplify_graph
from deploykit.graph.tensors import Shape, Tensors, describe_tensors


def fold_shapes(model: ModelProto) -> None:
    """Before: the picture's height and width are fixed and its batch is open. After: no node computes from other sizes."""
    while _fold_once(model):
        # A padding that has become known makes the sizes behind it known.
        simplify_graph(model)


def _fold_once(model: ModelProto) -> bool:
    tensors = describe_tensors(model)
    kept = []
    for node in model.graph.node:
        value = _fixed_sizes(node, tensors)
        if value is None:
            kept.append(node)
        else:
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    folded = len(kept) < len(model.graph.node)
    set_nodes(model.graph, kept)
    return folded


def _fixed_sizes(node: NodeProto, tensors: Tensors) -> np.ndarray | None:
    """The value of a node that picks sizes of a tensor, all of them fixed; None for any other node."""
    if node.op_type == "Shape":
        return _as_array(_asked(node, tensors))
    maker = tensors.producers.get(node.input[0]) if node.op_type in ("Gather", "Slice") else None
    if maker is None or maker.op_type != "Shape":
        return None
    sizes = _asked(maker, tensors)
    chosen = [tensors.constant(name) for name in node.input[1:]]
    if sizes is None or any(c is None for c in chosen):
        return None
    if node.op_type == "Gather":
        index = np.asarray(chosen[0])
        picked = _as_array(tuple(sizes[i] for i in index.reshape(-1)))
        return picked.reshape(index.shape) if picked is not None else None
    start, stop, step = (int(np.asarray(c).reshape(-1)[0]) for c in (chosen[0], chosen[1], chosen[3] if len(chosen) > 3 else 1))
    return _as_array(sizes[start:stop:step])


def _asked(node: NodeProto, tensors: Tensors) -> Shape | None:
    """The dimensions that a Shape node gives; None where not even the rank is known."""
    bounds = {a.name: a.i for a in node.attribute}
    shape = tensors.shapes.get(node.input[0])
    return None if shape is None else shape[bounds.get("start", 0) : bounds.get("end", len(shape))]


def _as_array(sizes: Shape | None) -> np.ndarray | None:
    return np.array(sizes, np.int64) if sizes is not None and all(isinstance(d, int) for d in sizes) else None
