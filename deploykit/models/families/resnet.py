"""ResNet 18, 34, 50, 101 and 152: image [N, 3, H, W] in, logits [N, K] out.

Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385:
table 1 (the variants), section 3.3 (projection shortcuts, option B) and figure 5 (basic and bottleneck blocks).
One thing differs, as in every published checkpoint since: a bottleneck that halves the resolution does so in its 3x3
convolution and not in its first 1x1 ("v1.5", https://catalog.ngc.nvidia.com/orgs/nvidia/resources/resnet_50_v1_5_for_pytorch).

Parameter names are torchvision's, so its checkpoints load as they are; timm's resnet18 to resnet152 use the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploykit.models.initialize import quieten_branch


@dataclass(frozen=True)
class Variant:
    """A column of table 1: the number of blocks in conv2_x to conv5_x, and their kind."""

    layers: tuple[int, int, int, int]
    is_bottleneck: bool


VARIANTS: Mapping[str, Variant] = {
    "resnet18": Variant((2, 2, 2, 2), is_bottleneck=False),
    "resnet34": Variant((3, 4, 6, 3), is_bottleneck=False),
    "resnet50": Variant((3, 4, 6, 3), is_bottleneck=True),
    "resnet101": Variant((3, 4, 23, 3), is_bottleneck=True),
    "resnet152": Variant((3, 8, 36, 3), is_bottleneck=True),
}
WIDTHS = (64, 128, 256, 512)  # table 1: channels of the 3x3 convolutions in conv2_x to conv5_x


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias (batch normalization follows) that keeps the size, up to its stride."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)


def project(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The shortcut where shapes differ: a 1x1 convolution (option B of section 3.3); None where they agree."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
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
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut (figure 5, right)."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(channels_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1)
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
                blocks.append(block(channels, width, stride=2 if i > 0 and j == 0 else 1))
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
