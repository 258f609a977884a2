"""A bundle of a network so small that its explanations can be told beforehand: it sees where a picture is bright and where dark.

Its layer ``features`` has the picture's size and two channels, max(0, x) and max(0, -x) with x = grey level from -1 to 1. Behind it
stand average pooling and a linear layer with three classes: ``bright`` (+ channel 1), ``dark`` (+ channel 2), and ``neither``, for
which everything speaks against: its map is zero everywhere.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit.bundle import Bundle, LayerRecord, Manifest, ModelRecord, WeightsRecord, new_bundle
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.input_gradients import make_input_gradients_graph
from deploykit.graph.layers import resolve_layer
from deploykit.graph.pixels import add_pixel_input
from deploykit.graph.tail import make_tail_graph
from deploykit.graph.versions import set_ir_version
from deploykit.spec import ImageSpec

SPEC = ImageSpec(32, 32, 36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
LABELS = ("bright", "dark", "neither")


def bright_graph(spec: ImageSpec, *, pixels: bool = True) -> onnx.ModelProto:
    """The predict graph."""
    grey = np.full((1, 3, 1, 1), 1 / 3)
    weights = {
        "kernel": np.concatenate([grey, -grey]),
        "axes": np.array([2, 3]),
        "head": np.array([[1, 0], [0, 1], [-1, -1]]),
        "bias": np.array([0, 0, 0.1]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["signed"], name="conv"),
        helper.make_node("Relu", ["signed"], ["features"], name="relu"),
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], name="pool", keepdims=0),
        helper.make_node("Gemm", ["pooled", "head", "bias"], ["logits"], name="linear", transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, spec.height, spec.width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    constants = [
        numpy_helper.from_array(value.astype(np.int64 if name == "axes" else np.float32), name) for name, value in weights.items()
    ]
    graph = helper.make_model(
        helper.make_graph(nodes, "bright", [image], [logits], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    set_ir_version(graph)
    if pixels:
        add_pixel_input(graph, spec)
    return graph


def make_bundle(
    path: Path,
    predict: onnx.ModelProto | None = None,
    *,
    spec: ImageSpec = SPEC,
    labels: Sequence[str] | None = LABELS,
    layers: Sequence[str] = ("features",),
    pixels: bool = True,
    tail: bool = True,
    input_gradients: bool = False,
    classes: int = 3,
    task: str = "classification",
) -> Bundle:
    """Write a bundle of a graph with its explain graphs, as ``export`` does but without the checks."""
    predict = predict or bright_graph(spec, pixels=pixels)
    graphs = {"predict": predict, "explain": make_explain_graph(predict, layers)}
    if tail:
        graphs["explain_tail"] = make_tail_graph(predict, layers[0])
    if input_gradients:
        graphs["input_gradients"] = make_input_gradients_graph(predict)
    found = [resolve_layer(predict, name) for name in layers]
    with new_bundle(
        path,
        model=ModelRecord("bright", "Test", classes, 8, task),
        weights=WeightsRecord("made by hand", "0" * 64, True, "float32", "none"),
        image=spec,
        input="pixels" if pixels else "float",
        labels_source="made by hand" if labels else None,
        layers=tuple(LayerRecord(n, f.tensor, f.channels, f.height, f.width) for n, f in zip(layers, found, strict=True)),
    ) as stage:
        for name, graph in graphs.items():
            stage.add(f"fp32/{name}.onnx", graph.SerializeToString())
        if labels is not None:
            stage.add("labels.txt", "".join(f"{label}\n" for label in labels).encode())
    return Bundle.open(path)


def described_as(manifest: Manifest) -> dict[str, Any]:
    """What `new_bundle` is told for a bundle like another."""
    return {name: getattr(manifest, name) for name in ("model", "weights", "image", "input", "labels_source", "layers")}
