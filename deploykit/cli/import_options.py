"""The options of ``deploykit import`` and ``export`` that say how pictures enter a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from deploykit.spec import COLOUR_ORDERS, IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, RESIZE_RULES

Function = TypeVar("Function", bound=Callable[..., Any])
Channels = tuple[float, float, float]

_PIXELS = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
PRESETS: Mapping[str, tuple[Channels, Channels]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0..255": _PIXELS,
    "none": _PIXELS,
    # The means of ImageNet's training pictures in BGR order are 103.939, 116.779, 123.68 (the VGG release, 2014).
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), _PIXELS[1]),
}
"""Mean and std in RGB order, in units of pixel / 255. ``caffe`` also means BGR."""


@dataclass(frozen=True)
class ImageOptions:
    """What the user said about pictures; None where nothing."""

    image_size: tuple[int, int] | None = None
    resize: int | None = None
    resize_rule: str | None = None
    interpolation: str | None = None
    normalize: str | None = None
    mean: Channels | None = None
    std: Channels | None = None
    pixel_scale: str | None = None
    colour_order: str | None = None


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is no size, expected 224, or 48x192 (height x width)")
    return int(parts[0]), int(parts[-1])


def _channels(text: str) -> Channels:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise click.BadParameter(f"{text!r} is neither three numbers such as 0.485,0.456,0.406 nor one for all channels")
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


_OPTIONS: tuple[tuple[str, Any, str | None, str], ...] = (
    ("--image-size", _size, "N|HxW", "What the network sees. [default: what the graph or the weights say]"),
    ("--resize", click.IntRange(1, 65535), None, "Length of the shorter side before the crop. [default: no margin to crop]"),
    (
        "--resize-rule",
        click.Choice(RESIZE_RULES),
        None,
        "The shorter side, then a centre crop; or the exact size. [default: shorter, or exact where the size is not square]",
    ),
    ("--interpolation", click.Choice(INTERPOLATIONS), None, "Of the resizing. [default: bilinear]"),
    (
        "--normalize",
        click.Choice(list(PRESETS)),
        None,
        "What the network sees of a pixel, where nothing else says it; caffe also means BGR. This, or --mean and --std.",
    ),
    ("--mean", _channels, "R,G,B", "In RGB order whatever the network takes: it sees (pixel - mean) / std."),
    ("--std", _channels, "R,G,B", "In RGB order too. One number stands for all channels."),
    ("--pixel-scale", click.Choice(["1", "255"]), None, "A white pixel in the units of --mean and --std. [default: 1]"),
    ("--colour-order", click.Choice(COLOUR_ORDERS), None, "In which order the network takes its channels. [default: rgb]"),
)


def image_options(function: Function) -> Function:
    """Size, resizing, normalization and colour order: the fields of `ImageOptions`."""
    for name, kind, metavar, text in reversed(_OPTIONS):
        function = click.option(name, type=kind, metavar=metavar, help=text)(function)
    return function
