"""What is known of the Inceptions.

Weights and their figures: for v1 and v3 https://docs.pytorch.org/vision/stable/models.html; for v4 and Inception-ResNet-v2 timm's,
which were TensorFlow's, and timm's table of results. The digests of timm's files are not known here, so they are no downloads: they
are given with --weights.

torchvision first turns pictures that were normalized as ImageNet's into `(x * std + mean - 0.5) / 0.5` (``transform_input``).
Here that is a mean and a standard deviation of 0.5, and no part of the graph. Parameters are counted without the auxiliary heads.
"""

from dataclasses import replace

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import inception_resnet_v2, inception_v1, inception_v3, inception_v4
from deploykit.models.layouts import PYTORCH_EPS_3, TIMM_OWN, TORCHVISION, Conventions
from deploykit.models.published import PublishedWeights, TorchvisionFile
from deploykit.spec import ImageSpec

_TIMM_RESULTS = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"


def _published(file: TorchvisionFile) -> PublishedWeights:
    weights = file.published()
    return replace(weights, image=replace(weights.image, mean=(0.5,) * 3, std=(0.5,) * 3))


_V1 = _published(TorchvisionFile("IMAGENET1K_V1", "googlenet-1378be20.pth", 224, 256, "bilinear", 69.778))
_V3 = _published(TorchvisionFile("IMAGENET1K_V1", "inception_v3_google-0cc3c7bd.pth", 299, 342, "bilinear", 77.294))


def _timm(name: str, resize: int, top1: float) -> PublishedWeights:
    image = ImageSpec(299, 299, resize, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    return PublishedWeights(name, image, top1, _TIMM_RESULTS)


_V4 = _timm("inception_v4.tf_in1k", 341, 80.156)
_RESNET_V2 = _timm("inception_resnet_v2.tf_in1k", 333, 80.462)


def _build_v1(num_classes: int, _conventions: Conventions) -> nn.Module:
    return inception_v1.InceptionV1(num_classes)


def _build_v3(num_classes: int, _conventions: Conventions) -> nn.Module:
    return inception_v3.InceptionV3(num_classes)


def _build_v4(num_classes: int, _conventions: Conventions) -> nn.Module:
    return inception_v4.InceptionV4(num_classes)


def _build_resnet_v2(num_classes: int, _conventions: Conventions) -> nn.Module:
    return inception_resnet_v2.InceptionResNetV2(num_classes)


_V4_PAPER = "Szegedy, Ioffe, Vanhoucke & Alemi, Inception-v4, Inception-ResNet and the Impact of Residual Connections, AAAI 2017"

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
    ModelEntry(
        name="inception_v4",
        family="inception",
        paper=_V4_PAPER,
        paper_url="https://arxiv.org/abs/1602.07261",
        build=_build_v4,
        parameters=42_679_816,
        cam_layer="features.21",
        head="last_linear",
        conventions=PYTORCH_EPS_3,
        layouts=(TIMM_OWN,),
        image=_V4.image,
        weights=(_V4,),
    ),
    ModelEntry(
        name="inception_resnet_v2",
        family="inception",
        paper=_V4_PAPER,
        paper_url="https://arxiv.org/abs/1602.07261",
        build=_build_resnet_v2,
        parameters=55_843_464,
        cam_layer="conv2d_7b",
        head="classif",
        conventions=PYTORCH_EPS_3,
        layouts=(TIMM_OWN,),
        image=_RESNET_V2.image,
        weights=(_RESNET_V2,),
    ),
)
