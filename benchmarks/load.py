"""The networks that benchmarks run: deploykit's own, and torchvision's DenseNet-121, which deploykit's registry does not have."""

import sys
from pathlib import Path

import torchvision

from benchmarks.sides import FOREIGN
from deploykit.bundle import WeightsRecord
from deploykit.cli.export_bundle import Choices, write_bundle
from deploykit.cli.export_model import prove_model
from deploykit.models.catalogue import MODELS, ModelEntry
from deploykit.models.initialize import initialize_model
from deploykit.models.layouts import PYTORCH, TORCHVISION
from deploykit.models.registry import LoadedModel, load_model
from deploykit.spec import ImageSpec


def load_network(name: str) -> LoadedModel:
    """A network with the random weights of a fixed seed, whose normalization statistics were measured."""
    if name in MODELS:
        return load_model(name)
    model = initialize_model(lambda: torchvision.models.get_model(name, weights=None), seed=0)
    parameters = sum(p.numel() for p in model.parameters())
    entry = ModelEntry(
        name=name,
        family="torchvision",
        paper="Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
        paper_url="https://arxiv.org/abs/1608.06993",
        build=lambda classes, _: torchvision.models.get_model(name, weights=None, num_classes=classes),
        parameters=parameters,
        cam_layer=FOREIGN[name],
        head="classifier",
        conventions=PYTORCH,
        layouts=(TORCHVISION,),
        image=ImageSpec(224, 224, 256),
        weights=(),
    )
    record = WeightsRecord("random (seed 0)", "0" * 64, False, "float32", "torchvision")
    return LoadedModel(model, entry, 1000, record, ImageSpec(224, 224, 256), None, "", ())


def export_network(name: str, target: Path, choices: Choices) -> None:
    """Write the bundle of a network; what it says stays off stdout, where results go."""
    loaded = load_network(name)
    write_bundle(target, prove_model(loaded, choices), None, choices)
    print(f"{name}: {target.name} is written", file=sys.stderr)
