"""Small values that every stage shares: how a picture becomes an input, and at which precision a graph computes.

Each value is frozen and checks itself when made, so a value that exists is a value that is right.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeGuard

from deploykit.errors import UsageError

INTERPOLATIONS = ("bilinear", "bicubic")
RESIZE_RULES = ("shorter", "exact")
COLOUR_ORDERS = ("rgb", "bgr")
INPUT_KINDS = ("pixels", "float", "photo")
"""What a graph's input ``image`` is: uint8 [N, H, W, 3] at the network's size; the same normalized, float32 [N, 3, H, W]; or one
photo uint8 [1, H, W, 3] at its own size, which the graph resizes itself."""
PHOTO_SIDES = (8, 4096)
"""Least and greatest width and height of a photo that a graph resizes itself: what a TensorRT profile must be given beforehand."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Precision(str, Enum):
    """The arithmetic of a graph; also the value of ``--precision`` and the name of the bundle's folder."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ImageSpec:
    """How a photo becomes the network's input. It belongs to the weights and is the only copy of these numbers.

    Args:
        height, width: what the network sees, in pixels.
        resize_size: the length in pixels to which the shorter side is resized before the centre crop (``shorter``), as
            torchvision and timm evaluation do; ``None`` under ``exact``. Elsewhere the same is written as a crop fraction,
            ``height / resize_size``; pixels are kept because a fraction does not round back for every size (224 / 232).
        resize_rule: ``shorter`` resizes the shorter side and crops the centre; ``exact`` resizes to height x width,
            whatever the aspect ratio.
        interpolation: Pillow's antialiased ``bilinear`` or ``bicubic``.
        mean, std: per channel in RGB order, in units of pixel / 255: normalized = (pixel / 255 - mean) / std.
        colour_order: the order in which the network takes its channels. deploykit's own inputs are always RGB; the graph swaps.
    """

    height: int
    width: int
    resize_size: int | None
    resize_rule: str = "shorter"
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    colour_order: str = "rgb"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("resize_rule", RESIZE_RULES),
            ("interpolation", INTERPOLATIONS),
            ("colour_order", COLOUR_ORDERS),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(f"image spec: {name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if not (_is_length(self.height) and _is_length(self.width)):
            raise UsageError(f"image spec: size is {self.height!r} x {self.width!r}, expected whole numbers from 1 to 65535")
        if self.resize_rule == "exact":
            if self.resize_size is not None:
                raise UsageError(f"image spec: resize_size is {self.resize_size!r}, expected none under the exact rule")
        elif not _is_length(self.resize_size) or self.resize_size < max(self.height, self.width):
            raise UsageError(
                f"image spec: resize_size is {self.resize_size!r}, expected at least {max(self.height, self.width)}, "
                f"or the crop of {self.height} x {self.width} would not fit"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if (
                not isinstance(values, tuple)
                or len(values) != 3
                or not all(isinstance(v, int | float) and math.isfinite(v) for v in values)
            ):
                raise UsageError(f"image spec: {name} is {values!r}, expected three finite numbers")
        if min(self.std) <= 0:
            raise UsageError(f"image spec: std is {self.std!r}, expected positive numbers")

    @property
    def normalized_range(self) -> tuple[float, float]:
        """The least and the greatest value that a normalized pixel can have, over all channels."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return min((0 - mean) / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)

    def to_json(self) -> dict[str, Any]:
        """The spec as it stands in a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ImageSpec":
        """Read a spec from a manifest.

        Raises:
            UsageError: a field is missing, unknown, or holds a value that is not allowed.
        """
        known = cls.__dataclass_fields__.keys()
        if set(data) != set(known):
            raise UsageError(f"image spec: fields are {', '.join(sorted(data))}, expected {', '.join(sorted(known))}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)


def _is_length(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535
