"""A graph for one batch made into a graph for any.

Converters often write the batch that they traced into the graph: into the input's shape, into the constants of Reshape and Expand,
and into constants that are joined to every image. Changing the input's shape alone gives a file that looks dynamic, and fails or
mixes rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.foreign.names import set_nodes
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
    batch that the constant was made for; so does one whose shape the graph computes. Whether it is right for others is for a run to
    show.

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
    _fix_reshapes(model, batch or 1)
    _set_batch(model, SYMBOL)
    return freed


def _fix_reshapes(model: ModelProto, batch: int) -> None:
    """A Reshape to a shape that the graph computes, of which only the batch varies, gets that shape as a constant.

    With a symbol for the batch, shape inference gives up on such a computation, and everything behind it would count as unknown.
    """
    constants = {t.name for t in model.graph.initializer}
    once, twice = _shapes(model, batch), _shapes(model, 2 * batch)
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] not in constants:
            a, b = _numbers(once, node.output[0]), _numbers(twice, node.output[0])
            if a and b == (2 * a[0], *a[1:]):
                node.input[1] = _add_constant(model, f"{node.output[0]}/shape", np.array([-1, *a[1:]], np.int64))


def _first_frozen(model: ModelProto, batch: int) -> tuple[NodeProto, Sizes] | None:
    """The first node whose result does not double when the batch does, with the result's shape; None where all is well."""
    once, twice = _shapes(model, batch), _shapes(model, 2 * batch)
    grows = {model.graph.input[0].name}
    moved: tuple[NodeProto, Sizes] | None = None
    unknown: tuple[NodeProto, Sizes] | None = None
    for node in model.graph.node:
        if node.op_type in FLAT or grows.isdisjoint(read_by(node)):
            continue
        grows.update(node.output)
        a, b = _numbers(once, node.output[0]), _numbers(twice, node.output[0])
        if not a or not b:
            # Shapes that contradict each other leave the result unknown, so the reason lies at or before this node.
            unknown = unknown or (node, a)
        elif np.prod(a) * 2 != np.prod(b):
            return moved or (node, a)
        elif node.op_type == "Reshape" and a[0] == b[0]:
            # It grows elsewhere, as [1, -1] does. That may be meant, and is the likely reason if something behind does not grow.
            moved = moved or (node, a)
    name = model.graph.output[0].name
    a, b = _numbers(once, name), _numbers(twice, name)
    return None if a and b == (2 * a[0], *a[1:]) else moved or unknown or (model.graph.node[-1], a)


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
    """Take the batch out of what a node reads; False where it does not stand there."""
    constants = {t.name: t for t in model.graph.initializer}
    if node.op_type == "Concat":
        return _repeat_constants(model, node, constants)
    if node.op_type not in ("Reshape", "Expand") or node.input[1] not in constants or not shape:
        return False
    # Expand broadcasts, so a 1 keeps whatever batch the data has.
    first = -1 if node.op_type == "Reshape" else 1
    node.input[1] = _add_constant(model, f"{node.output[0]}/shape", np.array([first, *shape[1:]], np.int64))
    return True


def _repeat_constants(model: ModelProto, node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Have the constants that a Concat joins to every image, such as the class token of a ViT, repeat along the batch."""
    axis = next(a.i for a in node.attribute if a.name == "axis")
    images = [name for name in node.input if name not in constants]
    if axis == 0 or not images or len(images) == len(node.input):
        return False
    batch = f"{node.output[0]}/batch"
    nodes = [helper.make_node("Shape", [images[0]], [batch], name=batch, start=0, end=1)]
    for i, name in enumerate(node.input):
        if name in constants:
            # One row: those of a larger batch are the same, or the comparison with the file will tell.
            token = numpy_helper.to_array(constants[name])[:1]
            row = _add_constant(model, f"{name}/row", token)
            ones = _add_constant(model, f"{name}/ones", np.ones(token.ndim - 1, np.int64))
            nodes.append(helper.make_node("Concat", [batch, ones], [f"{name}/times"], name=f"{name}/times", axis=0))
            nodes.append(helper.make_node("Expand", [row, f"{name}/times"], [f"{name}/repeated"], name=f"{name}/repeated"))
            node.input[i] = f"{name}/repeated"
    place = list(model.graph.node).index(node)
    set_nodes(model.graph, [*model.graph.node[:place], *nodes, *model.graph.node[place:]])
    return True


def _add_constant(model: ModelProto, name: str, value: npt.NDArray[Any]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name
