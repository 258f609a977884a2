"""The one way to get a model: a name and a source of weights in, a model ready to export and what must be recorded of it out."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from deploykit.bundle import WeightsRecord
from deploykit.errors import UsageError, WeightsError
from deploykit.models.catalogue import MODELS, ModelEntry, find_model
from deploykit.models.fitting import load_weights, module_names, state_digest, without_shared_prefix
from deploykit.models.initialize import initialize_model
from deploykit.models.labels import IMAGENET_CLASSES, Labels, find_checkpoint_labels, load_imagenet_labels, voc_labels
from deploykit.models.layouts import Layout, detect_layout, find_layout, name_modules
from deploykit.models.pretrained import OnProgress, find_published
from deploykit.models.published import COCO_WITH_VOC_LABELS, PublishedWeights
from deploykit.models.weights import Checkpoint, read_checkpoint
from deploykit.spec import ImageSpec

__all__ = ["MODELS", "LoadedModel", "ModelEntry", "find_model", "load_model"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with weights, and everything about them that a bundle records.

    Args:
        model: float32 on the CPU, in eval mode.
        entry: what it is.
        num_classes: K, the number of logits.
        weights: where they came from.
        image: how the weights take pictures.
        labels: one name per class, where the classes are known.
        labels_source: where the names came from; empty without names.
        notes: what the user must be told, such as assumptions that were made.
    """

    model: nn.Module
    entry: ModelEntry
    num_classes: int
    weights: WeightsRecord
    image: ImageSpec
    labels: tuple[str, ...] | None
    labels_source: str
    notes: tuple[str, ...]


def load_model(
    name: str,
    *,
    num_classes: int | None = None,
    weights_file: str | Path | None = None,
    pretrained: bool = False,
    layout: str | None = None,
    seed: int = 0,
    allow_types: Sequence[str] = (),
    unsafe_pickle: bool = False,
    on_progress: OnProgress | None = None,
) -> LoadedModel:
    """Build a model and give it weights: from a file, as published, or random if neither is asked for.

    Args:
        name: one of ``MODELS``.
        num_classes: K; None takes the checkpoint's own, and the model's usual number for random weights.
        weights_file: a checkpoint.
        pretrained: take the default published weights.
        layout: how the checkpoint names its tensors; None finds it from the keys.
        seed: of random weights. PyTorch's global generator is left as it was.
        allow_types, unsafe_pickle: as ``read_checkpoint`` takes them.
        on_progress: told about a download, in bytes done and in all.

    Raises:
        UsageError: no such model or layout, or options that exclude each other.
        WeightsError: the weights cannot be had, cannot be read, or do not fit.
    """
    entry = find_model(name)
    _check_options(num_classes, weights_file, pretrained, says_how_to_read=bool(layout is not None or allow_types or unsafe_pickle))
    chosen = None if layout is None else find_layout(layout, entry.layouts)
    if pretrained:
        path, source = find_published(entry.name, _default_weights(entry), on_progress=on_progress)
    elif weights_file is not None:
        path, source = Path(weights_file), Path(weights_file).name
    else:
        return _load_random(entry, num_classes or entry.num_classes, seed)
    checkpoint = read_checkpoint(path, allow_types=allow_types, unsafe_pickle=unsafe_pickle)
    try:
        return _load_checkpoint(entry, checkpoint, path.name, source, num_classes, chosen)
    except WeightsError as error:
        others = _find_fitting(checkpoint, path.name)
        if not others or entry.name in others:
            raise
        raise WeightsError(str(error), hint=f"the tensors are those of {' or '.join(others)}") from None


def _check_options(num_classes: int | None, weights_file: str | Path | None, pretrained: bool, *, says_how_to_read: bool) -> None:
    if weights_file is not None and pretrained:
        raise UsageError("a weights file and the published weights exclude each other", hint="give --weights or --pretrained")
    if weights_file is None and says_how_to_read:
        raise UsageError(
            "a layout, allowed types and unsafe pickle say how to read a file, and none was given", hint="give --weights FILE"
        )
    if num_classes is not None and num_classes < 1:
        raise UsageError(f"number of classes is {num_classes}, expected at least 1")


def _load_random(entry: ModelEntry, num_classes: int, seed: int) -> LoadedModel:
    model = initialize_model(partial(entry.build, num_classes, entry.conventions), seed)
    record = WeightsRecord(f"random (seed {seed})", state_digest(model), False, "float32", entry.layouts[0].name)
    return LoadedModel(model, entry, num_classes, record, entry.image, None, "", ())


