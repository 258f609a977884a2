"""The image spec of a model that is exported: what its weights say, changed by what the user says."""

from collections.abc import Mapping
from dataclasses import replace

from deploykit.cli.import_image import chosen_normalization
from deploykit.cli.import_options import ImageOptions
from deploykit.errors import UsageError
from deploykit.spec import ImageSpec

_INSTEAD = {"interpolation": "--interpolation bicubic or bilinear", "crop": "--resize N, or --resize-rule exact"}
_SIZE = 224
"""Of a model that nobody says anything of: what most published classifiers take."""


def chosen_image(options: ImageOptions, known: ImageSpec | None, problems: Mapping[str, str], model: str) -> ImageSpec:
    """The image spec.

    Args:
        known: what the weights say; None where nobody says anything.
        problems: what of it deploykit cannot do and has replaced by its nearest, in words, by what it concerns: ``interpolation``
            or ``crop``. Only an option of the same concern says what to do instead.
        model: for messages.

    Raises:
        UsageError: the normalization is not known, something had to be replaced and the user did not say by what, or the options
            contradict each other.
    """
    answered = {
        "interpolation": options.interpolation is not None,
        "crop": options.resize is not None or options.resize_rule is not None,
    }
    for concern, problem in problems.items():
        if not answered[concern]:
            raise UsageError(
                f"the weights of {model} {problem}, which deploykit does not do",
                hint=f"say what to do instead: {_INSTEAD[concern]}",
            )
    mean, std, order = chosen_normalization(options, known, model)
    height, width = options.image_size or ((known.height, known.width) if known else (_SIZE, _SIZE))
    is_known_size = known is not None and (known.height, known.width) == (height, width)
    rule = options.resize_rule or (known.resize_rule if known and is_known_size else "shorter" if height == width else "exact")
    resize = options.resize if rule == "shorter" else None
    if rule == "shorter" and resize is None:
        resize = known.resize_size if known is not None and is_known_size and known.resize_size else max(height, width)
    image = ImageSpec(
        height, width, resize, rule, options.interpolation or (known.interpolation if known else "bilinear"), mean, std
    )
    return replace(image, colour_order=options.colour_order or order or (known.colour_order if known else "rgb"))


def says_anything(options: ImageOptions) -> bool:
    """Whether the user said anything about pictures."""
    return options != ImageOptions()
