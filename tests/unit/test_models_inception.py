"""The Inceptions as their papers describe them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploykit.errors import WeightsError
from deploykit.models.families.blocks import Branches, ConvBn
from deploykit.models.families.inception_resnet_v2 import Residual
from deploykit.models.families.inception_v1 import MODULES, Inception
from deploykit.models.families.inception_v3 import InceptionA, InceptionB, InceptionC, InceptionD, InceptionE
from deploykit.models.families.inception_v4 import InceptionC as InceptionC4
from deploykit.models.registry import MODELS, load_model
from tests.unit.test_models_definitions import photos

NAMES = ("inception_v1", "inception_v3", "inception_v4", "inception_resnet_v2")
MILLIONS = {"inception_v1": 6.6, "inception_v3": 23.8, "inception_v4": 42.7, "inception_resnet_v2": 55.8}


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name].build(1000, MODELS[name].conventions).eval()


def shapes_after(model: nn.Module, paths: list[str], size: int) -> list[tuple[int, ...]]:
    """Channels, height and width behind each of the modules."""
    seen: dict[str, tuple[int, ...]] = {}

    def note(path: str, output: Tensor) -> None:
        seen[path] = tuple(output.shape[1:])

    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda _m, _i, output, path=path: note(path, output))
    model(torch.zeros(1, 3, size, size, device="meta"))
    return [seen[path] for path in paths]


def test_inception_v1s_maps_are_those_of_table_1() -> None:
    paths = ["maxpool1", "maxpool2", *(f"inception{name}" for name in MODULES), "avgpool"]
    assert shapes_after(built("inception_v1"), paths, 224) == [
        (64, 56, 56),
        (192, 28, 28),
        (256, 28, 28),
        (480, 28, 28),
        *[(512, 14, 14)] * 3,
        (528, 14, 14),
        (832, 14, 14),
        (832, 7, 7),
        (1024, 7, 7),
        (1024, 1, 1),
    ]


def test_inception_v1_has_22_layers_with_weights() -> None:
    # Section 5: 22 layers deep, counting layers with parameters; a module is two deep.
    model = built("inception_v1")
    modules = sum(isinstance(module, Inception) for module in model.children())
    stem = sum(isinstance(module, ConvBn) for module in model.children())
    assert (stem, modules) == (3, 9)
    assert stem + 2 * modules + 1 == 22


def test_inception_v3_has_the_modules_and_grids_of_table_1() -> None:
    model = built("inception_v3")
    kinds = [type(module) for name, module in model.named_children() if name.startswith("Mixed")]
    assert kinds == [*[InceptionA] * 3, InceptionB, *[InceptionC] * 4, InceptionD, *[InceptionE] * 2]
    paths = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Mixed_5d", "Mixed_6e", "Mixed_7c"]
    assert shapes_after(model, paths, 299) == [
        (32, 149, 149),
        (32, 147, 147),
        (64, 147, 147),
        (64, 73, 73),
        (288, 35, 35),
        (768, 17, 17),
        (2048, 8, 8),
    ]


def test_inception_v4_has_4_a_7_b_and_3_c_on_the_grids_of_figure_9() -> None:
    model = built("inception_v4")
    paths = [f"features.{i}" for i in range(22)]
    assert shapes_after(model, paths, 299) == [
        (32, 149, 149),  # figure 3
        (32, 147, 147),
        (64, 147, 147),
        (160, 73, 73),
        (192, 71, 71),
        (384, 35, 35),
        *[(384, 35, 35)] * 4,
        (1024, 17, 17),
        *[(1024, 17, 17)] * 7,
        (1536, 8, 8),
        *[(1536, 8, 8)] * 3,
    ]
    features = model.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    assert [len(list(features[i].children())) for i in (6, 10, 11, 18)] == [4, 3, 4, 3]  # branches of A, reduction, B, reduction
    assert [i for i, module in enumerate(features) if isinstance(module, InceptionC4)] == [19, 20, 21]


def test_inception_v4s_a_and_b_take_small_convolutions_in_place_of_large_ones() -> None:
    features = built("inception_v4").get_submodule("features")
    assert isinstance(features, nn.Sequential)
    at_35, at_17 = (
        {module.kernel_size for i in grid for module in features[i].modules() if isinstance(module, nn.Conv2d)}
        for grid in (range(6, 10), range(11, 18))
    )
    assert at_35 == {(1, 1), (3, 3)}  # figure 4
    assert at_17 == {(1, 1), (1, 7), (7, 1)}  # figure 5


def residuals(model: nn.Module) -> list[Residual]:
    return [module for module in model.modules() if isinstance(module, Residual)]


def test_inception_resnet_v2_repeats_its_modules_10_20_and_10_times_and_scales_them_down() -> None:
    model = built("inception_resnet_v2")
    assert [residual.scale for residual in residuals(model)] == [*[0.17] * 10, *[0.10] * 20, *[0.20] * 9, 1.0]
    # A ReLU follows every sum but the last.
    assert [type(residual.act) for residual in residuals(model)] == [*[nn.ReLU] * 39, nn.Identity]
    paths = ["mixed_5b", "repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8", "conv2d_7b"]
    assert shapes_after(model, paths, 299) == [
        *[(320, 35, 35)] * 2,
        *[(1088, 17, 17)] * 2,
        *[(2080, 8, 8)] * 3,
        (1536, 8, 8),
    ]


@torch.no_grad()
def test_a_residual_module_adds_its_scaled_branches_to_what_it_was_given() -> None:
    module = Residual([nn.Identity(), nn.MaxPool2d(3, 1, 1)], 8, 4, 0.25, rectified=False)
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    joined = torch.cat([x, nn.functional.max_pool2d(x, 3, 1, 1)], 1)
    # One rounding of float32 apart.
    torch.testing.assert_close(module(x), x + 0.25 * module.conv2d(joined))


def test_a_residuals_last_convolution_is_linear_with_a_bias_and_no_normalization() -> None:
    for residual in residuals(built("inception_resnet_v2")):  # section 3.2
        assert residual.conv2d.kernel_size == (1, 1)
        assert residual.conv2d.bias is not None
        assert [name for name, _ in residual.named_children()][-2:] == ["conv2d", "act"]


def test_branches_stand_in_the_order_of_their_names() -> None:
    branches = Branches(nn.Identity(), nn.MaxPool2d(3, 1, 1))
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert [name for name, _ in branches.named_children()] == ["branch0", "branch1"]
    assert torch.equal(branches(x), torch.cat([x, nn.functional.max_pool2d(x, 3, 1, 1)], 1))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_about_as_many_as_published_and_every_normalization_has_tensorflows_epsilon(name: str) -> None:
    model = built(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == MILLIONS[name]
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_random_weights_neither_vanish_nor_explode_and_tell_photos_apart(name: str) -> None:
    model = load_model(name, seed=5).model
    spreads: list[float] = []
    for module in model.modules():
        if isinstance(module, ConvBn | Residual):
            module.register_forward_hook(lambda _m, _i, output: spreads.append(float(output.std())))
    logits = model(photos(96))
    assert min(spreads) > 0.1
    assert max(spreads) < 10
    assert 0.1 < float(logits.std()) < 5
    assert float(logits.std(0).mean()) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_unexpected_tensors_are_errors_but_for_those_of_auxiliary_heads(name: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in built(name).state_dict().items()}
    first = next(iter(state))
    del state[first]
    for beginning in (*MODELS[name].training_only, "aux9."):
        state[f"{beginning}fc.weight"] = torch.zeros(8)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"1 missing \({first}\).*1 unexpected \(aux9.fc.weight\)"):
        load_model(name, weights_file=tmp_path / "w.pth")


@torch.no_grad()
def test_random_weights_of_inception_v4_keep_pictures_that_are_nearly_the_same_nearly_the_same() -> None:
    # Otherwise FP16 of an untrained network is far from FP32 and no conversion can be tested with it.
    features = load_model("inception_v4", seed=0).model.get_submodule("features")
    pictures = photos(192)
    moved = pictures + 1e-4 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    maps = features(pictures)
    # 0.0017; without quietened branches it is 0.033.
    assert float((features(moved) - maps).square().mean().sqrt() / maps.square().mean().sqrt()) < 0.005
