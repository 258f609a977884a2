"""The models as built: counts, padding, activations, and random weights that are fit to test an export with."""

from collections.abc import Iterator

import pytest
import skimage.data
import torch
from torch import Tensor, nn

from deploykit.errors import UsageError
from deploykit.models.families.blocks import SamePadConv2d, same_padding
from deploykit.models.families.densenet import DenseBlock
from deploykit.models.families.efficientnet import MBConv, scale_width
from deploykit.models.families.efficientnet_v2 import FusedMBConv
from deploykit.models.families.mobilenet_v1 import DepthwiseSeparableConv
from deploykit.models.families.mobilenet_v2 import InvertedResidual
from deploykit.models.families.resnet import BasicBlock, Bottleneck
from deploykit.models.layouts import PYTORCH, TENSORFLOW, Conventions
from deploykit.models.registry import MODELS, find_model, load_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes threads wait for each other longer than they compute, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_published_number_of_parameters(name: str) -> None:
    entry = MODELS[name]
    with torch.device("meta"):
        model = entry.build(entry.num_classes, entry.conventions)
    assert count_parameters(model) == entry.parameters


def test_some_parameter_counts_are_those_of_the_papers() -> None:
    counts = {name: entry.parameters for name, entry in MODELS.items()}
    assert counts["efficientnet_b0"] == 5_288_548
    assert counts["efficientnet_b3"] == 12_233_232
    assert counts["resnet50"] == 25_557_032
    assert counts["efficientnet_lite0"] == 4_652_008
    assert round(counts["mobilenet_v1"] / 1e6, 1) == 4.2  # Howard 2017, table 8
    assert round(counts["mobilenet_v2"] / 1e6, 1) in (3.4, 3.5)  # Sandler 2018, table 4: 3.4 M
    assert round(counts["vgg16"] / 1e6) == 138  # Simonyan 2015, table 2
    assert round(counts["resnext50_32x4d"] / 1e6) == 25  # Xie 2017, table 1: 25.0 M
    assert round(counts["efficientnet_v2_m"] / 1e6) == 54  # Tan 2021, table 7


@pytest.mark.parametrize("name", [n for n, e in MODELS.items() if e.task == "classification" and e.family != "drn"])
def test_the_default_layer_is_the_last_feature_map_and_the_head_is_linear(name: str) -> None:
    entry = MODELS[name]
    with torch.device("meta"):
        model = entry.build(7, entry.conventions)
        features: list[Tensor] = []
        hook = model.get_submodule(entry.cam_layer).register_forward_hook(lambda _m, _i, output: features.append(output))
        logits = model.eval()(torch.zeros(2, 3, 192, 256))
        hook.remove()
    head = model.get_submodule(entry.head)
    assert isinstance(head, nn.Linear | nn.Conv2d)
    assert logits.shape == (2, 7)
    rows, channels, *size = features[0].shape
    assert rows == 2
    # VGG pools once more, behind the layer, and but for the variant for CAM has hidden layers between.
    assert channels == (512 if name in {"vgg16", "vgg16_bn"} else head.weight.shape[1])
    stride = {"drn": 8, "vgg": 16}.get(entry.family, 32)
    if entry.family.startswith("inception"):  # does not pad everywhere, so it loses a pixel at the edges
        assert 3 < size[0] < size[1] <= 8
    else:
        assert size == [192 // stride, 256 // stride]


@pytest.mark.parametrize("name", MODELS)
def test_no_activation_works_in_place(name: str) -> None:
    # In-place activations overwrite the tensor that a hook at the layer before them would read (case O25).
    entry = MODELS[name]
    with torch.device("meta"):
        model = entry.build(10, entry.conventions)
    assert not [path for path, module in model.named_modules() if getattr(module, "inplace", False)]


def test_silu_is_x_times_sigmoid_of_x_so_it_exports_without_a_custom_function() -> None:
    model = load_model("efficientnet_b0").model
    activations = {type(m) for m in model.modules() if not list(m.children()) and not list(m.parameters())}
    assert activations == {nn.SiLU, nn.Sigmoid, nn.AdaptiveAvgPool2d, nn.Dropout}
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(nn.SiLU()(x), x * torch.sigmoid(x))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),
        (225, 3, 2, (1, 1)),
        (224, 5, 2, (1, 2)),
        (225, 5, 2, (2, 2)),
        (7, 3, 1, (1, 1)),
        (1, 3, 2, (1, 1)),
        (4, 1, 2, (0, 0)),
    ],
)
def test_same_padding_gives_the_odd_pixel_to_the_end(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("shape", [(8, 8), (8, 9), (9, 8), (9, 9)])
def test_a_same_padded_convolution_sees_the_pixels_that_tensorflow_shows_it(shape: tuple[int, int]) -> None:
    conv = SamePadConv2d(1, 1, 3, stride=2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])[None, None])
        picture = torch.arange(float(shape[0] * shape[1])).reshape(1, 1, *shape)
        # An even length starts at the first pixel, whose centre is then pixel 1; an odd one starts one before it.
        expected = picture[:, :, 1 - shape[0] % 2 :: 2, 1 - shape[1] % 2 :: 2]
        torch.testing.assert_close(conv(picture), expected)


