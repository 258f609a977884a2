"""Inception-ResNet-v2: image [N, 3, H, W] in, at least 75 pixels each way, logits [N, K] out.

Source: Szegedy, Ioffe, Vanhoucke & Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
AAAI 2017, https://arxiv.org/abs/1602.07261: figures 16, 17 and 19 (three kinds of residual module), figures 7 and 18 with table 1
(the grids made smaller), figure 15 (the network), section 3.3 (residuals scaled down).

The published weights, and so this file, differ from the paper: the stem is that of Inception v3, with one module of four branches
behind it, instead of figure 3; modules are repeated 10, 20 and 10 times instead of 5, 10 and 5; they carry 320, 1088 and 2080 maps
instead of 384, 1154 and 2048; a convolution to 1536 maps stands before the classifier.

Parameter names are timm's, so its checkpoints load as they are.
"""

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import Branches, ConvBn, tall, wide

# Section 3.3 asks for 0.1 to 0.3; these were trained with.
SCALE_A, SCALE_B, SCALE_C = 0.17, 0.10, 0.20


class Residual(nn.Module):
    """Branches side by side, a 1x1 convolution without normalization, and what it says, scaled down, added to the input.

    Args:
        branches: from `channels` maps each.
        joined: the sum of the branches' channels.
        channels: before and after.
        scale: of the branches' share (section 3.3).
        rectified: whether a ReLU follows the sum. The last module of the network has none.
    """

    def __init__(self, branches: list[nn.Module], joined: int, channels: int, scale: float, *, rectified: bool = True) -> None:
        super().__init__()
        self.branch_count = len(branches)
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale = scale
        self.act = nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat([self.get_submodule(f"branch{i}")(x) for i in range(self.branch_count)], 1)
        result: Tensor = self.act(self.conv2d(branches) * self.scale + x)
        return result


def residual_a() -> Residual:
    """Figure 16, at 35 x 35."""
    branches = [
        ConvBn(320, 32, 1),
        nn.Sequential(ConvBn(320, 32, 1), ConvBn(32, 32, 3, 1, 1)),
        nn.Sequential(ConvBn(320, 32, 1), ConvBn(32, 48, 3, 1, 1), ConvBn(48, 64, 3, 1, 1)),
    ]
    return Residual(branches, 32 + 32 + 64, 320, SCALE_A)


def residual_b() -> Residual:
    """Figure 17, at 17 x 17."""
    branches = [ConvBn(1088, 192, 1), nn.Sequential(ConvBn(1088, 128, 1), wide(128, 160, 7), tall(160, 192, 7))]
    return Residual(branches, 192 + 192, 1088, SCALE_B)


def residual_c(*, last: bool = False) -> Residual:
    """Figure 19, at 8 x 8; the last of the network is neither scaled down nor rectified."""
    branches = [ConvBn(2080, 192, 1), nn.Sequential(ConvBn(2080, 192, 1), wide(192, 224, 3), tall(224, 256, 3))]
    return Residual(branches, 192 + 256, 2080, 1.0 if last else SCALE_C, rectified=not last)


def opening() -> Branches:
    """What follows the stem in the published weights, at 35 x 35: Inception v3's first module, with other widths."""
    return Branches(
        ConvBn(192, 96, 1),
        nn.Sequential(ConvBn(192, 48, 1), ConvBn(48, 64, 5, 1, 2)),
        nn.Sequential(ConvBn(192, 64, 1), ConvBn(64, 96, 3, 1, 1), ConvBn(96, 96, 3, 1, 1)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvBn(192, 64, 1)),
    )


def reduction_a() -> Branches:
    """Figure 7 with k, l, m, n = 256, 256, 384, 384 (table 1): from 35 x 35 to 17 x 17."""
    return Branches(
        ConvBn(320, 384, 3, 2),
        nn.Sequential(ConvBn(320, 256, 1), ConvBn(256, 256, 3, 1, 1), ConvBn(256, 384, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def reduction_b() -> Branches:
    """Figure 18: from 17 x 17 to 8 x 8."""
    return Branches(
        nn.Sequential(ConvBn(1088, 256, 1), ConvBn(256, 384, 3, 2)),
        nn.Sequential(ConvBn(1088, 256, 1), ConvBn(256, 288, 3, 2)),
        nn.Sequential(ConvBn(1088, 256, 1), ConvBn(256, 288, 3, 1, 1), ConvBn(288, 320, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


class InceptionResNetV2(nn.Module):
    """The network of figure 15, as its weights were published.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv2d_1a = ConvBn(3, 32, 3, 2)
        self.conv2d_2a = ConvBn(32, 32, 3)
        self.conv2d_2b = ConvBn(32, 64, 3, 1, 1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = ConvBn(64, 80, 1)
        self.conv2d_4a = ConvBn(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = opening()
        self.repeat = nn.Sequential(*[residual_a() for _ in range(10)])
        self.mixed_6a = reduction_a()
        self.repeat_1 = nn.Sequential(*[residual_b() for _ in range(20)])
        self.mixed_7a = reduction_b()
        self.repeat_2 = nn.Sequential(*[residual_c() for _ in range(9)])
        self.block8 = residual_c(last=True)
        self.conv2d_7b = ConvBn(2080, 1536, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classif = nn.Linear(1536, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = self.maxpool_5a(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat(self.mixed_5b(x))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.repeat_2(self.mixed_7a(x))
        x = self.conv2d_7b(self.block8(x))
        logits: Tensor = self.classif(torch.flatten(self.avgpool(x), 1))
        return logits
