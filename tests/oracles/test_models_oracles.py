"""deploykit's definitions against torchvision's and timm's, with the same weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from deploykit.models.families.vgg import VGG16, convolutions
from deploykit.models.initialize import initialize_model, measure_statistics
from deploykit.models.labels import load_imagenet_labels
from deploykit.models.published import TORCHVISION_PAGE
from deploykit.models.registry import MODELS, load_model

TORCHVISION_FAMILIES = ("densenet", "efficientnet", "efficientnet_v2", "resnet", "resnext")
TORCHVISION_NAMES = [
    *(name for name, entry in MODELS.items() if entry.family in TORCHVISION_FAMILIES),
    *("mobilenet_v2", "vgg16", "vgg16_bn"),
]
# Large ones, which differ from another in the numbers of a table alone: here their tensors are compared by name and shape, and
# their logits by make sweep. Of VGG's 138 million parameters 124 are in its linear layers; the rest is compared below.
LARGE = {"densenet201", "efficientnet_v2_m", "efficientnet_v2_l", "resnext101_32x8d", "vgg16", "vgg16_bn"}
# Sums of the same products in the same order, so only rounding differs; logits are of the order of 1.
FLOAT64_TOLERANCE, FLOAT32_TOLERANCE = 1e-8, 1e-4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At these sizes threads wait for each other longer than they compute, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randomize(model: nn.Module, seed: int) -> None:
    """Give every channel its own statistics, so that two swapped tensors of one shape change the logits."""
    generator = torch.Generator().manual_seed(seed)

    def spread(tensor: Tensor) -> Tensor:
        return 0.7 + 0.6 * torch.rand(tensor.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                assert module.running_mean is not None
                module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.mul_(spread(module.running_var))
                module.weight.mul_(spread(module.weight))
                module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))


def pictures(size: int) -> Tensor:
    """Two noisy gradients [2, 3, size, size], different from each other."""
    ramp = torch.linspace(-1, 1, size)
    base = torch.stack([ramp.expand(3, size, size), -ramp[:, None].expand(3, size, size)])
    return base + 0.5 * torch.randn(base.shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module, size: int) -> None:
    """Equal to 1e-4 in float32 and to 1e-8 in float64, on pictures that the model tells apart."""
    x = pictures(size)
    expected = theirs.eval()(x)
    assert float((expected[0] - expected[1]).abs().max()) > 0.05, "the logits do not depend on the picture: nothing is compared"
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=FLOAT32_TOLERANCE)
    x = x.double()
    torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=0, atol=FLOAT64_TOLERANCE)


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_a_model_has_torchvisions_tensors(name: str) -> None:
    entry = MODELS[name]
    with torch.device("meta"):
        ours, theirs = entry.build(1000, entry.conventions), torchvision.models.get_model(name)
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vggs_maps_are_torchvisions_and_its_linear_layers_the_same(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
        ours = MODELS[name].build(1000, MODELS[name].conventions)
    assert isinstance(ours, VGG16)
    assert [type(module) for module in ours.classifier] == [type(module) for module in theirs.classifier]
    features = initialize_model(lambda: nn.Sequential(*convolutions(batch_norm=name == "vgg16_bn")), seed=1)
    randomize(features, seed=2)
    theirs.features.load_state_dict(features.state_dict(), assign=True)
    assert_same_logits(features, theirs.features, 65)


@pytest.mark.parametrize("name", [name for name in TORCHVISION_NAMES if name not in LARGE])
def test_a_model_gives_torchvisions_logits_with_torchvisions_state_dict(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):  # torchvision's own random weights are not needed
        theirs = torchvision.models.get_model(name)
    source = load_model(name, seed=1).model
    randomize(source, seed=2)
    theirs.load_state_dict(source.state_dict(), assign=True)  # strict: both sides have the same names and shapes
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    loaded = load_model(name, weights_file=tmp_path / "weights.pth")
    assert loaded.weights.layout == "torchvision"
    assert_same_logits(loaded.model, theirs, 65)


@pytest.mark.parametrize(
    ("timm_name", "name", "layout"),
    [
        ("efficientnet_b0", "efficientnet_b0", None),
        ("tf_efficientnet_b0", "efficientnet_b0", "timm-tf"),
        ("tf_efficientnet_b4", "efficientnet_b4", "timm-tf"),
        ("efficientnet_lite0", "efficientnet_lite0", None),
        ("tf_efficientnet_lite0", "efficientnet_lite0", "timm-tf"),
        ("tf_efficientnet_lite4", "efficientnet_lite4", "timm-tf"),
        ("resnet18", "resnet18", None),
        ("resnet50", "resnet50", None),
        ("mobilenetv1_100", "mobilenet_v1", None),
        ("mobilenetv2_100", "mobilenet_v2", None),
        ("tf_efficientnetv2_s", "efficientnet_v2_s", None),
        ("efficientnetv2_s", "efficientnet_v2_s", "timm"),
    ],
)
@pytest.mark.parametrize("size", [64, 67])  # even and odd lengths pad differently under TensorFlow's rule
def test_a_model_gives_timms_logits_with_timms_state_dict(
    timm_name: str, name: str, layout: str | None, size: int, tmp_path: Path
) -> None:
    theirs = timm.create_model(timm_name).eval()
    measure_statistics(theirs, pictures(96))  # timm's own initialization vanishes in eval mode, as torchvision's does
    randomize(theirs, seed=4)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    loaded = load_model(name, weights_file=tmp_path / "weights.pth", layout=layout)
    assert loaded.num_classes == 1000
    assert_same_logits(loaded.model, theirs, size)


@torch.no_grad()
def test_the_two_conventions_that_share_timms_keys_give_different_logits(tmp_path: Path) -> None:
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "w.pth")
    x = pictures(96)
    a = load_model("efficientnet_lite0", weights_file=tmp_path / "w.pth", layout="timm")
    b = load_model("efficientnet_lite0", weights_file=tmp_path / "w.pth", layout="timm-tf")
    features_a, features_b = a.model.get_submodule("features.0")(x), b.model.get_submodule("features.0")(x)
    assert float((features_a - features_b).abs().max()) > 0.1


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_published_weights_and_image_specs_are_torchvisions(name: str) -> None:
    theirs = torchvision.models.get_model_weights(name)
    published = [weights for weights in MODELS[name].weights if weights.source == TORCHVISION_PAGE]
    assert MODELS[name].weights[0].name == theirs.DEFAULT.name
    # IMAGENET1K_FEATURES, of vgg16, have no classifier.
    assert {weights.name for weights in published} == {weights.name for weights in theirs} - {"IMAGENET1K_FEATURES"}
    for ours in published:
        weights = theirs[ours.name]
        transform, image = weights.transforms(), ours.image
        assert ours.url == weights.url
        assert ours.top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert MODELS[name].parameters == weights.meta["num_params"]
        assert transform.crop_size == [image.height] == [image.width]
        assert transform.resize_size == [image.resize_size]
        assert transform.interpolation.value == image.interpolation
        assert (tuple(transform.mean), tuple(transform.std)) == (image.mean, image.std)
        assert image.resize_rule == "shorter"


@pytest.mark.parametrize("name", ["mobilenet_v1", "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"])
def test_timms_weights_and_image_specs_are_timms(name: str) -> None:
    published = [weights for weights in MODELS[name].weights if weights.source != TORCHVISION_PAGE]
    assert published
    for ours in published:
        config = timm.models.get_pretrained_cfg(ours.name)
        assert config is not None
        image, theirs = ours.image, config.to_dict()
        # The last size that timm knows for evaluation; MobileNetV1's figure is taken at its size of training.
        size = theirs["input_size"] if name == "mobilenet_v1" else theirs["test_input_size"]
        assert size == (3, image.height, image.width)
        assert image.resize_size == round(image.height / theirs["crop_pct"])
        assert theirs["interpolation"] == image.interpolation
        assert (theirs["mean"], theirs["std"]) == (image.mean, image.std)
        assert theirs["hf_hub_id"] == ours.source.removeprefix("https://huggingface.co/")
        assert (ours.url or "") == theirs["url"]


def test_lites_image_specs_agree_with_timms_where_timm_kept_the_original_ones() -> None:
    # timm evaluates lite3 and lite4 at B3's and B4's sizes, and all with its own mean and std of 0.5 (127/255 and 128/255 here).
    for i in (0, 1, 2):
        published = timm.models.get_pretrained_cfg(f"tf_efficientnet_lite{i}")
        assert published is not None
        theirs = published.to_dict()
        image = MODELS[f"efficientnet_lite{i}"].image
        assert theirs["input_size"] == (3, image.height, image.width)
        assert theirs["interpolation"] == image.interpolation
        assert theirs["mean"] == pytest.approx(image.mean, abs=0.003)
        if i == 0:  # timm adds 32 pixels at every size, as the original did once; it now divides by 0.875
            assert image.resize_size == image.height / theirs["crop_pct"]


def test_imagenet_labels_are_torchvisions_categories() -> None:
    theirs = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    ours = load_imagenet_labels().names
    differing = [i for i in range(1000) if ours[i] != theirs[i]]
    # The two pairs that share a first synonym: torchvision renamed one of each, ImageNet's own names stand here.
    assert differing == [134, 639]
    assert [ours[i] for i in (2, 10, 967)] == ["great white shark", "brambling", "espresso"]


def photo(name: str) -> Tensor:
    """One of scikit-image's photos as Lite0 takes it [1, 3, 224, 224]: resized to 256, centre crop, (x - 127) / 128."""
    picture = Image.fromarray(getattr(skimage.data, name)())
    scale = 256 / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]


@torch.no_grad()
def test_lite0_with_its_published_weights_names_real_photos() -> None:
    loaded = load_model("efficientnet_lite0", pretrained=True)
    assert loaded.labels is not None
    probabilities = loaded.model(photo("coffee")).softmax(1)[0]
    assert loaded.labels[int(probabilities.argmax())] == "espresso"
    assert float(probabilities.max()) > 0.9
    assert "cat" in loaded.labels[int(loaded.model(photo("chelsea")).argmax())]


@torch.no_grad()
def test_lite0s_published_weights_give_timms_logits_under_tensorflows_conventions() -> None:
    # timm runs a block's modules in the order of ours, so its state dict takes the tensors one by one.
    loaded = load_model("efficientnet_lite0", pretrained=True)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), loaded.model.state_dict().values(), strict=True)))
    x = photo("coffee")
    torch.testing.assert_close(loaded.model(x), theirs(x), rtol=0, atol=FLOAT32_TOLERANCE)