def test_conventions_change_padding_and_epsilon_only() -> None:
    entry = MODELS["efficientnet_b0"]
    with torch.device("meta"):
        ours, theirs = entry.build(10, PYTORCH), entry.build(10, TENSORFLOW)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert sum(isinstance(m, SamePadConv2d) for m in theirs.modules()) == 5  # the stem and four stages
    assert {m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert {m.eps for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_wrong_conventions_are_refused() -> None:
    with pytest.raises(UsageError, match="padding is 'valid', expected one of symmetric, same"):
        Conventions("valid", 1e-3)
    with pytest.raises(UsageError, match="bn_eps is 0"):
        Conventions("same", 0)


def test_widths_are_multiples_of_eight_and_lose_at_most_a_tenth() -> None:
    assert [scale_width(32, f) for f in (1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0)] == [32, 32, 40, 48, 48, 56, 64]
    assert scale_width(19, 1.0) == 24  # 16 would lose 16 %


def test_an_unknown_model_is_refused_with_those_that_look_alike() -> None:
    with pytest.raises(UsageError, match="there is no model 'EfficientNet-B3'; did you mean efficientnet_b3") as caught:
        find_model("EfficientNet-B3")
    assert caught.value.hint == f"deploykit models lists all {len(MODELS)}"
    with pytest.raises(UsageError, match=r"there is no model 'zzz'$"):
        find_model("zzz")


def photos(size: int) -> Tensor:
    """Four photos of scikit-image, normalized [4, 3, size, size]."""
    loaded = [torch.from_numpy(getattr(skimage.data, n)()[..., :3]) for n in ("chelsea", "coffee", "astronaut", "rocket")]
    shaped = [nn.functional.interpolate(p.permute(2, 0, 1)[None].float(), size=(size, size), mode="bilinear") for p in loaded]
    return (torch.cat(shaped) / 255 - 0.45) / 0.23


# What a network is made of; a VGG is made of layers, and pools after every few.
BLOCKS = (BasicBlock, Bottleneck, DenseBlock, DepthwiseSeparableConv, FusedMBConv, InvertedResidual, MBConv, nn.MaxPool2d)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "densenet201",
        "efficientnet_b0",
        "efficientnet_b7",
        "efficientnet_lite4",
        "efficientnet_v2_m",
        "mobilenet_v1",
        "mobilenet_v2",
        "resnet18",
        "resnet152",
        "resnext50_32x4d",
        "vgg16",
        "vgg16_bn",
        "vgg16_cam",
    ],
)
def test_random_weights_neither_vanish_nor_explode_and_tell_photos_apart(name: str) -> None:
    model = load_model(name, seed=5).model
    assert not any(module.training for module in model.modules())
    spreads: list[float] = []
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.register_forward_hook(lambda _m, _i, output: spreads.append(float(output.std())))
    logits = model(photos(160))
    assert len(spreads) >= 4
    assert min(spreads) > 0.3
    assert max(spreads) < 10
    assert 0.2 < float(logits.std()) < 5
    assert float(logits.std(0).mean()) > 0.05


def test_the_same_seed_gives_the_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first, second, other = (load_model("resnet18", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.weights == second.weights
    assert first.weights.sha256 != other.weights.sha256
    assert first.weights.source == "random (seed 3)"
    assert not first.weights.trained
    assert first.labels is None
    assert not any(module.training for module in first.model.modules())
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in first.model.parameters())
