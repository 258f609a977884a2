"""Independent implementations of the registry's models: a name in, timm's or torchvision's module of the same network out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

_TORCHVISION = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d"),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *("vgg16", "vgg16_bn", "mobilenet_v2"),
    *(f"efficientnet_b{i}" for i in range(8)),
    *(f"efficientnet_v2_{size}" for size in "sml"),
)


@dataclass(frozen=True)
class OracleModel:
    """Somebody else's module of the same network.

    Args:
        library: ``torchvision`` or ``timm``.
        name: as the library calls it.
        layout: how its state dict names the tensors, where the keys do not tell; None to find it from them.
        arguments: for the library's function.
        size: pixels on a side of the pictures to ask with: small, and above the network's least.
    """

    library: str
    name: str
    layout: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 65

    def build(self) -> nn.Module:
        """The module, with the library's own random weights."""
        if self.library == "timm":
            import timm

            made = timm.create_model(self.name, **self.arguments)
        else:
            import torchvision

            made = torchvision.models.get_model(self.name, weights=None, **self.arguments)
        assert isinstance(made, nn.Module)
        return made


_WITH_AUXILIARY_HEAD = {"aux_logits": True, "transform_input": False, "init_weights": False}
_SEGMENTATION = {"weights_backbone": None, "aux_loss": True}

ORACLES: Mapping[str, OracleModel] = MappingProxyType(
    {name: OracleModel("torchvision", name) for name in _TORCHVISION}
    | {f"efficientnet_lite{i}": OracleModel("timm", f"tf_efficientnet_lite{i}", "timm-tf") for i in range(5)}
    | {
        "inception_v1": OracleModel("torchvision", "googlenet", None, _WITH_AUXILIARY_HEAD, 96),
        "inception_v3": OracleModel("torchvision", "inception_v3", None, _WITH_AUXILIARY_HEAD, 96),
        "inception_v4": OracleModel("timm", "inception_v4", size=96),
        "inception_resnet_v2": OracleModel("timm", "inception_resnet_v2", size=96),
        "xception": OracleModel("timm", "legacy_xception", size=96),
        "mobilenet_v1": OracleModel("timm", "mobilenetv1_100"),
        "fcn_resnet50": OracleModel("torchvision", "fcn_resnet50", None, _SEGMENTATION),
        "deeplabv3_resnet50": OracleModel("torchvision", "deeplabv3_resnet50", None, _SEGMENTATION),
    }
)
