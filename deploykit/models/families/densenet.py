"""DenseNet 121, 161, 169 and 201: image [N, 3, H, W] in, logits [N, K] out.

Source: Huang, Liu, van der Maaten & Weinberger, "Densely Connected Convolutional Networks", CVPR 2017,
https://arxiv.org/abs/1608.06993: equation 2 (each layer reads all the maps before it), table 1 (the variants for ImageNet) and
section 3 with its paragraphs on the composite function, growth rate, bottleneck layers (DenseNet-B) and compression (DenseNet-C).

Parameter names are torchvision's (``norm1``); those of its older releases, which its published files still have (``norm.1``),
are the layout ``torchvision-old``. ``features`` ends in the last normalization, as torchvision's does; the ReLU behind it is a
module of its own (``relu5``), where the default layer of Grad-CAM is. There it works on a copy: torchvision's overwrites the
output of ``features`` (case: https://github.com/pytorch/vision/issues/4164).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """A column of table 1: k, the layers of dense blocks 1 to 4, and the channels of the first convolution (2k)."""

    growth: int
    layers: tuple[int, int, int, int]

    @property
    def stem(self) -> int:
        return 2 * self.growth


VARIANTS: Mapping[str, Variant] = {
    "densenet121": Variant(32, (6, 12, 24, 16)),
    "densenet161": Variant(48, (6, 12, 36, 24)),  # not in table 1: the authors' own, https://github.com/liuzhuang13/DenseNet
    "densenet169": Variant(32, (6, 12, 32, 32)),
    "densenet201": Variant(32, (6, 12, 48, 32)),
}
BOTTLENECK = 4  # DenseNet-B: a layer's 1x1 convolution makes 4k maps
COMPRESSION = 2  # DenseNet-C: theta = 0.5, a transition keeps every second map


class DenseLayer(nn.Module):
    """H_l, the composite function with a bottleneck: BN, ReLU, 1x1 convolution, BN, ReLU, 3x3 convolution to k maps (section 3)."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        bottleneck = self.conv1(self.relu1(self.norm1(x)))
        new: Tensor = self.conv2(self.relu2(self.norm2(bottleneck)))
        return new


class DenseBlock(nn.Module):
    """Layers of which each reads the block's input and every map made since (equation 2).

    The maps are concatenated as they come, two tensors at a time: the copies are those of a concatenation of all, and a graph's
    backward part takes two slices a layer where it would take as many as there are layers before.
    """

    def __init__(self, channels_in: int, growth: int, layers: int) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(channels_in + i * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


def transition(channels_in: int) -> nn.Sequential:
    """Between dense blocks: BN, ReLU, a 1x1 convolution that keeps theta of the maps, and average pooling (section 3)."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            norm=nn.BatchNorm2d(channels_in),
            relu=nn.ReLU(),
            conv=nn.Conv2d(channels_in, channels_in // COMPRESSION, 1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )


class DenseNet(nn.Module):
    """One variant of the family.

    Args:
        variant: a value of ``VARIANTS``.
        num_classes: K, the number of logits.
    """

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        channels = variant.stem
        stages = OrderedDict[str, nn.Module](
            conv0=nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        for i, layers in enumerate(variant.layers, start=1):
            stages[f"denseblock{i}"] = DenseBlock(channels, variant.growth, layers)
            channels += layers * variant.growth
            if i < len(variant.layers):
                stages[f"transition{i}"] = transition(channels)
                channels //= COMPRESSION
        stages["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(stages)
        self.relu5 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu5(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(maps), 1))
        return logits
