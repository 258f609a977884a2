"""FCN and DeepLabv3 on a dilated ResNet-50: image [N, 3, H, W] in, logits [N, K, H, W] out.

Sources:
    Long, Shelhamer & Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, https://arxiv.org/abs/1411.4038:
    section 3 (a classifier becomes dense, its coarse scores are enlarged). What differs, as in torchvision: the network is a
    ResNet-50 at an eighth of the resolution instead of VGG-16 at a 32nd with skip connections, its head has a 3x3 convolution of a
    quarter of the channels, and enlarging is bilinear and not learnt.
    Chen, Papandreou, Schroff & Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017,
    https://arxiv.org/abs/1706.05587: section 3.3 (atrous spatial pyramid pooling with image-level features). torchvision's
    rates are 12, 24, 36: those that the paper has at an eighth of the resolution, twice its 6, 12, 18.
    Both take the backbone of Chen's section 3.2: the last two stages dilate where they halved the resolution.

Parameter names are torchvision's. Its checkpoints hold a second head, ``aux_classifier``, which is for training alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploykit.models.families.resnet import VARIANTS, ResNet

FEATURES = 2048  # channels of ResNet-50's last stage
FCN_CHANNELS = FEATURES // 4
ASPP_CHANNELS = 256
ASPP_RATES = (12, 24, 36)


def convolution(channels_in: int, channels_out: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
    """Convolution that keeps the size, normalization and ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


def dilate(stage: nn.Sequential, first: int, rest: int) -> None:
    """Take a stage's stride away and dilate its 3x3 convolutions: by ``first`` in the first block, by ``rest`` in the others.

    What the first block reads still has the spacing of the stage before, so ``first`` is that stage's dilation.
    """
    for i, block in enumerate(stage):
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                if module.kernel_size == (3, 3):
                    module.dilation = module.padding = (rest, rest) if i else (first, first)


class Backbone(nn.Module):
    """ResNet-50 without its head, at an eighth of the picture's resolution: [N, 3, H, W] to [N, 2048, H / 8, W / 8]."""

    def __init__(self) -> None:
        super().__init__()
        resnet = ResNet(VARIANTS["resnet50"], 1)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        dilate(self.layer3, 1, 2)
        dilate(self.layer4, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


class FCNHead(nn.Sequential):
    """FCN: a 3x3 convolution, and one 1x1 that scores every place (section 3.1)."""

    def __init__(self, num_classes: int) -> None:
        scores = nn.Conv2d(FCN_CHANNELS, num_classes, 1)
        super().__init__(*convolution(FEATURES, FCN_CHANNELS, 3), nn.Dropout(0.1), scores)


class ImageFeatures(nn.Sequential):
    """DeepLabv3, section 3.3: what the whole picture shows, said again at every place."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *convolution(FEATURES, ASPP_CHANNELS, 1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        for module in self:
            x = module(x)
        return x.expand(-1, -1, height, width)  # what bilinear enlarging makes of one pixel


class ASPP(nn.Module):
    """DeepLabv3, section 3.3: one 1x1 and three dilated 3x3 convolutions and the picture's own features, beside each other."""

    def __init__(self) -> None:
        super().__init__()
        branches = [nn.Sequential(*convolution(FEATURES, ASPP_CHANNELS, 1))]
        branches += [nn.Sequential(*convolution(FEATURES, ASPP_CHANNELS, 3, rate)) for rate in ASPP_RATES]
        self.convs = nn.ModuleList([*branches, ImageFeatures()])
        self.project = nn.Sequential(*convolution(len(self.convs) * ASPP_CHANNELS, ASPP_CHANNELS, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.project(torch.cat([branch(x) for branch in self.convs], 1))
        return joined


class DeepLabHead(nn.Sequential):
    """DeepLabv3: the pyramid, a 3x3 convolution, and the 1x1 that scores every place."""

    def __init__(self, num_classes: int) -> None:
        scores = nn.Conv2d(ASPP_CHANNELS, num_classes, 1)
        super().__init__(ASPP(), *convolution(ASPP_CHANNELS, ASPP_CHANNELS, 3), scores)


class SegmentationNet(nn.Module):
    """The backbone, a head, and bilinear enlarging to the picture's size.

    Args:
        classifier: the head, [N, 2048, h, w] to [N, K, h, w].
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        scores = self.classifier(self.backbone(x))
        return F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False)
