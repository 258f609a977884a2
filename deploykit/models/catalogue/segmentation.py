"""What is known of the segmentation nets with torchvision's weights.

Weights and their figures: https://docs.pytorch.org/vision/stable/models.html, table of semantic segmentation weights (mean IoU over
the 20 categories of Pascal VOC and the background, on COCO val2017).
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import segmentation
from deploykit.models.labels import VOC_CLASSES
from deploykit.models.layouts import PYTORCH, TORCHVISION, Conventions
from deploykit.models.published import COCO_WITH_VOC_LABELS, TORCHVISION_PAGE, TORCHVISION_URL, PublishedWeights
from deploykit.spec import ImageSpec

# torchvision resizes the shorter side to 520 pixels and takes the picture in whatever shape that gives it. A graph has one shape,
# and a crop would leave part of the picture unanswered: so the whole picture is resized to 520 x 520.
_IMAGE = ImageSpec(520, 520, None, resize_rule="exact")

# Paper and its address, head, parameters with 21 classes and without the training head, file, mean IoU in percent.
_FACTS: dict[str, tuple[str, str, Callable[[int], nn.Module], int, str, float]] = {
    "fcn_resnet50": (
        "Long, Shelhamer & Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015",
        "https://arxiv.org/abs/1411.4038",
        segmentation.FCNHead,
        32_957_013,
        "fcn_resnet50_coco-1167a1af.pth",
        60.5,
    ),
    "deeplabv3_resnet50": (
        "Chen, Papandreou, Schroff & Adam, Rethinking Atrous Convolution for Semantic Image Segmentation, 2017",
        "https://arxiv.org/abs/1706.05587",
        segmentation.DeepLabHead,
        39_638_869,
        "deeplabv3_resnet50_coco-cd0a2569.pth",
        66.4,
    ),
}


def _build(make_head: Callable[[int], nn.Module], num_classes: int, _conventions: Conventions) -> nn.Module:
    return segmentation.SegmentationNet(make_head(num_classes))


def _entry(name: str) -> ModelEntry:
    paper, paper_url, make_head, parameters, file, mean_iou = _FACTS[name]
    weights = PublishedWeights(
        "COCO_WITH_VOC_LABELS_V1",
        _IMAGE,
        None,
        TORCHVISION_PAGE,
        TORCHVISION_URL + file,
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        dataset=COCO_WITH_VOC_LABELS,
        mean_iou=mean_iou,
    )
    return ModelEntry(
        name=name,
        family="segmentation",
        paper=paper,
        paper_url=paper_url,
        build=partial(_build, make_head),
        parameters=parameters,
        cam_layer="backbone.layer4",
        head="classifier.4",
        conventions=PYTORCH,
        layouts=(TORCHVISION,),
        image=_IMAGE,
        weights=(weights,),
        num_classes=len(VOC_CLASSES),
        task="segmentation",
        training_only=("aux_classifier.",),
    )


ENTRIES = tuple(_entry(name) for name in _FACTS)
