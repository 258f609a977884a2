"""EfficientNet B0-B7 and EfficientNet-Lite 0-4: image [N, 3, H, W] in, logits [N, K] out.

Sources:
    Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
    https://arxiv.org/abs/1905.11946: table 1 (the baseline B0), equation 3 (compound scaling), section 4 (MBConv with
    squeeze-and-excitation) and section 5.2 (SiLU).
    EfficientNet-Lite, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no
    squeeze-and-excitation, ReLU6, and neither stem nor head is scaled.

Parameter names are torchvision's, so its checkpoints load as they are: ``features.0`` is the stem, ``features.1`` to
``features.7`` the stages of table 1, ``features.8`` the last convolution. Lite uses the same names without the
squeeze-and-excitation step. Published weights differ in two conventions, which are therefore arguments:
padding and the epsilon of batch normalization (``deploykit.models.layouts.Conventions``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deploykit.models.families.blocks import conv_bn
from deploykit.models.initialize import quieten_branch
from deploykit.models.layouts import Conventions


@dataclass(frozen=True)
class Stage:
    """A row of table 1: ``layers`` MBConv blocks, of which the first has the stride and changes the width."""

    expand: int
    kernel: int
    stride: int
    channels: int
    layers: int


# Table 1, stages 2 to 8. Stage 1 is the stem (32 channels, stride 2), stage 9 the last convolution (1280 channels) and the head.
BASELINE = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
STEM_CHANNELS, LAST_CHANNELS = 32, 1280


@dataclass(frozen=True)
class Scaling:
    """Equation 3 evaluated for one variant: factors on width and depth, and the dropout before the head.

    The factors are the published ones: the paper's alpha 1.2, beta 1.1 and gamma 1.15 to the power phi, rounded by its authors.
    """

    width: float
    depth: float
    dropout: float
    lite: bool = False


SCALINGS: Mapping[str, Scaling] = {
    "efficientnet_b0": Scaling(1.0, 1.0, 0.2),
    "efficientnet_b1": Scaling(1.0, 1.1, 0.2),
    "efficientnet_b2": Scaling(1.1, 1.2, 0.3),
    "efficientnet_b3": Scaling(1.2, 1.4, 0.3),
    "efficientnet_b4": Scaling(1.4, 1.8, 0.4),
    "efficientnet_b5": Scaling(1.6, 2.2, 0.4),
    "efficientnet_b6": Scaling(1.8, 2.6, 0.5),
    "efficientnet_b7": Scaling(2.0, 3.1, 0.5),
    "efficientnet_lite0": Scaling(1.0, 1.0, 0.2, lite=True),
    "efficientnet_lite1": Scaling(1.0, 1.1, 0.2, lite=True),
    "efficientnet_lite2": Scaling(1.1, 1.2, 0.3, lite=True),
    "efficientnet_lite3": Scaling(1.2, 1.4, 0.3, lite=True),
    "efficientnet_lite4": Scaling(1.4, 1.8, 0.3, lite=True),
}


def scale_width(channels: int, factor: float) -> int:
    """Channels times the factor, to the nearest multiple of 8 that loses no more than a tenth."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


def scale_stages(scaling: Scaling) -> tuple[Stage, ...]:
    """Table 1 scaled by equation 3. Lite keeps the depth of its first and last stage, which belong to stem and head."""
    ends = (0, len(BASELINE) - 1) if scaling.lite else ()
    return tuple(
        Stage(
            stage.expand,
            stage.kernel,
            stage.stride,
            scale_width(stage.channels, scaling.width),
            stage.layers if i in ends else math.ceil(stage.layers * scaling.depth),
        )
        for i, stage in enumerate(BASELINE)
    )


class SqueezeExcitation(nn.Module):
    """Weights each channel by a gate made from the mean of all channels (section 4, after Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.SiLU()
        self.scale_activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.activation(self.fc1(self.avgpool(x)))
        gate: Tensor = self.scale_activation(self.fc2(squeezed))
        return x * gate


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise convolution, squeeze-and-excitation, project, residual (section 4).

    Stochastic depth, which is the identity outside training and has no parameters, is left out.
    """

    def __init__(self, channels_in: int, stage: Stage, stride: int, conventions: Conventions, lite: bool) -> None:
        super().__init__()
        activation = nn.ReLU6 if lite else nn.SiLU
        width = channels_in * stage.expand
        layers: list[nn.Module] = []
        if stage.expand != 1:
            layers.append(conv_bn(channels_in, width, 1, conventions, activation=activation()))
        layers.append(conv_bn(width, width, stage.kernel, conventions, stride=stride, groups=width, activation=activation()))
        if not lite:
            layers.append(SqueezeExcitation(width, max(1, channels_in // 4)))
        layers.append(conv_bn(width, stage.channels, 1, conventions))
        self.block = nn.Sequential(*layers)
        self.is_residual = stride == 1 and channels_in == stage.channels
        if self.is_residual:
            quieten_branch(layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return x + out if self.is_residual else out


class EfficientNet(nn.Module):
    """One variant of the family.

    Args:
        scaling: a value of ``SCALINGS``.
        num_classes: K, the number of logits.
        conventions: padding and epsilon of the weights that will be loaded.
    """

    def __init__(self, scaling: Scaling, num_classes: int, conventions: Conventions) -> None:
        super().__init__()
        activation = nn.ReLU6 if scaling.lite else nn.SiLU
        stages = scale_stages(scaling)
        channels = STEM_CHANNELS if scaling.lite else scale_width(STEM_CHANNELS, scaling.width)
        layers = [conv_bn(3, channels, 3, conventions, stride=2, activation=activation())]
        for stage in stages:
            blocks = []
            for i in range(stage.layers):
                blocks.append(MBConv(channels, stage, stage.stride if i == 0 else 1, conventions, scaling.lite))
                channels = stage.channels
            layers.append(nn.Sequential(*blocks))
        last = LAST_CHANNELS if scaling.lite else scale_width(LAST_CHANNELS, scaling.width)
        layers.append(conv_bn(channels, last, 1, conventions, activation=activation()))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(scaling.dropout), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.flatten(self.avgpool(self.features(x)), 1)
        logits: Tensor = self.classifier(pooled)
        return logits
