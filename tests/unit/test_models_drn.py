"""The dilated residual networks as built: resolution, dilations, receptive levels, and the release's names of tensors."""

import pytest
import torch
from torch import Tensor, nn

from deploykit.models.families.drn import VARIANTS
from deploykit.models.registry import MODELS

DRN = [name for name, entry in MODELS.items() if entry.family == "drn"]


def built(name: str, classes: int = 1000) -> nn.Module:
    entry = MODELS[name]
    with torch.device("meta"):
        return entry.build(classes, entry.conventions).eval()


def test_the_released_classifiers_are_all_here() -> None:
    assert DRN == list(VARIANTS) == ["drn_c_26", "drn_d_22", "drn_d_38", "drn_d_54"]


@pytest.mark.parametrize(("name", "millions"), [("drn_c_26", 21.1), ("drn_d_22", 16.4), ("drn_d_38", 26.5), ("drn_d_54", 35.8)])
def test_a_drn_has_as_many_parameters_as_its_readme_says(name: str, millions: float) -> None:
    assert round(sum(p.numel() for p in built(name).parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", DRN)
def test_the_last_maps_have_an_eighth_of_the_pictures_resolution(name: str) -> None:
    model = built(name, 7)
    sizes: dict[str, tuple[int, ...]] = {}
    for level in range(1, 9):
        module = model.get_submodule(f"layer{level}")
        module.register_forward_hook(lambda _m, _i, out, level=level: sizes.update({f"layer{level}": tuple(out.shape[1:])}))
    assert model(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 7)
    wide = 4 if name == "drn_d_54" else 1
    assert sizes == {
        "layer1": (16, 224, 224),
        "layer2": (32, 112, 112),
        "layer3": (64 * wide, 56, 56),
        "layer4": (128 * wide, 28, 28),
        "layer5": (256 * wide, 28, 28),
        "layer6": (512 * wide, 28, 28),
        "layer7": (512, 28, 28),
        "layer8": (512, 28, 28),
    }


@pytest.mark.parametrize("name", DRN)
def test_levels_five_to_eight_dilate_by_2_4_2_1_and_keep_the_size(name: str) -> None:
    model = built(name)
    for level, dilation in enumerate((1, 1, 1, 1, 2, 4, 2, 1), 1):
        spatial = [
            m for m in model.get_submodule(f"layer{level}").modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
        ]
        assert spatial
        assert {(m.dilation, m.padding) for m in spatial} == {((dilation,) * 2, (dilation,) * 2)}, level
        strides = {m.stride for m in spatial[1:]} | ({spatial[0].stride} if level in (1, 5, 6, 7, 8) else set())
        assert strides <= {(1, 1)}
        assert spatial[0].stride == ((2, 2) if level in (2, 3, 4) else (1, 1)) or name == "drn_d_54"


def test_the_levels_that_take_the_grid_away_have_no_shortcut() -> None:
    # Section 4.3: with a shortcut round them, level 6's grid would pass by.
    model = MODELS["drn_c_26"].build(5, MODELS["drn_c_26"].conventions).eval()
    for level, passes in ((2, True), (6, True), (7, False), (8, False)):
        block = model.get_submodule(f"layer{level}.0")
        with torch.no_grad():
            block.get_submodule("bn2").weight.zero_()  # type: ignore[operator]
            block.get_submodule("bn2").bias.zero_()  # type: ignore[operator]
            x: Tensor = torch.rand(1, {2: 16, 6: 256, 7: 512, 8: 512}[level], 8, 8)
            assert bool(block(x).any()) == passes, level


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "drn_c_26",
            {"conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer2.0.downsample.1.running_var", "layer8.0.bn2.weight"},
        ),
        ("drn_d_22", {"layer0.0.weight", "layer0.1.bias", "layer1.0.weight", "layer2.1.running_mean", "layer8.1.weight"}),
        ("drn_d_38", {"layer5.5.conv2.weight", "layer6.2.bn1.weight", "layer7.0.weight", "fc.bias"}),
        ("drn_d_54", {"layer3.0.downsample.0.weight", "layer4.3.conv3.weight", "layer7.0.weight", "fc.weight"}),
    ],
)
def test_tensors_are_named_as_in_the_release(name: str, keys: set[str]) -> None:
    state = built(name).state_dict()
    assert keys <= set(state)
    assert state["fc.weight"].shape == (1000, 512, 1, 1)  # a 1x1 convolution, so that it also scores every place
    assert not [key for key in state if key.startswith("layer7.0.downsample") and name == "drn_c_26"]
