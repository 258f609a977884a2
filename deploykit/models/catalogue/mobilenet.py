"""What is known of the MobileNets.

Weights and their figures: for v2 https://docs.pytorch.org/vision/stable/models.html; for v1 timm's, at its size of training
(https://github.com/huggingface/pytorch-image-models, README of August 2024). The digest of timm's file is not known here, so it is
no download: it is given with --weights.
"""

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import mobilenet_v1, mobilenet_v2
from deploykit.models.layouts import MOBILENET_V2_LAYOUTS, PYTORCH, TIMM_OWN, Conventions
from deploykit.models.published import PublishedWeights, TorchvisionFile
from deploykit.spec import ImageSpec

_V1_WEIGHTS = PublishedWeights(
    "mobilenetv1_100.ra4_e3600_r224_in1k",
    ImageSpec(224, 224, 256, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
    75.382,
    "https://huggingface.co/timm/mobilenetv1_100.ra4_e3600_r224_in1k",
)
_V2_WEIGHTS = tuple(
    file.published()
    for file in (
        TorchvisionFile("IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth", 224, 232, "bilinear", 72.154),
        TorchvisionFile("IMAGENET1K_V1", "mobilenet_v2-b0353104.pth", 224, 256, "bilinear", 71.878),
    )
)


def _build_v1(num_classes: int, _conventions: Conventions) -> nn.Module:
    return mobilenet_v1.MobileNetV1(num_classes)  # timm's weights pad and normalize as PyTorch does


def _build_v2(num_classes: int, conventions: Conventions) -> nn.Module:
    return mobilenet_v2.MobileNetV2(num_classes, conventions)


ENTRIES = (
    ModelEntry(
        name="mobilenet_v1",
        family="mobilenet",
        paper="Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017",
        paper_url="https://arxiv.org/abs/1704.04861",
        build=_build_v1,
        parameters=4_231_976,
        cam_layer="blocks",
        head="classifier",
        conventions=PYTORCH,
        layouts=(TIMM_OWN,),
        image=_V1_WEIGHTS.image,
        weights=(_V1_WEIGHTS,),
    ),
    ModelEntry(
        name="mobilenet_v2",
        family="mobilenet",
        paper="Sandler, Howard, Zhu, Zhmoginov & Chen, MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
        paper_url="https://arxiv.org/abs/1801.04381",
        build=_build_v2,
        parameters=3_504_872,
        cam_layer="features.18",
        head="classifier.1",
        conventions=PYTORCH,
        layouts=MOBILENET_V2_LAYOUTS,
        image=_V2_WEIGHTS[0].image,
        weights=_V2_WEIGHTS,
    ),
)
