"""What is known of the DenseNets. Weights and their figures: https://docs.pytorch.org/vision/stable/models.html."""

from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import densenet
from deploykit.models.layouts import DENSENET_LAYOUTS, PYTORCH, Conventions
from deploykit.models.published import TorchvisionFile

# With 1000 classes.
_PARAMETERS = {
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}
_WEIGHTS = {
    "densenet121": TorchvisionFile("IMAGENET1K_V1", "densenet121-a639ec97.pth", 224, 256, "bilinear", 74.434),
    "densenet161": TorchvisionFile("IMAGENET1K_V1", "densenet161-8d451a50.pth", 224, 256, "bilinear", 77.138),
    "densenet169": TorchvisionFile("IMAGENET1K_V1", "densenet169-b2777c0a.pth", 224, 256, "bilinear", 75.600),
    "densenet201": TorchvisionFile("IMAGENET1K_V1", "densenet201-c1103571.pth", 224, 256, "bilinear", 76.896),
}


def _build(variant: densenet.Variant, num_classes: int, _conventions: Conventions) -> nn.Module:
    return densenet.DenseNet(variant, num_classes)  # everything published here pads and normalizes as PyTorch does


def _entry(name: str, variant: densenet.Variant) -> ModelEntry:
    weights = _WEIGHTS[name].published()
    return ModelEntry(
        name=name,
        family="densenet",
        paper="Huang, Liu, van der Maaten & Weinberger, Densely Connected Convolutional Networks, CVPR 2017",
        paper_url="https://arxiv.org/abs/1608.06993",
        build=partial(_build, variant),
        parameters=_PARAMETERS[name],
        cam_layer="relu5",
        head="classifier",
        conventions=PYTORCH,
        layouts=DENSENET_LAYOUTS,
        image=weights.image,
        weights=(weights,),
    )


ENTRIES = tuple(_entry(name, variant) for name, variant in densenet.VARIANTS.items())
