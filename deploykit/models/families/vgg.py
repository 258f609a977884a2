"""VGG-16, VGG-16 with batch normalization and VGG-16 for class activation mapping: image [N, 3, H, W] in, logits [N, K] out.

Sources:
    Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
    https://arxiv.org/abs/1409.1556: section 2.1 (3x3 convolutions, max-pooling, three linear layers) and table 1, column D.
    Batch normalization, which the paper does not have, stands behind every convolution in torchvision's vgg16_bn.
    Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016,
    https://arxiv.org/abs/1512.04150: section 2 (class activation mapping) and section 3.1 (VGGnet-GAP).
    He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", ICCV 2015, https://arxiv.org/abs/1502.01852: section 2.2, equation 10, for
    the random weights: without normalization PyTorch's own halve the signal in every layer, and all pictures get the same logits.

Parameter names are torchvision's, so its checkpoints of vgg16 and vgg16_bn load as they are. In torchvision the pooling to
7 x 7 before the linear layers is there for other sizes than 224 pixels, where it changes nothing.
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

# Table 1, column D: channels of each convolution, block by block; max-pooling by 2 ends a block.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 4096  # table 1: FC-4096 twice
POOLED = 7  # pixels on a side of what the first linear layer reads, at 224 x 224
CAM_CHANNELS = 1024  # Zhou 2016, section 3.1

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution with stride 1 that keeps the size (section 2.1), its random weights made for a ReLU behind it."""
    return rectified(nn.Conv2d(channels_in, channels_out, 3, padding=1))


def hidden(features_in: int, features_out: int) -> nn.Linear:
    """A linear layer, its random weights made for a ReLU behind it."""
    return rectified(nn.Linear(features_in, features_out))


def rectified(layer: Layer) -> Layer:
    """The layer with random weights that keep the signal's mean square through a ReLU (He 2015, equation 10) and no bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolutions(batch_norm: bool) -> Iterator[nn.Module]:
    """Column D of table 1 up to the last max-pooling, in order."""
    channels = 3
    for block in BLOCKS:
        for width in block:
            yield convolution(channels, width)
            if batch_norm:
                yield nn.BatchNorm2d(width)
            yield nn.ReLU()
            channels = width
        yield nn.MaxPool2d(2, 2)


class VGG16(nn.Module):
    """Column D of table 1, with batch normalization or without.

    Args:
        num_classes: K, the number of logits.
        batch_norm: put it behind every convolution.
    """

    def __init__(self, num_classes: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(*convolutions(batch_norm))
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED)
        self.classifier = nn.Sequential(
            hidden(BLOCKS[-1][-1] * POOLED * POOLED, HIDDEN),
            nn.ReLU(),
            nn.Dropout(),
            hidden(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(HIDDEN, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        if maps.shape[-2:] != (POOLED, POOLED):  # at 224 pixels the pooling would be two idle operators of the explain graph
            maps = self.avgpool(maps)
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


class VGG16GAP(nn.Module):
    """VGGnet-GAP (Zhou 2016, section 3.1): a VGG-16 whose logits are linear in the means of its last feature maps.

    The layers behind conv5_3, from pool5 to the softmax, are gone, so a picture of 224 pixels has maps of 14 x 14. In their place:
    a 3x3 convolution with stride 1, padding 1 and 1024 channels, global average pooling, one linear layer. The ReLU and the dropout
    are those of the authors' release (https://github.com/zhoubolei/CAM, models/deploy_vgg16CAM.prototxt), whose convolution has two
    groups besides; the paper's text has none.

    ``features`` holds VGG-16's layers under VGG-16's names. A row of ``classifier.weight`` is w_c of the paper's equation 2.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*list(convolutions(batch_norm=False))[:-1])
        self.cam_conv = convolution(BLOCKS[-1][-1], CAM_CHANNELS)
        self.cam_relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout()
        self.classifier = nn.Linear(CAM_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.cam_relu(self.cam_conv(self.features(x)))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.avgpool(maps), 1)))
        return logits
