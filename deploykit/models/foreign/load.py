"""A model of somebody else's, with weights, as deploykit's registry gives its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploykit.bundle import WeightsRecord
from deploykit.errors import UsageError, WeightsError
from deploykit.models.entry import ModelEntry
from deploykit.models.fitting import fit_weights, head_classes, state_digest
from deploykit.models.foreign.factory import call_factory, find_factory
from deploykit.models.foreign.libraries import LibraryWeights, build_library_model, describe_weights
from deploykit.models.foreign.names import Reference
from deploykit.models.foreign.outputs import choose_output
from deploykit.models.initialize import initialize_statistics
from deploykit.models.labels import IMAGENET_CLASSES, Labels, find_checkpoint_labels, load_imagenet_labels
from deploykit.models.layouts import PYTORCH, Layout
from deploykit.models.registry import LoadedModel
from deploykit.models.weights import read_checkpoint
from deploykit.spec import ImageSpec

Containers = tuple[Mapping[Any, Any], ...]

_DEFAULT_IMAGE = ImageSpec(224, 224, 256)


@dataclass(frozen=True)
class ForeignChoices:
    """What the user said of a model of somebody else's.

    Args:
        arguments: for the function that makes it.
        scores: which of its outputs are the logits.
        trained: whether the weights that a function's model comes with are trained.
        image: from the library's image spec, None where it has none, and what of it had to be replaced, to the one the user wants.
        weights_name: which of torchvision's published weights; None for its default.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    scores: str | None = None
    trained: bool = False
    image: Callable[[ImageSpec | None, Mapping[str, str]], ImageSpec] = lambda known, _: known or _DEFAULT_IMAGE
    weights_name: str | None = None


def load_foreign(
    reference: Reference,
    choices: ForeignChoices,
    *,
    num_classes: int | None = None,
    weights_file: str | Path | None = None,
    pretrained: bool = False,
    seed: int = 0,
    allow_types: Sequence[str] = (),
    unsafe_pickle: bool = False,
) -> LoadedModel:
    """Build somebody else's model and give it weights: from a file, the library's published ones, its own, or random ones.

    A function's model keeps the weights that it comes with, unless a file is given: whoever wrote it may have loaded them. It
    counts as trained only with a file, with published weights, or where the user says so.

    Raises:
        UsageError, ExportError: it cannot be built, or does not give logits.
        WeightsError: the weights cannot be had, or do not fit.
    """
    if weights_file is not None and pretrained:
        raise UsageError("a weights file and the published weights exclude each other", hint="give --weights or --pretrained")
    if pretrained and not reference.is_library:
        raise UsageError(f"{reference} has no published weights that deploykit knows", hint="give a checkpoint with --weights FILE")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, record, notes, containers = _with_weights(
            reference, choices, num_classes, weights_file, pretrained, seed, allow_types, unsafe_pickle
        )
    library = describe_weights(reference, model, choices.weights_name) if reference.is_library else LibraryWeights("", None)
    image = choices.image(library.image, library.problems)
    if weights_file is not None and reference.is_library:
        notes += _assumptions(model, library, image, choices.arguments)
    reduced = choose_output(model.eval(), torch.zeros(2, 3, image.height, image.width), choices.scores, str(reference))
    if not record.sha256:
        initialize_statistics(model, image.height, image.width, seed)
        record = replace(record, sha256=state_digest(model))
    classes = _count_classes(reduced, image)
    names = find_checkpoint_labels(containers, classes, record.source)
    if names is None and record.trained:
        names = _library_labels(reference, library, classes, pretrained=pretrained)
    entry = ModelEntry(
        name=reference.name,
        family=_describe_call(reference, choices.arguments),
        paper="",
        paper_url="",
        build=lambda *_: reduced,
        parameters=sum(p.numel() for p in reduced.parameters()),
        cam_layer="",
        head="",
        conventions=PYTORCH,
        layouts=(Layout("own"),),
        image=image,
        weights=(),
        num_classes=classes,
    )
    labels, source = (None, "") if names is None else (names.names, names.source)
    return LoadedModel(reduced, entry, classes, record, image, labels, source, tuple(notes))


