"""Explain graphs of deploykit's own models against torch autograd: one name per family, three layers each, published weights where
an installed package has them; and TensorRT's builder takes every graph of their bundles."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from deploykit.bundle import Bundle
from deploykit.graph.explain import make_explain_graph
from deploykit.image import load_pixels, normalize
from deploykit.models.registry import load_model
from deploykit.spec import ImageSpec
from tests.conftest import PHOTOS
from tests.engines import engine_bytes
from tests.oracles.gradient_oracle import Array, as_double, autograd_at, export, relative, run_double

SIZE = 64
FAMILIES = {
    "efficientnet_lite0": ("features.8", "features.6", "features.3"),
    "efficientnet_b0": ("features.8", "features.6", "features.3"),
    "efficientnet_v2_s": ("features.7", "features.5", "features.3"),
    "resnet18": ("layer4", "layer3", "layer2.0"),
    "densenet121": ("relu5", "features", "features.denseblock3"),
    "drn_d_22": ("layer8", "layer6", "layer5"),
    "mobilenet_v1": ("blocks",),
    "mobilenet_v2": ("features.18", "features.14", "features.7"),
    "vgg16_bn": ("features.42",),
    "vgg16_cam": ("cam_relu", "features.29", "features.22"),
}
CLASSES = np.array([967, 285, 7, 504])  # espresso, a cat, a cock, a coffee mug


@cache
def made(name: str) -> tuple[nn.Module, onnx.ModelProto]:
    model = load_model(name, pretrained=name == "efficientnet_lite0").model
    return model, export(model, SIZE)


@cache
def photos(name: str) -> Array:
    """Four photos as the model's weights take them, in a size that float64 can afford."""
    spec = load_model(name, pretrained=name == "efficientnet_lite0").image
    small = ImageSpec(SIZE, SIZE, SIZE, mean=spec.mean, std=spec.std)
    names = ("coffee.png", "chelsea.png", "astronaut.png", "rocket.jpg")
    return normalize(np.stack([load_pixels(PHOTOS / photo, small) for photo in names]), small)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, layers in FAMILIES.items() for layer in layers])
def test_activations_and_gradients_are_autograds_in_float64(name: str, layer: str, rows: int) -> None:
    model, graph = made(name)
    images, classes = photos(name)[:rows], CLASSES[:rows]
    logits, activations, gradients = autograd_at(model, layer, images, classes)
    found = run_double(make_explain_graph(as_double(graph), layer), image=images, class_index=classes)
    # Outputs and folded BatchNorm weights are float32; 1e-4 is what is promised, 1e-5 what rounding leaves.
    assert relative(found["logits"], logits) < 1e-5
    assert relative(found["activations"], activations) < 1e-5
    assert relative(found["gradients"], gradients) < 1e-5
    assert found["explained_class"].tolist() == classes.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_tensorrt_builds_a_model_of_every_family_and_what_explains_it(name: str) -> None:
    graph = made(name)[1]
    for built in (graph, make_explain_graph(graph, FAMILIES[name][0])):
        # An engine holds the weights.
        assert engine_bytes(built) > graph.ByteSize() / 2


@pytest.mark.parametrize("graph", ["predict.onnx", "explain.onnx", "explain_tail.onnx"])
@pytest.mark.parametrize("bundle", ["lite0", "small"])
def test_tensorrt_builds_every_graph_of_a_bundle(bundle: str, graph: str, request: pytest.FixtureRequest) -> None:
    opened: Bundle = request.getfixturevalue(bundle)
    file: Path = opened.file(f"fp32/{graph}")
    # An engine holds the weights: fewer bytes than half the graph would mean that something was left out.
    assert engine_bytes(onnx.load(file)) > file.stat().st_size / 2
