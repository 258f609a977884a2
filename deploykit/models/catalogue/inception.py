"""What is known of the Inceptions. Weights and their figures: https://docs.pytorch.org/vision/stable/models.html.

torchvision first turns pictures that were normalized as ImageNet's into `(x * std + mean - 0.5) / 0.5` (``transform_input``).
Here that is a mean and a standard deviation of 0.5, and no part of the graph. Parameters are counted without the auxiliary heads.
"""

from dataclasses import replace

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import inception_v1, inception_v3
from deploykit.models.layouts import PYTORCH_EPS_3, TORCHVISION, Conventions
from deploykit.models.published import PublishedWeights, TorchvisionFile


def _published(file: TorchvisionFile) -> PublishedWeights:
    weights = file.published()
    return replace(weights, image=replace(weights.image, mean=(0.5,) * 3, std=(0.5,) * 3))


_V1 = _published(TorchvisionFile("IMAGENET1K_V1", "googlenet-1378be20.pth", 224, 256, "bilinear", 69.778))
_V3 = _published(TorchvisionFile("IMAGENET1K_V1", "inception_v3_google-0cc3c7bd.pth", 299, 342, "bilinear", 77.294))


def _build_v1(num_classes: int, _conventions: Conventions) -> nn.Module:
    return inception_v1.InceptionV1(num_classes)


def _build_v3(num_classes: int, _conventions: Conventions) -> nn.Module:
    return inception_v3.InceptionV3(num_classes)


ENTRIES = (
    ModelEntry(
        name="inception_v1",
        family="inception",
        paper="Szegedy et al., Going Deeper with Convolutions, CVPR 2015",
        paper_url="https://arxiv.org/abs/1409.4842",
        build=_build_v1,
        parameters=6_624_904,
        cam_layer="inception5b",
        head="fc",
        conventions=PYTORCH_EPS_3,
        layouts=(TORCHVISION,),
        image=_V1.image,
        weights=(_V1,),
        training_only=("aux1.", "aux2."),
    ),
    ModelEntry(
        name="inception_v3",
        family="inception",
        paper="Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, Rethinking the Inception Architecture for Computer Vision, CVPR 2016",
        paper_url="https://arxiv.org/abs/1512.00567",
        build=_build_v3,
        parameters=23_834_568,
        cam_layer="Mixed_7c",
        head="fc",
        conventions=PYTORCH_EPS_3,
        layouts=(TORCHVISION,),
        image=_V3.image,
        weights=(_V3,),
        training_only=("AuxLogits.",),
    ),
)
