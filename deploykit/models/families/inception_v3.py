"""Inception v3: image [N, 3, H, W] in, at least 75 pixels each way, logits [N, K] out.

Source: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
https://arxiv.org/abs/1512.00567: table 1 (the network), figures 5 to 7 (its three kinds of module), figure 10 (the grids made
smaller), section 3 (why convolutions are factored). The auxiliary head of section 4 serves training only and is left out.

Parameter names are torchvision's, so its checkpoints load as they are.
"""

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import ConvBn, tall, wide


class InceptionA(nn.Module):
    """Figure 5: a 5x5 convolution beside two 3x3 ones, at 35 x 35."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBn(channels, 64, 1)
        self.branch5x5_1 = ConvBn(channels, 48, 1)
        self.branch5x5_2 = ConvBn(48, 64, 5, 1, 2)
        self.branch3x3dbl_1 = ConvBn(channels, 64, 1)
        self.branch3x3dbl_2 = ConvBn(64, 96, 3, 1, 1)
        self.branch3x3dbl_3 = ConvBn(96, 96, 3, 1, 1)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = ConvBn(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), fives, threes, self.branch_pool(self.pool(x))], 1)


class InceptionB(nn.Module):
    """Figure 10: from 35 x 35 to 17 x 17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBn(channels, 384, 3, 2)
        self.branch3x3dbl_1 = ConvBn(channels, 64, 1)
        self.branch3x3dbl_2 = ConvBn(64, 96, 3, 1, 1)
        self.branch3x3dbl_3 = ConvBn(96, 96, 3, 2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), threes, self.pool(x)], 1)


class InceptionC(nn.Module):
    """Figure 6 with n = 7, at 17 x 17."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBn(channels, 192, 1)
        self.branch7x7_1 = ConvBn(channels, width, 1)
        self.branch7x7_2 = wide(width, width, 7)
        self.branch7x7_3 = tall(width, 192, 7)
        self.branch7x7dbl_1 = ConvBn(channels, width, 1)
        self.branch7x7dbl_2 = tall(width, width, 7)
        self.branch7x7dbl_3 = wide(width, width, 7)
        self.branch7x7dbl_4 = tall(width, width, 7)
        self.branch7x7dbl_5 = wide(width, 192, 7)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = ConvBn(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        sevens = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), sevens, twice, self.branch_pool(self.pool(x))], 1)


class InceptionD(nn.Module):
    """Figure 10 again: from 17 x 17 to 8 x 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBn(channels, 192, 1)
        self.branch3x3_2 = ConvBn(192, 320, 3, 2)
        self.branch7x7x3_1 = ConvBn(channels, 192, 1)
        self.branch7x7x3_2 = wide(192, 192, 7)
        self.branch7x7x3_3 = tall(192, 192, 7)
        self.branch7x7x3_4 = ConvBn(192, 192, 3, 2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3_2(self.branch3x3_1(x))
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([threes, sevens, self.pool(x)], 1)


class InceptionE(nn.Module):
    """Figure 7: 1x3 beside 3x1, at 8 x 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBn(channels, 320, 1)
        self.branch3x3_1 = ConvBn(channels, 384, 1)
        self.branch3x3_2a = wide(384, 384, 3)
        self.branch3x3_2b = tall(384, 384, 3)
        self.branch3x3dbl_1 = ConvBn(channels, 448, 1)
        self.branch3x3dbl_2 = ConvBn(448, 384, 3, 1, 1)
        self.branch3x3dbl_3a = wide(384, 384, 3)
        self.branch3x3dbl_3b = tall(384, 384, 3)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = ConvBn(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        expanded = [self.branch3x3_2a(once), self.branch3x3_2b(once), self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        return torch.cat([self.branch1x1(x), *expanded, self.branch_pool(self.pool(x))], 1)


class InceptionV3(nn.Module):
    """The network of table 1.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBn(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvBn(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBn(32, 64, 3, 1, 1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvBn(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBn(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