def _load_checkpoint(
    entry: ModelEntry, checkpoint: Checkpoint, file_name: str, source: str, num_classes: int | None, chosen: Layout | None
) -> LoadedModel:
    modules = module_names(partial(entry.build, entry.num_classes, entry.conventions))
    known = {theirs for layout in entry.layouts for theirs in name_modules(layout, modules)}
    bare, prefix = without_shared_prefix(checkpoint.tensors, lambda key: key.rpartition(".")[0] in known)
    if prefix:
        told = f"every key of {file_name} begins with {prefix!r}, which is left out"
        checkpoint = replace(checkpoint, tensors=bare, notes=(*checkpoint.notes, told))
    checkpoint = _without(entry.training_only, checkpoint)
    layout = chosen or detect_layout(list(checkpoint.tensors), entry.layouts, modules)
    notes = [*checkpoint.notes, *([] if chosen else _note_assumption(layout, file_name))]
    if num_classes is None:
        num_classes = _count_classes(entry, checkpoint, layout, modules)
    model = load_weights(
        partial(entry.build, num_classes, layout.conventions or entry.conventions),
        checkpoint.tensors,
        layout,
        head=entry.head,
        where=file_name,
        model_name=entry.name,
    )
    published = find_by_digest(entry, checkpoint.sha256)
    image = entry.image if published is None else published.image
    if published is None:
        notes.append(
            f"{file_name} is no published file; its pictures are assumed to be prepared as {entry.name}'s: {_describe(image)}"
        )
    labels = _find_labels(checkpoint, published, num_classes, file_name)
    if labels is not None and labels.source.startswith("assumed"):
        notes.append(f"{file_name} has {IMAGENET_CLASSES} classes, taken for those of ImageNet-1k; give --labels if they are not")
    record = WeightsRecord(source, checkpoint.sha256, True, checkpoint.stored_dtype, layout.name)
    names, labels_source = (None, "") if labels is None else (labels.names, labels.source)
    return LoadedModel(model, entry, num_classes, record, image, names, labels_source, tuple(notes))


def _without(prefixes: tuple[str, ...], checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what only training uses."""
    kept = {key: tensor for key, tensor in checkpoint.tensors.items() if not key.startswith(prefixes)}
    return replace(checkpoint, tensors=kept) if len(kept) < len(checkpoint.tensors) else checkpoint


def _note_assumption(layout: Layout, file_name: str) -> list[str]:
    """What to say of a layout that was found from keys it shares with another; nothing where the keys are its own."""
    if layout.shares_keys_with is None or layout.conventions is None:
        return []
    return [
        f"the keys of {file_name} are those of {layout.name} and of {layout.shares_keys_with}, whose conventions differ; "
        f"{layout.name} is assumed (padding {layout.conventions.padding}, batch-norm epsilon {layout.conventions.bn_eps:g}); "
        f"for the other give --layout {layout.shares_keys_with}"
    ]


def _default_weights(entry: ModelEntry) -> PublishedWeights:
    if not entry.weights:
        raise WeightsError(f"no weights are published for {entry.name}", hint="give a checkpoint with --weights FILE")
    return entry.weights[0]


def find_by_digest(entry: ModelEntry, sha256: str) -> PublishedWeights | None:
    """The published weights that a file is, whatever its name; None if it is none of them."""
    return next((weights for weights in entry.weights if weights.sha256 and sha256.startswith(weights.sha256)), None)


def _find_fitting(checkpoint: Checkpoint, file_name: str) -> list[str]:
    """The models that take the tensors with no complaint. Tries them all, in about two seconds."""
    found = []
    for name, entry in MODELS.items():
        with contextlib.suppress(WeightsError):
            _load_checkpoint(entry, checkpoint, file_name, "", None, None)
            found.append(name)
    return found


def _count_classes(entry: ModelEntry, checkpoint: Checkpoint, layout: Layout, modules: Sequence[str]) -> int:
    """The width of the checkpoint's head; the usual one where it has none, which loading then reports as missing."""
    heads = [theirs for theirs, ours in name_modules(layout, modules).items() if ours == entry.head]
    weight = checkpoint.tensors.get(f"{heads[0]}.weight") if heads else None
    return int(weight.shape[0]) if weight is not None and weight.ndim in (2, 4) and weight.shape[0] > 0 else entry.num_classes


def _find_labels(checkpoint: Checkpoint, published: PublishedWeights | None, num_classes: int, file_name: str) -> Labels | None:
    """The checkpoint's own names, or those of the published file's data set, or ImageNet's where there are as many classes."""
    stored = find_checkpoint_labels(checkpoint.containers, num_classes, file_name)
    if stored is None and published is not None and published.dataset == COCO_WITH_VOC_LABELS:
        return voc_labels()
    if stored is not None or num_classes != IMAGENET_CLASSES:
        return stored
    labels = load_imagenet_labels()
    return labels if published is not None else Labels(labels.names, f"assumed: {labels.source}")


def _describe(image: ImageSpec) -> str:
    resize = "" if image.resize_size is None else f", shorter side to {image.resize_size}"
    return f"{image.height} x {image.width}{resize}, {image.interpolation}"
