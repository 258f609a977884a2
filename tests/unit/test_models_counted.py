"""The reading list is complete, and what the registry says of each model was counted and not typed in."""

from pathlib import Path

import pytest
import torch

from deploykit.graph.multiply_adds import count_multiply_adds
from deploykit.models import families
from deploykit.models.catalogue import MODELS
from deploykit.models.counted import multiply_adds
from deploykit.models.export import export_graph
from deploykit.models.registry import load_model

READING_LIST = (
    *("xception", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "dilation8_frontend", "dilation8", "dilation8_large"),
    *("drn_c_26", "drn_d_22", "drn_d_38", "drn_d_54", "fcn_resnet50", "deeplabv3_resnet50"),
    *(f"efficientnet_b{i}" for i in range(8)),
    *(f"efficientnet_lite{i}" for i in range(5)),
    *(f"efficientnet_v2_{size}" for size in "sml"),
    *("inception_v1", "inception_v3", "inception_v4", "inception_resnet_v2"),
    *("mobilenet_v1", "mobilenet_v2", "vgg16", "vgg16_bn", "vgg16_cam"),
)


def test_the_registry_has_the_whole_reading_list() -> None:
    assert sorted(MODELS) == sorted(READING_LIST)


def test_every_model_was_counted() -> None:
    # benchmarks/count.py counts; a model that is added without it has no figure.
    assert sorted(multiply_adds()) == sorted(MODELS)


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121"])
def test_counting_again_gives_the_same(name: str) -> None:
    loaded = load_model(name)
    assert count_multiply_adds(export_graph(loaded.model, loaded.image)) == multiply_adds()[name]


def test_every_parameter_count_is_that_of_the_model_as_built() -> None:
    for name, entry in MODELS.items():
        with torch.device("meta"):
            model = entry.build(entry.num_classes, entry.conventions)
        assert sum(p.numel() for p in model.parameters()) == entry.parameters, name


def test_every_family_file_is_short_enough_to_read() -> None:
    for file in Path(families.__path__[0]).glob("*.py"):
        assert len(file.read_text().splitlines()) <= 250, file.name
