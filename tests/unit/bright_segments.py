"""A segmentation net so small that its answers can be told beforehand: it says where a picture is bright and where dark.

Its layer ``features`` has the picture's size and two channels, max(0, x) and max(0, -x) with x = grey level from -1 to 1. Behind it
stand means of 4 x 4 pixels and a 1 x 1 convolution with three classes, so logits have a quarter of the picture's size:
``background`` scores 0.25 everywhere, ``bright`` four times channel 1, ``dark`` four times channel 2.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.bundle import Bundle
from deploykit.graph.pixels import add_pixel_input
from deploykit.graph.versions import set_ir_version
from deploykit.spec import ImageSpec
from tests.unit.bright_bundle import make_bundle

WHOLE = ImageSpec(32, 32, None, resize_rule="exact", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CROPPED = ImageSpec(32, 32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
LABELS = ("background", "bright", "dark")


def segments_graph(spec: ImageSpec, *, pixels: bool = True) -> onnx.ModelProto:
    """The predict graph."""
    grey = np.full((1, 3, 1, 1), 1 / 3)
    weights = {
        "kernel": np.concatenate([grey, -grey]),
        "head": np.array([[0, 0], [4, 0], [0, 4]]).reshape(3, 2, 1, 1),
        "bias": np.array([0.25, 0, 0]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["signed"], name="conv"),
        helper.make_node("Relu", ["signed"], ["features"], name="relu"),
        helper.make_node("AveragePool", ["features"], ["means"], name="pool", kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["means", "head", "bias"], ["logits"], name="scores"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, spec.height, spec.width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, spec.height // 4, spec.width // 4])
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_model(
        helper.make_graph(nodes, "segments", [image], [logits], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    set_ir_version(graph)
    if pixels:
        add_pixel_input(graph, spec)
    return graph


def make_segments_bundle(path: Path, spec: ImageSpec = WHOLE, **options: Any) -> Bundle:
    """Write a bundle of it, with its explain graphs."""
    graph = segments_graph(spec, pixels=options.get("pixels", True))
    return make_bundle(path, graph, **{"spec": spec, "labels": LABELS, "task": "segmentation", **options})


def spotted(size: tuple[int, int], spot: tuple[int, int, int, int], colour: int = 255) -> np.ndarray:
    """A grey picture of that width and height with a spot (left, top, right, bottom): uint8 [height, width, 3]."""
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    left, top, right, bottom = spot
    pixels[top:bottom, left:right] = colour
    return pixels
