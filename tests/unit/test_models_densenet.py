"""DenseNet as its paper describes it, under torchvision's names of today and of its published files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploykit.models.export import layer_gradients
from deploykit.models.families.densenet import VARIANTS, DenseBlock, DenseLayer, DenseNet
from deploykit.models.initialize import initialize_model
from deploykit.models.layouts import TORCHVISION_OLD, name_modules
from deploykit.models.registry import MODELS, load_model
from deploykit.parity import sample_pictures
from deploykit.spec import ImageSpec


def built(name: str) -> DenseNet:
    with torch.device("meta"):
        return DenseNet(VARIANTS[name], 1000).eval()


@pytest.mark.parametrize(("name", "depth"), [(name, int(name.removeprefix("densenet"))) for name in VARIANTS])
def test_a_densenet_is_as_deep_as_its_name_says(name: str, depth: int) -> None:
    model = built(name)
    # The paper counts layers with weights: convolutions and the classifier.
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth


@pytest.mark.parametrize(("name", "k"), [("densenet121", 32), ("densenet161", 48), ("densenet169", 32), ("densenet201", 32)])
def test_every_layer_adds_k_maps_through_a_bottleneck_of_4k(name: str, k: int) -> None:
    for block in (module for module in built(name).modules() if isinstance(module, DenseBlock)):
        layers = [layer for layer in block.children() if isinstance(layer, DenseLayer)]
        first = layers[0].conv1.in_channels
        assert [layer.conv1.in_channels for layer in layers] == [first + i * k for i in range(len(layers))]
        assert {(layer.conv1.out_channels, layer.conv2.out_channels) for layer in layers} == {(4 * k, k)}


def test_a_transition_halves_the_maps_and_the_resolution() -> None:
    model = built("densenet121")
    x = torch.zeros(1, 3, 224, 224, device="meta")
    shapes = []
    for name, stage in model.features.named_children():
        x = stage(x)
        if name.startswith(("denseblock", "transition")):
            shapes.append((name, tuple(x.shape[1:])))
    assert shapes == [  # table 1 of the paper, with the maps that its equations give
        ("denseblock1", (64 + 6 * 32, 56, 56)),
        ("transition1", (128, 28, 28)),
        ("denseblock2", (128 + 12 * 32, 28, 28)),
        ("transition2", (256, 14, 14)),
        ("denseblock3", (256 + 24 * 32, 14, 14)),
        ("transition3", (512, 7, 7)),
        ("denseblock4", (512 + 16 * 32, 7, 7)),
    ]


@torch.no_grad()
def test_a_layer_reads_the_maps_of_all_layers_before_it() -> None:
    block = DenseBlock(8, 4, 3).eval()
    x = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    read: list[Tensor] = []
    for layer in block.children():
        layer.register_forward_pre_hook(lambda _m, inputs: read.append(inputs[0]))
    out = block(x)
    assert out.shape == (1, 8 + 3 * 4, 5, 5)
    assert [maps.shape[1] for maps in read] == [8, 12, 16]
    for maps in read:
        assert torch.equal(maps, out[:, : maps.shape[1]])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_old_names_of_torchvision_name_every_module_once(name: str) -> None:
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in built(name).state_dict()))
    table = name_modules(TORCHVISION_OLD, modules)
    assert sorted(table.values()) == sorted(modules)
    assert table["features.denseblock1.denselayer2.norm.1"] == "features.denseblock1.denselayer2.norm1"
    assert table["features.denseblock4.denselayer16.conv.2"] == "features.denseblock4.denselayer16.conv2"
    assert table["features.transition1.norm"] == "features.transition1.norm"
    assert table["features.norm5"] == "features.norm5"


@torch.no_grad()
def test_a_file_with_the_old_names_loads_as_one_with_the_new(tmp_path: Path) -> None:
    state = initialize_model(lambda: DenseNet(VARIANTS["densenet121"], 1000), seed=3).state_dict()
    pairs = [("norm1", "norm.1"), ("norm2", "norm.2"), ("conv1", "conv.1"), ("conv2", "conv.2")]
    old: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue  # the published files are older than this counter
        for new_name, old_name in pairs:
            key = key.replace(f".{new_name}.", f".{old_name}.") if "denselayer" in key else key
        old[key] = tensor
    torch.save(state, tmp_path / "new.pth")
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    by_new, by_old = (load_model("densenet121", weights_file=tmp_path / n) for n in ("new.pth", "densenet121-a639ec97.pth"))
    assert (by_new.weights.layout, by_old.weights.layout) == ("torchvision", "torchvision-old")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(by_new.model(x), by_old.model(x))


def test_gradients_at_features_are_those_before_the_last_relu() -> None:
    """Case O25: in torchvision's forward the ReLU overwrites what ``features`` returned, so a hook there may keep the wrong map."""
    model = initialize_model(lambda: DenseNet(VARIANTS["densenet121"], 5), seed=0)
    spec = ImageSpec(64, 64, 64)
    pixels = sample_pictures(2, 64, 64, seed=0)
    before, gradients_before = layer_gradients(model, pixels, spec, "features")
    after, gradients_after = layer_gradients(model, pixels, spec, MODELS["densenet121"].cam_layer)
    assert (before < 0).any()
    assert ((before > 0) * before == after).all()
    assert (gradients_before == gradients_after * (before > 0)).all()
    assert (gradients_after == gradients_after[:, :, :1, :1]).all()  # behind the ReLU there is only a mean: CAM applies
