"""The models that deploykit defines, by name, and what is known of each before it is built.

A family adds itself with a definition (its own file), its published weights (``published.py``), its layouts if checkpoints name
tensors in several ways (``layouts.py``), and its entries here.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import nn

from deploykit.errors import UsageError
from deploykit.models import efficientnet, resnet
from deploykit.models.layouts import (
    EFFICIENTNET_LAYOUTS,
    PYTORCH,
    PYTORCH_EPS_3,
    TENSORFLOW,
    TORCHVISION,
    Conventions,
    Layout,
)
from deploykit.models.published import PUBLISHED, PublishedWeights
from deploykit.spec import ImageSpec


@dataclass(frozen=True)
class ModelEntry:
    """What deploykit knows about a model before it is built.

    Args:
        name, family: as the command line takes and shows them.
        paper, paper_url: who defined it.
        build: from the number of classes and the weights' conventions to a module, image [N, 3, H, W] to logits [N, K].
        parameters: how many there are with 1000 classes.
        cam_layer: module path of the last convolutional feature map, where Grad-CAM looks unless told otherwise.
        head: module path of the linear layer that makes the logits.
        conventions: of weights under deploykit's own names, and of random ones.
        layouts: the namings of checkpoints that are understood.
        weights: the published ones, the default first.
    """

    name: str
    family: str
    paper: str
    paper_url: str
    build: Callable[[int, Conventions], nn.Module]
    parameters: int
    cam_layer: str
    head: str
    conventions: Conventions
    layouts: tuple[Layout, ...]
    weights: tuple[PublishedWeights, ...]

    @property
    def image(self) -> ImageSpec:
        """How the default weights take pictures."""
        return self.weights[0].image


# With 1000 classes.
_EFFICIENTNET_PARAMETERS = {
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
}
_RESNET_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


def _build_efficientnet(scaling: efficientnet.Scaling, num_classes: int, conventions: Conventions) -> nn.Module:
    return efficientnet.EfficientNet(scaling, num_classes, conventions)


def _build_resnet(variant: resnet.Variant, num_classes: int, _conventions: Conventions) -> nn.Module:
    return resnet.ResNet(variant, num_classes)  # every published ResNet here pads and normalizes as PyTorch does


def _efficientnet_entry(name: str) -> ModelEntry:
    scaling = efficientnet.SCALINGS[name]
    symmetric = PYTORCH_EPS_3 if name in {"efficientnet_b5", "efficientnet_b6", "efficientnet_b7"} else PYTORCH
    return ModelEntry(
        name=name,
        family="efficientnet_lite" if scaling.lite else "efficientnet",
        paper="Tan & Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019",
        paper_url="https://arxiv.org/abs/1905.11946",
        build=partial(_build_efficientnet, scaling),
        parameters=_EFFICIENTNET_PARAMETERS[name],
        cam_layer="features.8",
        head="classifier.1",
        conventions=TENSORFLOW if scaling.lite else symmetric,
        layouts=EFFICIENTNET_LAYOUTS,
        weights=PUBLISHED[name],
    )


def _resnet_entry(name: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        family="resnet",
        paper="He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, CVPR 2016",
        paper_url="https://arxiv.org/abs/1512.03385",
        build=partial(_build_resnet, resnet.VARIANTS[name]),
        parameters=_RESNET_PARAMETERS[name],
        cam_layer="layer4",
        head="fc",
        conventions=PYTORCH,
        layouts=(TORCHVISION,),
        weights=PUBLISHED[name],
    )


MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {name: _efficientnet_entry(name) for name in efficientnet.SCALINGS} | {name: _resnet_entry(name) for name in resnet.VARIANTS}
)


def find_model(name: str) -> ModelEntry:
    """The entry of that name.

    Raises:
        UsageError: there is none; the message names those that look alike.
    """
    if name in MODELS:
        return MODELS[name]
    alike = difflib.get_close_matches(name.lower().replace("-", "_"), MODELS, n=3)
    raise UsageError(
        f"there is no model {name!r}" + (f"; did you mean {' or '.join(alike)}?" if alike else ""),
        hint=f"deploykit models lists all {len(MODELS)}",
    )
