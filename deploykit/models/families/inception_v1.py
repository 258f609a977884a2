"""Inception v1 (GoogLeNet) with batch normalization: image [N, 3, H, W] in, logits [N, K] out.

Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, https://arxiv.org/abs/1409.4842: table 1 (the network), figure
2b (the module); with batch normalization after every convolution and, as in the published weights, a 3x3 convolution where
figure 2b has a 5x5 one. The auxiliary heads of section 5 serve training only and are left out.

Parameter names are torchvision's, so its checkpoints load as they are.
"""

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import ConvBn

# Table 1: channels in, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
MODULES = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Figure 2b: four branches, put side by side. Takes a row of ``MODULES``."""

    def __init__(self, row: tuple[int, ...]) -> None:
        super().__init__()
        channels, ones, reduced3, threes, reduced5, fives, pooled = row
        self.branch1 = ConvBn(channels, ones, 1)
        self.branch2 = nn.Sequential(ConvBn(channels, reduced3, 1), ConvBn(reduced3, threes, 3, 1, 1))
        self.branch3 = nn.Sequential(ConvBn(channels, reduced5, 1), ConvBn(reduced5, fives, 3, 1, 1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvBn(channels, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionV1(nn.Module):
    """The network of table 1.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = ConvBn(3, 64, 7, 2, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvBn(64, 64, 1)
        self.conv3 = ConvBn(64, 192, 3, 1, 1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        for name, row in MODULES.items():
            self.add_module(f"inception{name}", Inception(row))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        for name in MODULES:
            if name in ("4a", "5a"):
                x = (self.maxpool3 if name == "4a" else self.maxpool4)(x)
            x = self.get_submodule(f"inception{name}")(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
