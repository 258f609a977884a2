"""Dilated residual networks DRN-C-26, DRN-D-22, DRN-D-38 and DRN-D-54: image [N, 3, H, W] in, logits [N, K] out.

Sources:
    Yu, Koltun & Funkhouser, "Dilated Residual Networks", CVPR 2017, https://arxiv.org/abs/1705.09914: section 2 (a ResNet whose
    last two groups dilate by 2 and 4 instead of halving the resolution, so the last maps have an eighth of the picture's size),
    section 4 (degridding: 4.1, max pooling becomes convolutions; 4.2, levels 7 and 8 are added with dilations 2 and 1; 4.3, without
    shortcuts round them), figure 5 (DRN-C-26).
    The release, https://github.com/fyu/drn, has the names and numbers of levels and the D variants, which the paper does not: their
    levels 1, 2, 7 and 8 are plain convolutions where C has residual blocks.

Parameter names are the release's, so its checkpoints load as they are. The release averages maps of 28 x 28 and so takes pictures
of 224 pixels; here the mean is over whatever is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploykit.models.initialize import quieten_branch


@dataclass(frozen=True)
class Variant:
    """One network of the release.

    Args:
        layers: blocks, or plain convolutions, in levels 1 to 8.
        is_bottleneck: the kind of the residual blocks in levels 3 to 6.
        is_plain: levels 1, 2, 7 and 8 are plain convolutions (D) and not residual blocks (C).
    """

    layers: tuple[int, int, int, int, int, int, int, int]
    is_bottleneck: bool
    is_plain: bool


VARIANTS: Mapping[str, Variant] = {
    "drn_c_26": Variant((1, 1, 2, 2, 2, 2, 1, 1), is_bottleneck=False, is_plain=False),
    "drn_d_22": Variant((1, 1, 2, 2, 2, 2, 1, 1), is_bottleneck=False, is_plain=True),
    "drn_d_38": Variant((1, 1, 3, 4, 6, 3, 1, 1), is_bottleneck=False, is_plain=True),
    "drn_d_54": Variant((1, 1, 3, 4, 6, 3, 1, 1), is_bottleneck=True, is_plain=True),
}
# Figure 5, levels 1 to 8. A bottleneck's output has four times the width.
WIDTHS = (16, 32, 64, 128, 256, 512, 512, 512)
STRIDES = (1, 2, 2, 2, 1, 1, 1, 1)
DILATIONS = (1, 1, 1, 1, 2, 4, 2, 1)
RESIDUAL_LEVELS = range(3, 7)


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Convolution without bias (batch normalization follows) that keeps the size, up to its stride."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def rectified_conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Convolution, normalization and ReLU."""
    return [conv(channels_in, channels_out, kernel, stride, dilation), nn.BatchNorm2d(channels_out), nn.ReLU()]


def project(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The shortcut where shapes differ: a 1x1 convolution; None where they agree."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, both dilated, and a shortcut where the level has shortcuts (section 4.3: levels 7 and 8 have none)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int, *, has_shortcut: bool = True) -> None:
        super().__init__()
        self.has_shortcut = has_shortcut
        self.conv1 = conv(channels_in, width, 3, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = project(channels_in, width, stride)
        self.relu = nn.ReLU()
        if has_shortcut:
            quieten_branch(self.bn2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.has_shortcut:
            out = out + (x if self.downsample is None else self.downsample(x))
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = conv(channels_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = project(channels_in, width * self.expansion, stride)
        self.relu = nn.ReLU()
        quieten_branch(self.bn3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        result: Tensor = self.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))
        return result


def make_level(variant: Variant, level: int, channels: int) -> tuple[nn.Sequential, int]:
    """A level, 1 to 8, for so many channels; and how many it gives."""
    layers, width, dilation = variant.layers[level - 1], WIDTHS[level - 1], DILATIONS[level - 1]
    modules: list[nn.Module] = []
    for i in range(layers):
        stride = STRIDES[level - 1] if i == 0 else 1
        if level not in RESIDUAL_LEVELS and variant.is_plain:
            modules += rectified_conv(channels, width, 3, stride, dilation)
            channels = width
        elif level in RESIDUAL_LEVELS and variant.is_bottleneck:
            modules.append(Bottleneck(channels, width, stride, dilation))
            channels = width * Bottleneck.expansion
        else:
            modules.append(BasicBlock(channels, width, stride, dilation, has_shortcut=level <= RESIDUAL_LEVELS[-1]))
            channels = width
    return nn.Sequential(*modules), channels


class DRN(nn.Module):
    """One variant of the family.

    Args:
        variant: a value of ``VARIANTS``.
        num_classes: K, the number of logits.
    """

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        channels = WIDTHS[0]
        stem = rectified_conv(3, channels, 7)
        if variant.is_plain:
            self.layer0 = nn.Sequential(*stem)
        else:
            self.conv1, self.bn1, self.relu = stem
        for level in range(1, 9):
            modules, channels = make_level(variant, level, channels)
            self.add_module(f"layer{level}", modules)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, num_classes, 1)
        self.is_plain = variant.is_plain

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer0(x) if self.is_plain else self.relu(self.bn1(self.conv1(x)))
        for level in range(1, 9):
            x = self.get_submodule(f"layer{level}")(x)
        return torch.flatten(self.fc(self.avgpool(x)), 1)
