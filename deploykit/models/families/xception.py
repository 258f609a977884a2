"""Xception: image [N, 3, H, W] in, logits [N, K] out.

Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017, https://arxiv.org/abs/1610.02357:
figure 5 (entry, middle and exit flow), section 3 (36 convolutional layers in 14 modules), section 4.7 and figure 10 (no
activation between a depthwise convolution and its pointwise one).

Parameter names are those of the widely used PyTorch port, timm's legacy_xception, so its checkpoints load as they are.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from deploykit.models.initialize import quieten_branch


class SeparableConv2d(nn.Module):
    """A 3x3 depthwise convolution, then a pointwise one, with nothing between (section 4.7)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, 1, 1, groups=channels_in, bias=False)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pointwise(self.conv1(x))
        return result


class Block(nn.Module):
    """A residual module of figure 5: separable convolutions, each after a ReLU, and a shortcut.

    Args:
        widths: channels before, between and after the separable convolutions.
        stride: 2 ends the branch with max-pooling and gives the shortcut a strided 1x1 convolution.
        starts_with_relu: False for the first module, whose input is rectified already.
    """

    def __init__(self, widths: tuple[int, ...], stride: int, *, starts_with_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(widths):
            layers += [nn.ReLU(), SeparableConv2d(channels_in, channels_out), nn.BatchNorm2d(channels_out)]
        quieten_branch(layers[-1])
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*layers[0 if starts_with_relu else 1 :])
        self.has_projection = stride > 1 or widths[0] != widths[-1]
        if self.has_projection:
            self.skip = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.skipbn(self.skip(x)) if self.has_projection else x
        result: Tensor = self.rep(x) + shortcut
        return result


class Xception(nn.Module):
    """The network of figure 5.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, bias=False)  # entry flow
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.act2 = nn.ReLU()
        self.block1 = Block((64, 128, 128), 2, starts_with_relu=False)
        self.block2 = Block((128, 256, 256), 2)
        self.block3 = Block((256, 728, 728), 2)
        for i in range(4, 12):  # middle flow, repeated eight times
            self.add_module(f"block{i}", Block((728,) * 4, 1))
        self.block12 = Block((728, 728, 1024), 2)  # exit flow
        self.conv3 = SeparableConv2d(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.act3 = nn.ReLU()
        self.conv4 = SeparableConv2d(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.act4 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        for i in range(1, 13):
            x = self.get_submodule(f"block{i}")(x)
        x = self.act3(self.bn3(self.conv3(x)))
        x = self.act4(self.bn4(self.conv4(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
