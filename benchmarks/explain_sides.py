"""The sides of the comparison of explanations, each made in a process of its own: a network in, its calls out.

Every side explains each picture's own likeliest class at the same layer of the same network, and answers with the maps as its
users get them. All get the same normalized float32 pictures.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides import BATCHES, Array, Calls
from deploykit.bundle import Bundle
from deploykit.image import normalize
from deploykit.parity import sample_pictures

LAST = {"resnet50": "layer4", "densenet121": "features", "efficientnet_b0": "features.8", "efficientnet_b3": "features.8"}
"""The last feature map of each network."""
EARLIER = {
    "resnet50": "layer3",
    "densenet121": "features.denseblock3",
    "efficientnet_b0": "features.7",
    "efficientnet_b3": "features.7",
}
"""One stage before it."""


def prepare_explanations(folder: Path, name: str) -> Calls:
    """Export a network twice, to be explained at its last feature map and one stage earlier."""
    from benchmarks.load import export_network
    from deploykit.cli.export_bundle import Choices

    for layer in (LAST[name], EARLIER[name]):
        export_network(name, bundle_path(folder, name, layer), Choices(input_kind="float", layers=(layer,)))
    return {}


def bundle_path(folder: Path, name: str, layer: str) -> Path:
    """Where `prepare_explanations` puts the bundle that explains at a layer."""
    return folder / f"{name}-{layer}"


def make_session(folder: Path, name: str, layer: str, graph: str) -> Calls:
    """deploykit's session of one graph, asked for what its users ask for."""
    from deploykit.runtime.ort import OrtSession

    bundle = Bundle.open(bundle_path(folder, name, layer))
    session = OrtSession(bundle.file(f"fp32/{graph}.onnx"))
    asked = ["logits"] if graph == "predict" else ["logits", "explained_class", "cam"]

    def run(pictures: Array) -> Array:
        feeds: dict[str, Array] = {"image": pictures}
        if graph == "explain":
            feeds["class_index"] = np.full(len(pictures), -1, np.int64)
        return session.run(feeds, asked)[asked[-1]]

    return {batch: partial(run, pictures) for batch, pictures in _pictures(bundle).items()}


def make_explainer(folder: Path, name: str) -> Calls:
    """`Explainer.explain` on arrays of the network's size: preprocessing, ranked predictions and maps scaled to the picture."""
    from dataclasses import replace

    from deploykit.runtime.explainer import Explainer

    bundle = Bundle.open(bundle_path(folder, name, LAST[name]))
    spec = bundle.manifest.image
    whole = replace(bundle.manifest, image=replace(spec, resize_rule="exact", resize_size=None))
    explainer = Explainer.open(replace(bundle, manifest=whole))
    pixels = sample_pictures(max(BATCHES), spec.height, spec.width, seed=1)

    def run(pictures: list[Array]) -> Array:
        return np.stack([explanation.map for explanation in explainer.explain(pictures)])

    return {f"batch {n}": partial(run, list(pixels[:n])) for n in BATCHES}


def make_peer(folder: Path, name: str, peer: str) -> Calls:
    """A torch library's Grad-CAM on the same network."""
    import torch
    from torch.nn.functional import interpolate

    from deploykit.models.registry import load_model

    model = load_model(name).model
    layer = model.get_submodule(LAST[name])

    def with_grad_cam(pictures: torch.Tensor) -> Any:
        return extractor(input_tensor=pictures, targets=None)

    def with_torchcam(pictures: torch.Tensor) -> Any:
        logits = model(pictures)
        return extractor(logits.argmax(1).tolist(), logits)[0]

    def with_captum(pictures: torch.Tensor) -> Any:
        with torch.no_grad():
            target = model(pictures).argmax(1)
        cam = extractor.attribute(pictures, target=target, relu_attributions=True)
        return interpolate(cam, pictures.shape[2:], mode="bilinear").detach().numpy()

    extractor: Any
    if peer == "pytorch-grad-cam":
        from pytorch_grad_cam import GradCAM

        extractor, run = GradCAM(model=model, target_layers=[layer]), with_grad_cam
    elif peer == "torch-cam":
        from torchcam.methods import GradCAM as TorchCam

        extractor, run = TorchCam(model, target_layer=layer), with_torchcam
    else:
        from captum.attr import LayerGradCam

        extractor, run = LayerGradCam(model, layer), with_captum
    bundle = Bundle.open(bundle_path(folder, name, LAST[name]))
    return {batch: partial(run, torch.from_numpy(pictures)) for batch, pictures in _pictures(bundle).items()}


def _pictures(bundle: Bundle) -> dict[str, Array]:
    spec = bundle.manifest.image
    pictures = normalize(sample_pictures(max(BATCHES), spec.height, spec.width, seed=1), spec)
    return {f"batch {n}": np.ascontiguousarray(pictures[:n]) for n in BATCHES}
