"""What is known of the VGGs. Weights and their figures: https://docs.pytorch.org/vision/stable/models.html.

torchvision's IMAGENET1K_FEATURES of vgg16 are left out: they have no classifier. VGGnet-GAP was published for Caffe alone
(https://github.com/zhoubolei/CAM), so vgg16_cam takes pictures as VGG-16 does.
"""

from dataclasses import replace
from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import vgg
from deploykit.models.layouts import PYTORCH, TORCHVISION, Conventions
from deploykit.models.published import TorchvisionFile

_VGG16_WEIGHTS = TorchvisionFile("IMAGENET1K_V1", "vgg16-397923af.pth", 224, 256, "bilinear", 71.592).published()
_VGG16_BN_WEIGHTS = TorchvisionFile("IMAGENET1K_V1", "vgg16_bn-6c64b313.pth", 224, 256, "bilinear", 73.360).published()


def _build_vgg16(batch_norm: bool, num_classes: int, _conventions: Conventions) -> nn.Module:
    return vgg.VGG16(num_classes, batch_norm=batch_norm)  # everything published here pads and normalizes as PyTorch does


def _build_cam(num_classes: int, _conventions: Conventions) -> nn.Module:
    return vgg.VGG16GAP(num_classes)


_VGG16 = ModelEntry(
    name="vgg16",
    family="vgg",
    paper="Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
    paper_url="https://arxiv.org/abs/1409.1556",
    build=partial(_build_vgg16, False),
    parameters=138_357_544,
    cam_layer="features.29",  # relu5_3, before pool5, as in Grad-CAM's paper
    head="classifier.6",
    conventions=PYTORCH,
    layouts=(TORCHVISION,),
    image=_VGG16_WEIGHTS.image,
    weights=(_VGG16_WEIGHTS,),
)

ENTRIES = (
    _VGG16,
    replace(
        _VGG16,
        name="vgg16_bn",
        build=partial(_build_vgg16, True),
        parameters=138_365_992,
        cam_layer="features.42",
        image=_VGG16_BN_WEIGHTS.image,
        weights=(_VGG16_BN_WEIGHTS,),
    ),
    replace(
        _VGG16,
        name="vgg16_cam",
        paper="Zhou, Khosla, Lapedriza, Oliva & Torralba, Learning Deep Features for Discriminative Localization, CVPR 2016",
        paper_url="https://arxiv.org/abs/1512.04150",
        build=_build_cam,
        parameters=20_459_304,
        cam_layer="cam_relu",
        head="classifier",
        weights=(),
    ),
)
