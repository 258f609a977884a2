"""MobileNet v2: image [N, 3, H, W] in, logits [N, K] out.

Source: Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
https://arxiv.org/abs/1801.04381: sections 3.2 and 3.3 (why the bottleneck is linear and the residual inverted), section 3.4 with
table 1 (the block), and table 2 (the network).

Parameter names are torchvision's, so its checkpoints load as they are: ``features.0`` is the stem, ``features.1`` to
``features.17`` the blocks of table 2, ``features.18`` the last convolution.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import conv_bn
from deploykit.models.initialize import quieten_branch
from deploykit.models.layouts import Conventions


@dataclass(frozen=True)
class Stage:
    """A row of table 2: t, c, n and s. The first of the ``layers`` blocks has the stride and changes the width."""

    expand: int
    channels: int
    layers: int
    stride: int


STEM_CHANNELS, LAST_CHANNELS = 32, 1280
STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1 with ReLU6, filter by a depthwise 3x3 with ReLU6, project by 1x1 without any (section 3.4, table 1).

    The narrow ends are what the residual connects (section 3.3), where a non-linearity would destroy information (section 3.2).
    """

    def __init__(self, channels_in: int, stage: Stage, stride: int, conventions: Conventions) -> None:
        super().__init__()
        width = channels_in * stage.expand
        layers: list[nn.Module] = []
        if stage.expand != 1:
            layers.append(conv_bn(channels_in, width, 1, conventions, activation=nn.ReLU6()))
        layers.append(conv_bn(width, width, 3, conventions, stride=stride, groups=width, activation=nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *conv_bn(width, stage.channels, 1, conventions))  # the linear bottleneck
        self.is_residual = stride == 1 and channels_in == stage.channels
        if self.is_residual:
            quieten_branch(self.conv[-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.is_residual else out


class MobileNetV2(nn.Module):
    """The network of table 2, at width multiplier 1.

    Args:
        num_classes: K, the number of logits.
        conventions: padding and epsilon of the weights that will be loaded.
    """

    def __init__(self, num_classes: int, conventions: Conventions) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        layers: list[nn.Module] = [conv_bn(3, channels, 3, conventions, stride=2, activation=nn.ReLU6())]
        for stage in STAGES:
            for i in range(stage.layers):
                layers.append(InvertedResidual(channels, stage, stage.stride if i == 0 else 1, conventions))
                channels = stage.channels
        layers.append(conv_bn(channels, LAST_CHANNELS, 1, conventions, activation=nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST_CHANNELS, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits
