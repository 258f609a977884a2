"""Puts the pixel input in front of a graph: uint8 [N, H, W, 3] RGB in, normalized inside.

Before: a graph whose input ``image`` is normalized float32 [N, 3, H, W]. After: the same graph under the same names, with four or
five nodes in front. A C++ caller cannot get mean, std or channel order wrong, and the copy to a GPU is a quarter of the size.

`embed_resize` goes one step further: one photo uint8 [1, H, W, 3] at its own size in, resized inside. `remove_resize` goes back.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.graph.resize_normalize import (
    DOMAIN,
    RESIZE_NORMALIZE,
    levels_only,
    normalization_of,
    resize_normalize_function,
    resize_normalize_node,
)
from deploykit.graph.versions import FUNCTIONS_IR_VERSION, opset_of
from deploykit.spec import ImageSpec

IMAGE_NAME = "image"
NORMALIZED_NAME = "normalized"
"""The float tensor behind the pixel input, where a gradient with respect to the picture is taken."""


def add_pixel_input(graph: onnx.ModelProto, spec: ImageSpec) -> None:
    """Replace the float input of a graph by pixels, in place.

    normalized = (pixel / 255 - mean) / std is computed as pixel * scale + bias: see `normalization_of`.

    Args:
        graph: with an input ``image`` float32 [N, 3, H, W].
        spec: size, mean, std and colour order of the weights.

    Raises:
        GraphError: no such input, or another size than the spec's.
    """
    body = graph.graph
    old = next((i for i in body.input if i.name == IMAGE_NAME), None)
    expected = f"{IMAGE_NAME} float32 [N, 3, {spec.height}, {spec.width}]"
    if old is None:
        raise GraphError(f"the graph's inputs are {', '.join(i.name for i in body.input)}, expected {expected}")
    dims = [d.dim_param or d.dim_value for d in old.type.tensor_type.shape.dim]
    if old.type.tensor_type.elem_type != TensorProto.FLOAT or dims[1:] != [3, spec.height, spec.width]:
        raise GraphError(f"the graph's input {IMAGE_NAME} has shape {dims}, expected {expected}")
    for node in body.node:
        for i, name in enumerate(node.input):
            if name == IMAGE_NAME:
                node.input[i] = NORMALIZED_NAME
    nodes, constants = _normalization(spec)
    body.initializer.extend(constants)
    _set_nodes(body, [*nodes, *body.node])
    body.value_info.append(helper.make_tensor_value_info(NORMALIZED_NAME, TensorProto.FLOAT, dims))
    old.CopyFrom(helper.make_tensor_value_info(IMAGE_NAME, TensorProto.UINT8, [dims[0], spec.height, spec.width, 3]))


def embed_resize(graph: onnx.ModelProto, spec: ImageSpec) -> onnx.ModelProto:
    """A graph with the pixel input -> one that resizes and crops too: ``image`` uint8 [1, H, W, 3], H and W dynamic.

    The batch is 1, because the photos of a batch differ in size. Nodes, weights and outputs are the same. A graph that normalizes
    its pixels otherwise than `add_pixel_input` does, as an INT8 graph for CPUs, is given bytes, which TensorRT would not move.

    Args:
        graph: as `add_pixel_input` leaves it, or made from such a graph: at another precision, or with outputs that explain.

    Raises:
        GraphError: its input is not the pixels of this spec.
    """
    old = next((i for i in graph.graph.input if i.name == IMAGE_NAME), None)
    dims = [] if old is None else [d.dim_param or d.dim_value for d in old.type.tensor_type.shape.dim]
    if old is None or old.type.tensor_type.elem_type != TensorProto.UINT8 or dims[1:] != [spec.height, spec.width, 3]:
        raise GraphError(
            f"the graph's input {IMAGE_NAME} is {dims or 'missing'}, expected uint8 [N, {spec.height}, {spec.width}, 3]"
        )
    photo = _copy(graph)
    body = photo.graph
    front = {node.name: node for node in _normalization(spec)[0]}
    names = {node.name for node in body.node if front.get(node.name) == node}
    if len(names) == len(front):
        nodes = [resize_normalize_node(IMAGE_NAME, NORMALIZED_NAME, spec)]
        _set_nodes(body, [*nodes, *(n for n in body.node if n.name not in names)])
        _drop_unread(body, [constant.name for constant in _normalization(spec)[1]])
    else:
        _set_nodes(body, [*_resized_bytes(body, spec), *body.node])
    photo.functions.append(resize_normalize_function(spec, opset_of(photo)))
    if not any(o.domain == DOMAIN for o in photo.opset_import):
        photo.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    photo.ir_version = max(photo.ir_version, FUNCTIONS_IR_VERSION)
    _set_batch(body, 1)
    _set_type(body.input, IMAGE_NAME, TensorProto.UINT8, [1, "H", "W", 3])
    _set_type(body.value_info, NORMALIZED_NAME, TensorProto.FLOAT, [1, 3, spec.height, spec.width])
    return photo


def resizes(graph: onnx.ModelProto) -> bool:
    """Whether a graph resizes the photos that it is given."""
    return any(node.op_type == RESIZE_NORMALIZE and node.domain == DOMAIN for node in graph.graph.node)


def remove_resize(graph: onnx.ModelProto, spec: ImageSpec) -> onnx.ModelProto:
    """The inverse of `embed_resize`: the graph with the pixel input, whose batch is dynamic again.

    Raises:
        GraphError: the graph does not resize.
    """
    if not resizes(graph):
        raise GraphError(f"the graph has no node {DOMAIN}.{RESIZE_NORMALIZE}, so there is no resize to remove")
    plain = _copy(graph)
    body = plain.graph
    nodes, constants = _normalization(spec)
    _set_nodes(body, [*nodes, *(n for n in body.node if n.op_type != RESIZE_NORMALIZE)])
    body.initializer.extend(constants)
    kept = [f for f in plain.functions if f.name != RESIZE_NORMALIZE]
    del plain.functions[:]
    plain.functions.extend(kept)
    _set_batch(body, "N")
    _set_type(body.input, IMAGE_NAME, TensorProto.UINT8, ["N", spec.height, spec.width, 3])
    _set_type(body.value_info, NORMALIZED_NAME, TensorProto.FLOAT, ["N", 3, spec.height, spec.width])
    return plain


def _resized_bytes(body: onnx.GraphProto, spec: ImageSpec) -> list[onnx.NodeProto]:
    """Nodes that give the resized photo as bytes [1, height, width, 3], which the readers of ``image`` read from now on."""
    for node in body.node:
        for i, name in enumerate(node.input):
            if name == IMAGE_NAME:
                node.input[i] = "pixels_resized"
    return [
        resize_normalize_node(IMAGE_NAME, "pixels_levels", levels_only(spec)),
        helper.make_node("Transpose", ["pixels_levels"], ["pixels_last"], name="pixels/Transpose_back", perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["pixels_last"], ["pixels_resized"], name="pixels/Cast_back", to=TensorProto.UINT8),
    ]


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _set_nodes(body: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    nodes = list(nodes)  # before the old ones go: protobuf lists have no cheap insert
    del body.node[:]
    body.node.extend(nodes)


def _drop_unread(body: onnx.GraphProto, names: Iterable[str]) -> None:
    """Remove those of the named constants that no node reads any more."""
    read = {name for node in body.node for name in node.input}
    gone = set(names) - read
    kept = [tensor for tensor in body.initializer if tensor.name not in gone]
    del body.initializer[:]
    body.initializer.extend(kept)


def _set_batch(body: onnx.GraphProto, batch: int | str) -> None:
    """The first dimension of every input and output. Inner shapes may keep their symbol: it stands for any size."""
    for value in [*body.input, *body.output]:
        dim = value.type.tensor_type.shape.dim[0]
        if isinstance(batch, int):
            dim.dim_value = batch
        else:
            dim.dim_param = batch


def _set_type(values: Iterable[onnx.ValueInfoProto], name: str, dtype: int, dims: list[int | str]) -> None:
    for value in values:
        if value.name == name:
            value.CopyFrom(helper.make_tensor_value_info(name, dtype, dims))


def _normalization(spec: ImageSpec) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    scale, bias = normalization_of(spec)
    constants = [
        numpy_helper.from_array(scale.reshape(1, 3, 1, 1), "normalize_scale"),
        numpy_helper.from_array(bias.reshape(1, 3, 1, 1), "normalize_bias"),
    ]
    # TensorRT moves no uint8: Cast must come before Transpose.
    nodes = [
        helper.make_node("Cast", [IMAGE_NAME], ["pixels_float"], name="pixels/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels_float"], ["pixels_planes"], name="pixels/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["pixels_planes", "normalize_scale"], ["pixels_scaled"], name="pixels/Mul"),
        helper.make_node("Add", ["pixels_scaled", "normalize_bias"], [NORMALIZED_NAME], name="pixels/Add"),
    ]
    if spec.colour_order == "bgr":
        # Mean and std are in RGB order, so the swap comes after them.
        nodes[-1].output[0] = "pixels_normalized_rgb"
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr_from_rgb"))
        swapped = ["pixels_normalized_rgb", "bgr_from_rgb"]
        nodes.append(helper.make_node("Gather", swapped, [NORMALIZED_NAME], name="pixels/Gather", axis=1))
    return nodes, constants
