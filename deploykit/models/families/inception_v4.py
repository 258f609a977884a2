"""Inception v4: image [N, 3, H, W] in, at least 75 pixels each way, logits [N, K] out.

Source: Szegedy, Ioffe, Vanhoucke & Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
AAAI 2017, https://arxiv.org/abs/1602.07261: figure 3 (the stem), figures 4 to 6 (three kinds of module), figures 7 and 8 with table
1 (the grids made smaller), figure 9 (the network). Average pooling leaves the padding out of its mean, as in the published weights.

Parameter names are timm's, so its checkpoints load as they are.
"""

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import Branches, ConvBn, tall, wide
from deploykit.models.initialize import quieten_branch


def _pooled(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvBn(channels_in, channels_out, 1))


class PooledBeside(nn.Module):
    """Figure 3, the first and the last step that make the grid smaller: max-pooling beside a strided 3x3 convolution.

    Args:
        channels_in, channels_out: of the convolution.
        pool_first: whether the pooled maps stand before the convolution's.
    """

    def __init__(self, channels_in: int, channels_out: int, *, pool_first: bool) -> None:
        super().__init__()
        self.maxpool = nn.MaxPool2d(3, 2)
        self.conv = ConvBn(channels_in, channels_out, 3, 2)
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        pooled, convolved = self.maxpool(x), self.conv(x)
        return torch.cat([pooled, convolved] if self.pool_first else [convolved, pooled], 1)


def stem() -> list[nn.Module]:
    """Figure 3: from 299 x 299 pixels to 384 maps of 35 x 35."""
    return [
        ConvBn(3, 32, 3, 2),
        ConvBn(32, 32, 3),
        ConvBn(32, 64, 3, 1, 1),
        PooledBeside(64, 96, pool_first=True),
        Branches(
            nn.Sequential(ConvBn(160, 64, 1), ConvBn(64, 96, 3)),
            nn.Sequential(ConvBn(160, 64, 1), wide(64, 64, 7), tall(64, 64, 7), ConvBn(64, 96, 3)),
        ),
        PooledBeside(192, 192, pool_first=False),
    ]


def inception_a() -> Branches:
    """Figure 4, at 35 x 35."""
    return Branches(
        ConvBn(384, 96, 1),
        nn.Sequential(ConvBn(384, 64, 1), ConvBn(64, 96, 3, 1, 1)),
        nn.Sequential(ConvBn(384, 64, 1), ConvBn(64, 96, 3, 1, 1), ConvBn(96, 96, 3, 1, 1)),
        _pooled(384, 96),
    )


def reduction_a() -> Branches:
    """Figure 7 with k, l, m, n = 192, 224, 256, 384 (table 1): from 35 x 35 to 17 x 17."""
    return Branches(
        ConvBn(384, 384, 3, 2),
        nn.Sequential(ConvBn(384, 192, 1), ConvBn(192, 224, 3, 1, 1), ConvBn(224, 256, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


def inception_b() -> Branches:
    """Figure 5, at 17 x 17."""
    return Branches(
        ConvBn(1024, 384, 1),
        nn.Sequential(ConvBn(1024, 192, 1), wide(192, 224, 7), tall(224, 256, 7)),
        nn.Sequential(ConvBn(1024, 192, 1), tall(192, 192, 7), wide(192, 224, 7), tall(224, 224, 7), wide(224, 256, 7)),
        _pooled(1024, 128),
    )


def reduction_b() -> Branches:
    """Figure 8: from 17 x 17 to 8 x 8."""
    return Branches(
        nn.Sequential(ConvBn(1024, 192, 1), ConvBn(192, 192, 3, 2)),
        nn.Sequential(ConvBn(1024, 256, 1), wide(256, 256, 7), tall(256, 320, 7), ConvBn(320, 320, 3, 2)),
        nn.MaxPool2d(3, 2),
    )


class InceptionC(nn.Module):
    """Figure 6, at 8 x 8: two branches end in 1x3 beside 3x1."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvBn(1536, 256, 1)
        self.branch1_0 = ConvBn(1536, 384, 1)
        self.branch1_1a = wide(384, 256, 3)
        self.branch1_1b = tall(384, 256, 3)
        self.branch2_0 = ConvBn(1536, 384, 1)
        self.branch2_1 = tall(384, 448, 3)
        self.branch2_2 = wide(448, 512, 3)
        self.branch2_3a = wide(512, 256, 3)
        self.branch2_3b = tall(512, 256, 3)
        self.branch3 = _pooled(1536, 256)
        for last in (self.branch2_3a, self.branch2_3b):  # of a long branch, as in Branches
            quieten_branch(last)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch1_0(x)
        twice = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        expanded = [self.branch1_1a(once), self.branch1_1b(once), self.branch2_3a(twice), self.branch2_3b(twice)]
        return torch.cat([self.branch0(x), *expanded, self.branch3(x)], 1)


class InceptionV4(nn.Module):
    """The network of figure 9.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        modules = stem()
        modules += [inception_a() for _ in range(4)]
        modules += [reduction_a()]
        modules += [inception_b() for _ in range(7)]
        modules += [reduction_b()]
        modules += [InceptionC() for _ in range(3)]
        self.features = nn.Sequential(*modules)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(1536, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last_linear(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits
