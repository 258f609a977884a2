"""EfficientNetV2 as its paper describes it, and timm's names for it."""

import pytest
import torch
from torch import nn

from deploykit.models.families.efficientnet import MBConv, SqueezeExcitation
from deploykit.models.families.efficientnet_v2 import VARIANTS, EfficientNetV2, FusedMBConv, FusedStage
from deploykit.models.layouts import PYTORCH_EPS_3, TENSORFLOW, TIMM, TIMM_TF, TORCHVISION, detect_layout, name_modules, rename_keys
from deploykit.models.registry import MODELS


def built(name: str) -> EfficientNetV2:
    with torch.device("meta"):
        return EfficientNetV2(VARIANTS[name], 1000, PYTORCH_EPS_3).eval()


def test_v2_s_is_table_4() -> None:
    model = built("efficientnet_v2_s")
    x = torch.zeros(1, 3, 384, 384, device="meta")
    rows = []
    for stage in model.features:
        x = stage(x)
        blocks = [module for module in stage.children() if isinstance(module, MBConv | FusedMBConv)]
        kind = type(blocks[0]).__name__ if blocks else "Conv"
        rows.append((kind, x.shape[1], 384 // x.shape[2], max(1, len(blocks))))
    assert rows == [
        ("Conv", 24, 2, 1),
        ("FusedMBConv", 24, 2, 2),
        ("FusedMBConv", 48, 4, 4),
        ("FusedMBConv", 64, 8, 4),
        ("MBConv", 128, 16, 6),
        ("MBConv", 160, 16, 9),
        ("MBConv", 256, 32, 15),
        ("Conv", 1280, 32, 1),
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_only_the_later_stages_squeeze_and_no_kernel_is_larger_than_3(name: str) -> None:
    model = built(name)
    for module in model.modules():
        if isinstance(module, FusedMBConv):
            assert not any(isinstance(m, SqueezeExcitation) for m in module.modules())
        elif isinstance(module, MBConv):
            assert any(isinstance(m, SqueezeExcitation) for m in module.modules())
        elif isinstance(module, nn.Conv2d):
            assert module.kernel_size in {(1, 1), (3, 3)}
        elif isinstance(module, SqueezeExcitation):
            assert module.fc1.in_channels / module.fc1.out_channels in {16, 24}  # a ratio of 0.25 of what was expanded by 4 or 6


def test_a_fused_block_is_one_plain_convolution_where_mbconv_has_two() -> None:
    fused = FusedMBConv(8, FusedStage(4, 1, 8, 1), 1, PYTORCH_EPS_3)
    convolutions = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.groups) for c in convolutions] == [
        (8, 32, (3, 3), 1),
        (32, 8, (1, 1), 1),
    ]
    assert fused.is_residual
    single = FusedMBConv(8, FusedStage(1, 1, 8, 1), 1, PYTORCH_EPS_3)
    assert [c.kernel_size for c in single.modules() if isinstance(c, nn.Conv2d)] == [(3, 3)]
    assert isinstance(list(single.modules())[-1], nn.SiLU)  # not a linear bottleneck: nothing was expanded


@pytest.mark.parametrize("name", VARIANTS)
def test_timms_names_name_every_tensor_once_and_mean_tensorflows_conventions(name: str) -> None:
    keys = list(built(name).state_dict())
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    theirs = {ours: name for name, ours in name_modules(TIMM_TF, modules).items()}
    assert set(theirs) == set(modules)
    published = [f"{theirs[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in keys]
    assert list(rename_keys(published, TIMM_TF, modules).values()) == keys
    layouts = MODELS[name].layouts
    assert detect_layout(published, layouts, modules) is TIMM_TF  # timm has no weights of these with PyTorch's conventions
    assert detect_layout(keys, layouts, modules) is TORCHVISION
    assert TIMM in layouts  # for what was trained from scratch in timm, and must be said
    assert TIMM_TF.conventions == TENSORFLOW


def test_l_takes_pictures_between_minus_one_and_one_as_its_weights_were_trained() -> None:
    images = {name: MODELS[name].image for name in VARIANTS}
    assert images["efficientnet_v2_l"].normalized_range == (-1, 1)
    assert images["efficientnet_v2_s"].normalized_range != (-1, 1)
    assert [images[name].height for name in VARIANTS] == [384, 480, 480]
    assert [weights.name for weights in MODELS["efficientnet_v2_s"].weights] == [
        "IMAGENET1K_V1",
        "tf_efficientnetv2_s.in21k_ft_in1k",
        "tf_efficientnetv2_s.in1k",
    ]
