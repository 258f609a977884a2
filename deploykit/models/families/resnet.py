"""ResNet 18, 34, 50, 101 and 152, ResNeXt 50 (32x4d) and 101 (32x8d): image [N, 3, H, W] in, logits [N, K] out.

Sources:
    He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385:
    table 1 (the variants), section 3.3 (projection shortcuts, option B) and figure 5 (basic and bottleneck blocks).
    One thing differs, as in every published checkpoint since: a bottleneck that halves the resolution does so in its 3x3
    convolution and not in its first 1x1 ("v1.5", https://catalog.ngc.nvidia.com/orgs/nvidia/resources/resnet_50_v1_5_for_pytorch).
    Xie, Girshick, Dollar, Tu & He, "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017,
    https://arxiv.org/abs/1611.05431: table 1 (ResNeXt-50, 32x4d), section 3.3 and figure 3c (a bottleneck whose 3x3 convolution has
    C groups of width d is the sum of C paths), table 2 (how C and d trade against each other at conv2).

Parameter names are torchvision's, so its checkpoints load as they are; timm's resnet18 to resnet152, resnext50_32x4d and
resnext101_32x8d use the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploykit.models.initialize import quieten_branch


@dataclass(frozen=True)
class Variant:
    """A column of table 1: the number of blocks in conv2_x to conv5_x, and their kind.

    ``cardinality`` and ``group_width`` are ResNeXt's C and d, the number of paths in a bottleneck and the channels of each in
    conv2_x. A ResNet has one path of 64 channels (ResNeXt, table 2).
    """

    layers: tuple[int, int, int, int]
    is_bottleneck: bool
    cardinality: int = 1
    group_width: int = 64


VARIANTS: Mapping[str, Variant] = {
    "resnet18": Variant((2, 2, 2, 2), is_bottleneck=False),
    "resnet34": Variant((3, 4, 6, 3), is_bottleneck=False),
    "resnet50": Variant((3, 4, 6, 3), is_bottleneck=True),
    "resnet101": Variant((3, 4, 23, 3), is_bottleneck=True),
    "resnet152": Variant((3, 8, 36, 3), is_bottleneck=True),
    "resnext50_32x4d": Variant((3, 4, 6, 3), is_bottleneck=True, cardinality=32, group_width=4),
    "resnext101_32x8d": Variant((3, 4, 23, 3), is_bottleneck=True, cardinality=32, group_width=8),
}
WIDTHS = (64, 128, 256, 512)  # table 1: channels of the 3x3 convolutions in conv2_x to conv5_x of a ResNet


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias (batch normalization follows) that keeps the size, up to its stride."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def project(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The shortcut where shapes differ: a 1x1 convolution (option B of section 3.3); None where they agree."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, _variant: Variant) -> None:
        super().__init__()
        self.conv1 = conv(channels_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        quieten_branch(self.bn2)
        self.downsample = project(channels_in, width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.relu(self.bn2(self.conv2(out)) + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, and a shortcut (figure 5, right); the 3x3 has ResNeXt's groups (its figure 3c).

    The output has four times ``width`` channels whatever the groups are, so a ResNeXt differs inside its blocks alone.
    """

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, variant: Variant) -> None:
        super().__init__()
        inner = width // WIDTHS[0] * variant.group_width * variant.cardinality  # d doubles from stage to stage as width does
        self.conv1 = conv(channels_in, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride, variant.cardinality)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        quieten_branch(self.bn3)
        self.downsample = project(channels_in, width * self.expansion, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        result: Tensor = self.relu(self.bn3(self.conv3(out)) + shortcut)
        return result


class ResNet(nn.Module):
    """One variant of the family.

    Args:
        variant: a value of ``VARIANTS``.
        num_classes: K, the number of logits.
    """

    def __init__(self, variant: Variant, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block = Bottleneck if variant.is_bottleneck else BasicBlock
        channels = 64
        stages = []
        for i, (width, layers) in enumerate(zip(WIDTHS, variant.layers, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(layers):
                blocks.append(block(channels, width, 2 if i > 0 and j == 0 else 1, variant))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
