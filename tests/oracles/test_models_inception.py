"""The Inceptions and Xception against torchvision's and timm's, auxiliary heads, transform_input and published rows included."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from deploykit.models.published import TORCHVISION_PAGE
from deploykit.models.registry import MODELS, load_model
from tests.oracles.test_models_oracles import assert_same_logits, pictures, randomize

TORCHVISIONS = {"inception_v1": "googlenet", "inception_v3": "inception_v3"}
TIMMS = {"inception_v4": "inception_v4", "inception_resnet_v2": "inception_resnet_v2", "xception": "legacy_xception"}
SIZE = 75  # the least that the grids of v3, v4 and Inception-ResNet-v2 leave something of


@pytest.mark.parametrize("name", TORCHVISIONS)
@torch.no_grad()
def test_logits_are_torchvisions_whose_checkpoint_has_auxiliary_heads_and_transforms_its_input(name: str, tmp_path: Path) -> None:
    theirs = torchvision.models.get_model(TORCHVISIONS[name], init_weights=False, aux_logits=True, transform_input=False)
    source = load_model(name, seed=1).model
    randomize(source, seed=2)
    missing = theirs.load_state_dict(source.state_dict(), strict=False)
    assert missing.missing_keys
    assert all(key.startswith(MODELS[name].training_only) for key in missing.missing_keys)
    assert not missing.unexpected_keys
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = load_model(name, weights_file=tmp_path / "w.pth").model
    assert_same_logits(ours, theirs, SIZE)
    pixels = (pictures(SIZE).double() + 3) / 6
    theirs.transform_input = True
    spec = torchvision.models.get_model_weights(TORCHVISIONS[name]).DEFAULT.transforms()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (spec.mean, spec.std))
    own_mean, own_std = (torch.tensor(v).double().view(3, 1, 1) for v in (MODELS[name].image.mean, MODELS[name].image.std))
    # The same affine map in another order of operations, in float64.
    torch.testing.assert_close(ours((pixels - own_mean) / own_std), theirs((pixels - mean) / std), rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [SIZE, 98])  # odd and even
@pytest.mark.parametrize("name", TIMMS)
def test_logits_are_timms_with_timms_state_dict(name: str, size: int, tmp_path: Path) -> None:
    with torch.device("meta"):  # timm's own random weights are not needed
        theirs = timm.create_model(TIMMS[name])
    source = load_model(name, seed=1).model
    randomize(source, seed=2)
    theirs.load_state_dict(source.state_dict(), assign=True)  # strict: both sides have the same names and shapes
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    loaded = load_model(name, weights_file=tmp_path / "w.pth")
    assert loaded.weights.layout == "timm"
    assert_same_logits(loaded.model, theirs, size)


@pytest.mark.parametrize("name", [*TORCHVISIONS, *TIMMS])
def test_normalizations_have_their_epsilon(name: str) -> None:
    # Random weights hide an epsilon behind statistics that are far above it.
    with torch.device("meta"):
        ours = MODELS[name].build(1000, MODELS[name].conventions)
        if name in TIMMS:
            theirs = timm.create_model(TIMMS[name])
        else:
            theirs = torchvision.models.get_model(TORCHVISIONS[name], init_weights=False)
    epsilons = {path: module.eps for path, module in theirs.named_modules() if isinstance(module, nn.BatchNorm2d)}
    mine = {path: module.eps for path, module in ours.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert mine.items() <= epsilons.items()


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_published_weights_are_torchvisions_with_transform_input_as_mean_and_std(name: str) -> None:
    entry = MODELS[name]
    (ours,) = entry.weights
    (weights,) = torchvision.models.get_model_weights(TORCHVISIONS[name])
    transform, image = weights.transforms(), ours.image
    assert (ours.name, ours.url, ours.source) == (weights.name, weights.url, TORCHVISION_PAGE)
    assert weights.url.endswith(f"-{ours.sha256}.pth")
    assert ours.top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert weights.meta["min_size"] <= (image.height, image.width)
    assert transform.crop_size == [image.height] == [image.width]
    assert transform.resize_size == [image.resize_size]
    assert transform.interpolation.value == image.interpolation
    assert (image.mean, image.std) == ((0.5,) * 3, (0.5,) * 3)  # the logits above tell that this is transform_input
    with torch.device("meta"):
        theirs = torchvision.models.get_model(TORCHVISIONS[name], init_weights=False, aux_logits=True)
    counted = sum(p.numel() for key, p in theirs.named_parameters() if not key.startswith(entry.training_only))
    assert entry.parameters == counted
    if name == "inception_v1":  # torchvision counts GoogLeNet without its auxiliary heads, Inception v3 with them
        assert weights.meta["num_params"] == counted
    else:
        assert weights.meta["num_params"] == sum(p.numel() for p in theirs.parameters()) > counted


@pytest.mark.parametrize("name", TIMMS)
def test_published_weights_are_timms_and_take_pictures_as_timm_does(name: str) -> None:
    (ours,) = MODELS[name].weights
    config = timm.models.get_pretrained_cfg(TIMMS[name])
    assert config is not None
    assert ours.name == f"{config.architecture}.{config.tag}"
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config.to_dict()))
    resize, crop, _, normalize = transform.transforms
    image = ours.image
    assert tuple(crop.size) == (image.height, image.width)
    assert resize.size == image.resize_size
    assert resize.interpolation.value == image.interpolation
    assert (tuple(normalize.mean.tolist()), tuple(normalize.std.tolist())) == (image.mean, image.std)
