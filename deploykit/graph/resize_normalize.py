"""The operator ``deploykit.ResizeNormalize``: a photo's pixels at its own size in, the network's normalized picture out.

    image uint8 [1, H, W, 3] RGB  ->  normalized float32 [1, 3, height, width]

It is a model-local function whose body is standard operators: every runtime executes it, and TensorRT takes a plugin of that name
instead where one is registered. The attributes are the image spec's numbers (see `resize_normalize_node`).

The body is Pillow's resize (`deploykit.graph.resize_body`), then the normalization of the pixel input (`deploykit.graph.pixels`).
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper

from deploykit.graph.resize_body import Body, resized_levels
from deploykit.graph.versions import DEFAULT_OPSET, FUNCTIONS_IR_VERSION
from deploykit.spec import ImageSpec

DOMAIN = "deploykit"
RESIZE_NORMALIZE = "ResizeNormalize"

_ATTRIBUTES = ["height", "width", "resize_size", "cubic", "channels", "scale", "bias"]


def resize_normalize_node(image: str, normalized: str, spec: ImageSpec) -> NodeProto:
    """A call of the operator.

    Its attributes: ``height`` and ``width`` of the output; ``resize_size``, the photo's shorter side after the resize, 0 under the
    exact rule; ``cubic``, 1 for bicubic and 0 for bilinear; ``channels``, the photo's channel behind each of the output's;
    ``scale`` and ``bias`` in the output's order: normalized = grey level * scale + bias.
    """
    channels = [0, 1, 2] if spec.colour_order == "rgb" else [2, 1, 0]
    scale, bias = normalization_of(spec)
    return helper.make_node(
        RESIZE_NORMALIZE,
        [image],
        [normalized],
        name=f"pixels/{RESIZE_NORMALIZE}",
        domain=DOMAIN,
        height=spec.height,
        width=spec.width,
        resize_size=spec.resize_size or 0,
        cubic=int(spec.interpolation == "bicubic"),
        channels=channels,
        scale=[float(scale[c]) for c in channels],
        bias=[float(bias[c]) for c in channels],
    )


def make_resize_graph(spec: ImageSpec) -> onnx.ModelProto:
    """The operator alone, without normalization: ``image`` uint8 [1, H, W, 3] -> ``levels`` float32 [1, 3, height, width], RGB."""
    plain = levels_only(spec)
    graph = helper.make_graph(
        [resize_normalize_node("image", "levels", plain)],
        "resize",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3])],
        [helper.make_tensor_value_info("levels", TensorProto.FLOAT, [1, 3, spec.height, spec.width])],
    )
    return helper.make_model(
        graph,
        functions=[resize_normalize_function(plain, DEFAULT_OPSET)],
        opset_imports=[helper.make_opsetid("", DEFAULT_OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=FUNCTIONS_IR_VERSION,
    )


def levels_only(spec: ImageSpec) -> ImageSpec:
    """The same resize and crop, whose normalization leaves RGB grey levels as they are."""
    return replace(spec, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), colour_order="rgb")


def normalization_of(spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of grey levels, float32 [3] in RGB order, each rounded once from float64: (pixel / 255 - mean) / std is
    pixel * scale + bias with scale = 1 / (255 std) and bias = -mean / std."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def resize_normalize_function(spec: ImageSpec, opset: int) -> FunctionProto:
    """The operator's body for specs of this size, resize rule and interpolation.

    The numbers stand in the attributes, so that a plugin and the body read the same ones.
    """
    body = Body()
    # TensorRT moves no uint8: Cast must come before Transpose.
    photo = body("Transpose", body("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    picture = resized_levels(body, photo, "image", spec)
    ordered = body("Gather", picture, body.attribute("channels", "value_ints"), axis=1)
    scale, bias = (body("Reshape", body.attribute(name, "value_floats"), [1, 3, 1, 1]) for name in ("scale", "bias"))
    body("Add", body("Mul", ordered, scale), bias, output="normalized")
    return helper.make_function(
        DOMAIN,
        RESIZE_NORMALIZE,
        ["image"],
        ["normalized"],
        body.nodes,
        [helper.make_opsetid("", opset)],
        attributes=_ATTRIBUTES,
        doc_string=f"{spec.interpolation} antialiased resize ({spec.resize_rule}), centre crop, normalization",
    )
