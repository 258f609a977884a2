"""Puts the pixel input in front of a graph: uint8 [N, H, W, 3] RGB in, normalized inside.

Before: a graph whose input ``image`` is normalized float32 [N, 3, H, W]. After: the same graph under the same names, with three
or four nodes in front. A C++ caller cannot get mean, std or channel order wrong, and the copy to a GPU is a quarter of the size.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import GraphError
from deploykit.spec import ImageSpec

IMAGE_NAME = "image"
NORMALIZED_NAME = "normalized"
"""The float tensor behind the pixel input, where a gradient with respect to the picture is taken."""


def add_pixel_input(graph: onnx.ModelProto, spec: ImageSpec) -> None:
    """Replace the float input of a graph by pixels, in place.

    normalized = (pixel / 255 - mean) / std is computed as pixel * scale + bias with scale = 1 / (255 std) and bias = -mean / std,
    both rounded once from float64.

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
    # Protobuf lists have no cheap insert: put the new nodes behind, then move them to the front.
    rest = list(body.node)
    del body.node[:]
    body.node.extend([*nodes, *rest])
    body.value_info.append(helper.make_tensor_value_info(NORMALIZED_NAME, TensorProto.FLOAT, dims))
    old.CopyFrom(helper.make_tensor_value_info(IMAGE_NAME, TensorProto.UINT8, [dims[0], spec.height, spec.width, 3]))


def _normalization(spec: ImageSpec) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    scale, bias = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
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
