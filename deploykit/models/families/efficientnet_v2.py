"""EfficientNetV2 S, M and L: image [N, 3, H, W] in, logits [N, K] out.

Source: Tan & Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021, https://arxiv.org/abs/2104.00298: section 3.2
with figure 2 (Fused-MBConv), section 3.3 with table 4 (V2-S; a ratio of 4 in the early stages, 3x3 kernels alone, no last stage of
stride 1). M and L, which the paper scales from S without a table, are the authors' own:
https://github.com/google/automl/blob/master/efficientnetv2/effnetv2_configs.py.

Parameter names are torchvision's, so its checkpoints load as they are: ``features.0`` is the stem, ``features.1`` and on the
stages of table 4, the last of ``features`` the 1x1 convolution. MBConv is EfficientNet's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import conv_bn
from deploykit.models.families.efficientnet import MBConv, Stage
from deploykit.models.initialize import quieten_branch
from deploykit.models.layouts import Conventions


@dataclass(frozen=True)
class FusedStage:
    """A row of table 4 whose blocks are Fused-MBConv, with 3x3 kernels."""

    expand: int
    stride: int
    channels: int
    layers: int


@dataclass(frozen=True)
class Variant:
    """Table 4: the stages after the stem, which has as many channels as the first of them, and the dropout before the head."""

    fused: tuple[FusedStage, ...]
    stages: tuple[Stage, ...]
    dropout: float


VARIANTS: Mapping[str, Variant] = {
    "efficientnet_v2_s": Variant(
        (FusedStage(1, 1, 24, 2), FusedStage(4, 2, 48, 4), FusedStage(4, 2, 64, 4)),
        (Stage(4, 3, 2, 128, 6), Stage(6, 3, 1, 160, 9), Stage(6, 3, 2, 256, 15)),
        0.2,
    ),
    "efficientnet_v2_m": Variant(
        (FusedStage(1, 1, 24, 3), FusedStage(4, 2, 48, 5), FusedStage(4, 2, 80, 5)),
        (Stage(4, 3, 2, 160, 7), Stage(6, 3, 1, 176, 14), Stage(6, 3, 2, 304, 18), Stage(6, 3, 1, 512, 5)),
        0.3,
    ),
    "efficientnet_v2_l": Variant(
        (FusedStage(1, 1, 32, 4), FusedStage(4, 2, 64, 7), FusedStage(4, 2, 96, 7)),
        (Stage(4, 3, 2, 192, 10), Stage(6, 3, 1, 224, 19), Stage(6, 3, 2, 384, 25), Stage(6, 3, 1, 640, 7)),
        0.4,
    ),
}
LAST_CHANNELS = 1280  # table 4, stage 7


class FusedMBConv(nn.Module):
    """MBConv with its expansion and depthwise convolution fused into one plain 3x3 convolution (section 3.2, figure 2).

    Without expansion the 3x3 convolution is all there is. Table 4 has no squeeze-and-excitation here. Stochastic depth, which is
    the identity outside training and has no parameters, is left out.
    """

    def __init__(self, channels_in: int, stage: FusedStage, stride: int, conventions: Conventions) -> None:
        super().__init__()
        width = channels_in * stage.expand
        if stage.expand == 1:
            layers = [conv_bn(channels_in, stage.channels, 3, conventions, stride=stride, activation=nn.SiLU())]
        else:
            fused = conv_bn(channels_in, width, 3, conventions, stride=stride, activation=nn.SiLU())
            layers = [fused, conv_bn(width, stage.channels, 1, conventions)]
        self.block = nn.Sequential(*layers)
        self.is_residual = stride == 1 and channels_in == stage.channels
        if self.is_residual:
            quieten_branch(layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return x + out if self.is_residual else out


class EfficientNetV2(nn.Module):
    """One variant of the family.

    Args:
        variant: a value of ``VARIANTS``.
        num_classes: K, the number of logits.
        conventions: padding and epsilon of the weights that will be loaded.
    """

    def __init__(self, variant: Variant, num_classes: int, conventions: Conventions) -> None:
        super().__init__()
        channels = variant.fused[0].channels
        layers = [conv_bn(3, channels, 3, conventions, stride=2, activation=nn.SiLU())]
        stages: list[FusedStage | Stage] = [*variant.fused, *variant.stages]
        for stage in stages:
            blocks: list[nn.Module] = []
            for i in range(stage.layers):
                stride = stage.stride if i == 0 else 1
                if isinstance(stage, FusedStage):
                    blocks.append(FusedMBConv(channels, stage, stride, conventions))
                else:
                    blocks.append(MBConv(channels, stage, stride, conventions, lite=False))
                channels = stage.channels
            layers.append(nn.Sequential(*blocks))
        layers.append(conv_bn(channels, LAST_CHANNELS, 1, conventions, activation=nn.SiLU()))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(variant.dropout), nn.Linear(LAST_CHANNELS, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits
