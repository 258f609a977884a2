"""A graph for one batch made into a graph for any.

Converters often write the batch that they traced into the graph: into the input's shape, and into the constants of Reshape and
Expand. Changing the input's shape alone gives a file that looks dynamic, and fails or mixes rows.
"""

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.layers import read_by
from deploykit.graph.rules import FLAT
from deploykit.graph.rules.step import describe_node
from deploykit.graph.tensors import Tensors, describe_tensors

SYMBOL = "N"

Sizes = tuple[int, ...]


def free_batch(model: ModelProto, batch: int | None) -> list[str]:
    """Before: one input, one output, height and width fixed, no notes on inner shapes. After: dimension 0 of the input is ``N``,
    and as far as shapes tell, every tensor made of the picture grows with it.

    A Reshape whose constant shape holds a batch gets -1 in its place and the other dimensions as numbers, which is the same for the
    batch that the constant was made for. Whether it is right for others is for a run to show.

    Args:
        batch: what the graph was made for; None where its input says that any will do.

    Returns:
        The nodes that were changed, in words.

    Raises:
        GraphError: the batch stands elsewhere; the node is named.
    """
    freed: list[str] = []
    while (frozen := _first_frozen(model, batch or 1)) is not None:
        node, shape = frozen
        name = describe_node(node)
        if name in freed or not _free(model, node, shape):
            raise GraphError(
                f"the graph only takes batches of {batch or 1}: {name} does not grow with the batch",
                hint="export the model again with a dynamic batch",
            )
        freed.append(name)
    _set_batch(model, SYMBOL)
    return freed


def _first_frozen(model: ModelProto, batch: int) -> tuple[NodeProto, Sizes] | None:
    """The first node whose result does not double when the batch does, with the result's shape; None where all is well."""
    once, twice = _shapes(model, batch), _shapes(model, 2 * batch)
    grows = {model.graph.input[0].name}
    suspect: tuple[NodeProto, Sizes] | None = None
    for node in model.graph.node:
        if node.op_type in FLAT or grows.isdisjoint(read_by(node)):
            continue
        grows.update(node.output)
        a, b = _numbers(once, node.output[0]), _numbers(twice, node.output[0])
        if not a or not b:
            # Shapes that contradict each other leave the result unknown, so the reason lies at or before this node.
            suspect = suspect or (node, a)
            continue
        if np.prod(a) * 2 != np.prod(b):
            return node, a
        if suspect is None and node.op_type == "Reshape" and a[0] == b[0]:
            suspect = node, a
    name = model.graph.output[0].name
    a, b = _numbers(once, name), _numbers(twice, name)
    return None if a and b == (2 * a[0], *a[1:]) else suspect or (model.graph.node[-1], a)


def _numbers(tensors: Tensors, name: str) -> Sizes:
    """A tensor's dimensions; empty where they are not all known."""
    shape = tensors.shapes.get(name, ())
    sizes = tuple(d for d in shape if isinstance(d, int))
    return sizes if len(sizes) == len(shape) else ()


def _shapes(model: ModelProto, batch: int) -> Tensors:
    _set_batch(model, batch)
    return describe_tensors(model)


def _set_batch(model: ModelProto, batch: int | str) -> None:
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    if isinstance(batch, str):
        dim.dim_param = batch
    else:
        dim.dim_value = batch
    # A declared output shape would be believed.
    name = model.graph.output[0].name
    model.graph.output[0].CopyFrom(ValueInfoProto(name=name))


def _free(model: ModelProto, node: NodeProto, shape: Sizes) -> bool:
    """Take the batch out of a node's constant shape; False where there is none."""
    constant = next((t for t in model.graph.initializer if node.op_type in ("Reshape", "Expand") and t.name == node.input[1]), None)
    if constant is None or not shape:
        return False
    # Expand broadcasts, so a 1 keeps whatever batch the data has.
    first = -1 if node.op_type == "Reshape" else 1
    name = f"{node.output[0]}/shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array([first, *shape[1:]], np.int64), name))
    node.input[1] = name
    return True