def _with_weights(
    reference: Reference,
    choices: ForeignChoices,
    num_classes: int | None,
    weights_file: str | Path | None,
    pretrained: bool,
    seed: int,
    allow_types: Sequence[str],
    unsafe_pickle: bool,
) -> tuple[nn.Module, WeightsRecord, list[str], Containers]:
    """The model, where its weights came from, what to tell the user, and what stood round the weights in the checkpoint."""

    def build(classes: int | None) -> nn.Module:
        if reference.is_library:
            return build_library_model(
                reference, choices.arguments, num_classes=classes, pretrained=pretrained, weights_name=choices.weights_name
            )
        if classes is not None and "num_classes" not in choices.arguments:
            return call_factory(find_factory(reference), {**choices.arguments, "num_classes": classes}, reference)
        return call_factory(find_factory(reference), choices.arguments, reference)

    if weights_file is None:
        model = build(num_classes)
        stored, digest = _stored(model), state_digest(model)
        model.float()  # what graphs compute in; `deploykit convert` makes FP16 from that
        if pretrained:
            source = describe_weights(reference, model, choices.weights_name).source
            return model, WeightsRecord(source, digest, True, stored, "own"), [], ()
        if reference.is_library:
            return model, WeightsRecord(f"random (seed {seed})", "", False, stored, "own"), [], ()
        note = f"{reference} keeps the weights it comes with; if they are trained, say so with --trained"
        notes = [] if choices.trained else [note]
        if stored != "float32":
            notes.append(f"the weights of {reference} are {stored} and used as float32")
        return model, WeightsRecord("its own", digest, choices.trained, stored, "own"), notes, ()
    path = Path(weights_file)
    checkpoint = read_checkpoint(path, allow_types=allow_types, unsafe_pickle=unsafe_pickle)
    # In float32 before the tensors come: a module in half precision would round them.
    model = build(num_classes).float()
    if num_classes is None and (found := head_classes(model, checkpoint.tensors)) is not None:
        model = build(found).float()
    notes = [*checkpoint.notes, *fit_weights(model, checkpoint.tensors, where=path.name, model_name=str(reference))]
    record = WeightsRecord(path.name, checkpoint.sha256, True, checkpoint.stored_dtype, "own")
    return model, record, notes, checkpoint.containers


def _library_labels(reference: Reference, library: LibraryWeights, classes: int, *, pretrained: bool) -> Labels | None:
    if library.labels is not None and len(library.labels) == classes and pretrained:
        return Labels(library.labels, library.source)
    if classes != IMAGENET_CLASSES:
        return None
    labels = load_imagenet_labels()
    return labels if pretrained else replace(labels, source=f"assumed: {labels.source}")


def _count_classes(model: nn.Module, image: ImageSpec) -> int:
    """K, from running the model once.

    Raises:
        UsageError: what it gives are no logits.
    """
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, image.height, image.width))
    if logits.ndim not in (2, 4) or len(logits) != 2:
        raise UsageError(
            f"the model gives [{', '.join(map(str, logits.shape))}] for a batch of 2, expected logits [2, K], or [2, K, h, w]",
            hint="name the output that holds the logits with --scores NAME",
        )
    return int(logits.shape[1])


def _describe_call(reference: Reference, arguments: Mapping[str, Any]) -> str:
    """The reference, and the arguments where there are any: ``net.py:make(depth=3)``."""
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{reference}({given})" if given else str(reference)


def _assumptions(model: nn.Module, library: LibraryWeights, image: ImageSpec, arguments: Mapping[str, Any]) -> list[str]:
    """What to say of a user's checkpoint for a library's model, whose own training nobody describes."""
    notes = []
    if image == library.image:
        notes.append(f"its pictures are assumed to be prepared as those of {library.source}; the options of pictures say otherwise")
    # torchvision sets it for its published GoogLeNet and Inception v3 alone; with the other, every answer is a little wrong.
    if getattr(model, "transform_input", None) is False and "transform_input" not in arguments:
        notes.append(
            "torchvision's published weights, and those fine-tuned from them, need --kwargs transform_input=true; "
            "false is assumed, as for training from the start"
        )
    return notes


def _stored(model: nn.Module) -> str:
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    if not kinds:
        raise WeightsError("the model has no weights")
    return kinds.pop() if len(kinds) == 1 else "mixed"
