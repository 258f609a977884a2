"""The image spec of a graph from elsewhere: from the options, from what the graph says about itself, and from its input.

What the graph says (`deploykit.graph.describe`) goes before a default, what the user says goes before both. The normalization has
no default: a wrong one gives confident wrong answers, and nothing downstream would notice.
"""

import json
from collections.abc import Mapping

from deploykit.cli.import_options import PRESETS, Channels, ImageOptions
from deploykit.errors import UsageError
from deploykit.graph.foreign import ForeignInput
from deploykit.spec import ImageSpec

_ASK = (
    "say how the model was trained: --normalize imagenet (torchvision, timm), -1..1 (Keras MobileNet, TensorFlow), 0..1, "
    "0..255, caffe (BGR minus mean), or --mean R,G,B --std R,G,B"
)


def described_image(description: Mapping[str, str]) -> ImageSpec | None:
    """The image spec that a graph of deploykit's carries; None in a graph from elsewhere.

    Raises:
        UsageError: it is damaged.
    """
    text = description.get("deploykit.image")
    if text is None:
        return None
    try:
        return ImageSpec.from_json(json.loads(text))
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"the graph's entry deploykit.image is no image spec: {error}") from error


def resolve_image(
    options: ImageOptions, source: ForeignInput, known: ImageSpec | None, *, takes_pixels: bool
) -> tuple[ImageSpec, list[str]]:
    """The image spec of a graph, and what was assumed in it, in sentences.

    Args:
        source: what the graph takes.
        known: what it says about itself.
        takes_pixels: True where the graph normalizes by ``known`` itself.

    Raises:
        UsageError: the size or the normalization is not known, or options contradict the graph or each other.
    """
    height, width = _size(options, source, known)
    mean, std, order = _normalization(options, source, known, takes_pixels=takes_pixels)
    kept = known if known is not None and (known.height, known.width) == (height, width) else None
    square = height == width
    rule = options.resize_rule or (kept.resize_rule if kept else "shorter" if square or options.resize else "exact")
    resize = options.resize
    if resize is None and rule == "shorter":
        resize = kept.resize_size if kept and kept.resize_size else max(height, width)
    image = ImageSpec(
        height=height,
        width=width,
        resize_size=resize,
        resize_rule=rule,
        interpolation=options.interpolation or (known.interpolation if known else "bilinear"),
        mean=mean,
        std=std,
        colour_order=options.colour_order or order or (known.colour_order if known else "rgb"),
    )
    return image, _assumptions(options, image, known, order)


def _assumptions(options: ImageOptions, image: ImageSpec, known: ImageSpec | None, order: str | None) -> list[str]:
    if known is not None:
        return []
    notes = []
    if not (options.resize or options.resize_rule):
        how = f"the shorter side to {image.resize_size}, then the centre" if image.resize_rule == "shorter" else "to the exact size"
        notes.append(f"resizing is assumed: {how} ({image.interpolation}); change it by --resize and --resize-rule")
    if not (options.colour_order or order):
        notes.append("colour order is assumed: rgb; change it by --colour-order bgr")
    return notes


def _size(options: ImageOptions, source: ForeignInput, known: ImageSpec | None) -> tuple[int, int]:
    asked = options.image_size or ((known.height, known.width) if known else (source.height, source.width))
    height, width = source.height or asked[0], source.width or asked[1]
    if height is None or width is None:
        seen = f"{source.height or 'any'} x {source.width or 'any'}"
        raise UsageError(
            f"the graph takes pictures of {seen} pixels, and one size is needed", hint="say it with --image-size N or HxW"
        )
    if (height, width) != asked:
        raise UsageError(f"the graph takes {height} x {width} pixels, and {asked[0]} x {asked[1]} were asked for")
    return height, width


def _normalization(
    options: ImageOptions, source: ForeignInput, known: ImageSpec | None, *, takes_pixels: bool
) -> tuple[Channels, Channels, str | None]:
    """Mean, std, and the colour order where the choice implies one."""
    given = options.normalize is not None or options.mean is not None or options.std is not None
    if takes_pixels and known is not None:
        if given or options.colour_order not in (None, known.colour_order):
            raise UsageError("the graph normalizes pixels itself", hint="leave out --normalize, --mean, --std and --colour-order")
        return known.mean, known.std, None
    if source.dtype == "uint8":
        if given and options.normalize not in ("0..255", "none"):
            raise UsageError(
                f"the graph's input {source.name} is uint8: it takes pixels as they are",
                hint="leave out --normalize, --mean and --std",
            )
        return *PRESETS["0..255"], None
    return chosen_normalization(options, known, "the graph")


def chosen_normalization(options: ImageOptions, known: ImageSpec | None, what: str) -> tuple[Channels, Channels, str | None]:
    """Mean, std, and the colour order where the choice implies one: the user's, or else what is known.

    Raises:
        UsageError: neither, or options that exclude each other.
    """
    if options.normalize is None and options.mean is None and options.std is None:
        if known is None:
            raise UsageError(
                f"{what} does not say how its pictures are normalized, and a guess would give confident wrong answers", hint=_ASK
            )
        return known.mean, known.std, None
    if options.normalize is not None:
        if options.mean is not None or options.std is not None or options.pixel_scale is not None:
            raise UsageError("--normalize excludes --mean, --std and --pixel-scale")
        return *PRESETS[options.normalize], "bgr" if options.normalize == "caffe" else None
    return *_mean_and_std(options), None


def _mean_and_std(options: ImageOptions) -> tuple[Channels, Channels]:
    mean, std = options.mean, options.std
    if mean is None or std is None:
        missing = "--std" if std is None else "--mean"
        raise UsageError(
            f"{missing} is missing: mean and std belong together", hint=f"{missing} {1 if std is None else 0} changes nothing"
        )
    largest = max(map(abs, mean))
    if options.pixel_scale == "255":
        if min(std) < 1:
            raise UsageError(
                f"std is {min(std):g} in units of 0 to 255, so the network would see values up to {255 / max(min(std), 1e-9):,.0f}",
                hint="leave out --pixel-scale 255 if mean and std are in units of 0 to 1",
            )
        return (mean[0] / 255, mean[1] / 255, mean[2] / 255), (std[0] / 255, std[1] / 255, std[2] / 255)
    if largest > 1:
        raise UsageError(
            f"mean is {largest:g}, and a white pixel counts 1",
            hint="add --pixel-scale 255 if mean and std are in units of 0 to 255",
        )
    return mean, std
