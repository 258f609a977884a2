"""MobileNet v1: image [N, 3, H, W] in, logits [N, K] out.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
https://arxiv.org/abs/1704.04861: section 3.1 (depthwise separable convolution), section 3.2 with table 1 (the body) and figure 3
(batch normalization and an activation behind both convolutions). Two things are as in the authors' code and in the weights
published since (https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet_v1.py): the activation is ReLU6 where
figure 3 says ReLU; and the last depthwise convolution keeps the resolution, where table 1 says "s2" beside an input and an output
of 7 x 7.

Parameter names are timm's (``mobilenetv1_100``), so its checkpoints load as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """Rows of table 1 at one resolution: ``layers`` depthwise separable convolutions, of which the first has the stride."""

    stride: int
    channels: int
    layers: int


STEM_CHANNELS = 32
STAGES = (Stage(1, 64, 1), Stage(2, 128, 2), Stage(2, 256, 2), Stage(2, 512, 6), Stage(2, 1024, 2))


class DepthwiseSeparableConv(nn.Module):
    """A 3x3 convolution per channel, which filters, and a 1x1 convolution, which combines (section 3.1, figure 3 right)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv_pw = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.act1 = nn.ReLU6()
        self.act2 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        filtered = self.act1(self.bn1(self.conv_dw(x)))
        combined: Tensor = self.act2(self.bn2(self.conv_pw(filtered)))
        return combined


class MobileNetV1(nn.Module):
    """The network of table 1, at width multiplier 1.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU6()
        stages = []
        for stage in STAGES:
            blocks = []
            for i in range(stage.layers):
                blocks.append(DepthwiseSeparableConv(channels, stage.channels, stage.stride if i == 0 else 1))
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(maps), 1))
        return logits
