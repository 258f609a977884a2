"""timm's and torchvision's models: modules, weights, and how their pictures are prepared, as the libraries themselves say.

timm: https://github.com/huggingface/pytorch-image-models (``pretrained_cfg``). torchvision: https://github.com/pytorch/vision
(weights enums and their transforms). Both are imported only when a model of theirs is asked for.
"""

import difflib
import importlib
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from deploykit.errors import MissingExtraError, UsageError, WeightsError
from deploykit.models.foreign.names import Reference
from deploykit.spec import INTERPOLATIONS, ImageSpec


@dataclass(frozen=True)
class LibraryWeights:
    """What a library says about the weights of one of its models.

    Args:
        source: in words, such as ``timm resnet50.a1_in1k``.
        image: how their pictures are prepared; None where nobody says. What an image spec cannot hold is replaced by its nearest.
        problems: what was replaced, in words, by what it concerns: ``interpolation`` or ``crop``.
        labels: class names, where the library has them.
    """

    source: str
    image: ImageSpec | None
    problems: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None


def build_library_model(
    reference: Reference,
    arguments: Mapping[str, Any],
    *,
    num_classes: int | None,
    pretrained: bool,
    weights_name: str | None = None,
) -> nn.Module:
    """A module of timm's or torchvision's, with its published weights or the library's random ones.

    Args:
        weights_name: which of torchvision's published weights; None for those it thinks best.

    Raises:
        MissingExtraError: the library is not installed.
        UsageError: it has no such model, or does not take the arguments.
        WeightsError: its weights cannot be had.
    """
    library = _import(reference.source)
    _require_name(library, reference)
    # It warns of every retry of a download; the error that follows says it once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    given = dict(arguments) | ({} if num_classes is None else {"num_classes": num_classes})
    try:
        if reference.source == "timm":
            model = library.create_model(reference.name, pretrained=pretrained, **given)
        else:
            weights = _weights_of(library, reference, weights_name) if pretrained else None
            extra = {} if _is_classifier(library, reference.name) else {"weights_backbone": None}  # else it would be downloaded
            with warnings.catch_warnings():
                # GoogLeNet and Inception v3 warn that their random initialization will change; nobody asked for it here.
                warnings.filterwarnings("ignore", message="The default weight initialization", category=FutureWarning)
                model = library.models.get_model(reference.name, weights=weights, **extra, **given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{reference} cannot be built with {given}: {error}", hint="see --kwargs and --num-classes") from error
    except Exception as error:
        if not pretrained:
            raise
        # The libraries' downloads raise urllib's, requests' and huggingface_hub's errors, which share no base class.
        raise WeightsError(
            f"the published weights of {reference} cannot be had: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="download them on another machine and give the file with --weights FILE; or leave out --pretrained",
        ) from error
    assert isinstance(model, nn.Module)  # noqa: S101 a defect of the library
    return model


def describe_weights(reference: Reference, model: nn.Module, weights_name: str | None = None) -> LibraryWeights:
    """What the library says of a model's weights, whether they are loaded or not: its default ones, or those that are named."""
    library = _import(reference.source)
    if reference.source == "timm":
        return _of_timm(library, reference, model)
    return _of_torchvision(reference, _weights_of(library, reference, weights_name))


def _weights_of(torchvision: Any, reference: Reference, name: str | None) -> Any:
    """An entry of torchvision's weights enum.

    Raises:
        UsageError: the enum has no such entry.
    """
    known = torchvision.models.get_model_weights(reference.name)
    if name is None:
        return known.DEFAULT
    if name != "DEFAULT" and name not in known.__members__:
        raise UsageError(f"{reference} has no weights {name!r}", hint=f"it has {', '.join(weights.name for weights in known)}")
    return known[name]


def _of_timm(timm: Any, reference: Reference, model: Any) -> LibraryWeights:
    config = timm.data.resolve_data_config({}, model=model)
    tag = (getattr(model, "pretrained_cfg", None) or {}).get("tag")
    source = f"timm {reference.name}" + (f".{tag}" if tag and "." not in reference.name else "")
    channels, height, width = config["input_size"]
    if channels != 3:
        raise UsageError(f"{reference} takes {channels} channels, expected 3")
    interpolation, problems = _interpolation(config["interpolation"])
    crop_mode, part = config.get("crop_mode") or "center", config["crop_pct"]
    # timm's evaluation resizes the shorter side to floor(size / crop_pct) and crops the centre; "squash" keeps no aspect ratio.
    resize, rule = (None, "exact") if crop_mode == "squash" else (math.floor(max(height, width) / part), "shorter")
    if crop_mode == "border" or (crop_mode == "squash" and part != 1):
        problems["crop"] = f"crop by {crop_mode!r}, with {part} of the picture"
    mean, std = (tuple(float(v) for v in config[name]) for name in ("mean", "std"))
    image = ImageSpec(height, width, resize, rule, interpolation, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return LibraryWeights(source, image, problems)


def _of_torchvision(reference: Reference, weights: Any) -> LibraryWeights:
    transforms = weights.transforms()
    source = f"torchvision {type(weights).__name__}.{weights.name}"
    labels = tuple(weights.meta["categories"]) if "categories" in weights.meta else None
    if not hasattr(transforms, "mean"):
        raise UsageError(f"{reference} is no classifier or segmentation net: its pictures go in as {type(transforms).__name__}")
    interpolation, problems = _interpolation(transforms.interpolation.value)
    resize = _only(transforms.resize_size)
    crop = _only(getattr(transforms, "crop_size", transforms.resize_size))
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return LibraryWeights(source, ImageSpec(crop, crop, resize, "shorter", interpolation, mean, std), problems, labels)


def _interpolation(name: str) -> tuple[str, dict[str, str]]:
    """What deploykit resizes with instead, and what is to be said of it."""
    return (name, {}) if name in INTERPOLATIONS else ("bicubic", {"interpolation": f"resize with {name}"})


def _only(sizes: int | Sequence[int]) -> int:
    return sizes if isinstance(sizes, int) else int(sizes[0])


def _is_classifier(torchvision: Any, name: str) -> bool:
    return name in torchvision.models.list_models(module=torchvision.models)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtraError(f"{name} is not installed", hint=f"pip install {name}") from None


def _require_name(library: Any, reference: Reference) -> None:
    known = library.list_models() if reference.source == "timm" else library.models.list_models()
    base = reference.name.partition(".")[0] if reference.source == "timm" else reference.name
    if base not in known:
        alike = difflib.get_close_matches(base, known, n=3)
        raise UsageError(
            f"{reference.source} has no model {reference.name!r}" + (f"; did you mean {' or '.join(alike)}?" if alike else ""),
            hint=f"{reference.source} {package_version_of(library)} has {len(known):,} models",
        )


def package_version_of(library: Any) -> str:
    """The version of a library."""
    return str(getattr(library, "__version__", "of unknown version"))
