"""``deploykit export``: model -> graph -> bundle, with the graph proved equal to the model before anything is written."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from deploykit.bundle import check_target
from deploykit.cli import console
from deploykit.cli.export_arguments import parse_arguments
from deploykit.cli.export_bundle import Choices, summarize, write_bundle
from deploykit.cli.export_image import chosen_image, says_anything
from deploykit.cli.export_model import prove_model
from deploykit.cli.import_options import ImageOptions, image_options
from deploykit.errors import UsageError
from deploykit.graph.versions import DEFAULT_OPSET, OPSETS
from deploykit.models.foreign import ForeignChoices, load_foreign, parse_reference
from deploykit.models.labels import Labels, read_labels
from deploykit.models.registry import LoadedModel, load_model
from deploykit.spec import ImageSpec


@click.command(name="export")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the bundle goes. [default: ./MODEL]")
@click.option("--weights", type=click.Path(path_type=Path), help="A checkpoint: .pth, .pt, .bin or .safetensors.")
@click.option("--pretrained", is_flag=True, help="The published weights: from an installed package, the cache, or by download.")
@click.option("--layout", help="How the checkpoint names its tensors, where its keys do not tell. [default: found from the keys]")
@click.option(
    "--weights-name", metavar="NAME", help="Which of torchvision's published weights, such as IMAGENET1K_V1. [default: its best]"
)
@click.option("--kwargs", "arguments", multiple=True, metavar="JSON|KEY=VALUE",
              help="Of somebody else's model: what its function is called with. KEY=VALUE may be repeated.")  # fmt: skip
@click.option("--scores", metavar="NAME", help="Of somebody else's model: the output, or its index, that holds the logits.")
@click.option("--trained", is_flag=True, help="Of a function's model: the weights that it comes with are trained.")
@image_options
@click.option("--num-classes", type=click.IntRange(1), help="Width of the logits. [default: the checkpoint's, or 1000]")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Class names: a file with one per line, or an ImageFolder directory."
)
@click.option("--label-order", type=click.Choice(["text", "natural"]), help="How numeric folders sort: 0 1 10 2, or 0 1 2 10.")
@click.option("--input", "input_kind", type=click.Choice(["pixels", "float"]), default="pixels", show_default=True,
              help="What the graph takes: uint8 RGB pixels [N,H,W,3], or normalized float32 [N,3,H,W].")  # fmt: skip
@click.option("--embed-resize", is_flag=True, help="Graphs that take a photo at its own size, one a run, and resize it themselves.")
@click.option("--opset", type=click.Choice([str(o) for o in OPSETS]), default=str(DEFAULT_OPSET), show_default=True,
              help="Version of the ONNX operators; the IR version follows from it.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, metavar="NAME",
              help="Where Grad-CAM looks: a torch module's path or an ONNX tensor's name. May be repeated.")  # fmt: skip
@click.option("--no-explain", is_flag=True, help="Make no explain graphs.")
@click.option("--input-gradients", is_flag=True, help="Make the graph of guided backpropagation and the deconvnet too.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random weights, without --weights.")
@click.option("--allow-type", "allow_types", multiple=True, metavar="MODULE.CLASS",
              help="A harmless type that the checkpoint may hold beside its tensors, such as argparse.Namespace.")  # fmt: skip
@click.option(
    "--unsafe-pickle", is_flag=True, help="Run whatever code the checkpoint holds. Only for files that you made yourself."
)
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the bundle's manifest.")
def command(
    model: str,
    output: Path | None,
    weights: Path | None,
    pretrained: bool,
    layout: str | None,
    weights_name: str | None,
    arguments: tuple[str, ...],
    scores: str | None,
    trained: bool,
    num_classes: int | None,
    labels: Path | None,
    label_order: str | None,
    input_kind: str,
    embed_resize: bool,
    opset: str,
    layers: tuple[str, ...],
    no_explain: bool,
    input_gradients: bool,
    seed: int,
    allow_types: tuple[str, ...],
    unsafe_pickle: bool,
    force: bool,
    as_json: bool,
    **image: Any,
) -> None:
    """Turn a model into a bundle with an ONNX graph that is proved equal to it.

    MODEL is a name from `deploykit models`; timm:NAME or torchvision:NAME, where these are installed; or package.module:function
    or path/to/file.py:function, whose code is run to make the model. Without --weights or --pretrained the weights are random,
    which is enough to measure latency and to try the chain, and never to answer.
    """
    if label_order is not None and labels is None:
        raise UsageError("--label-order goes with --labels DIRECTORY")
    if no_explain and (layers or input_gradients):
        raise UsageError("--no-explain excludes --layer and --input-gradients")
    reference = parse_reference(model)
    if reference is None and (arguments or scores is not None):
        raise UsageError("--kwargs and --scores go with somebody else's model", hint="timm:NAME, or path/to/file.py:function")
    if trained and (reference is None or reference.is_library or weights is not None):
        raise UsageError("--trained goes with a function's model and its own weights", hint="path/to/file.py:function")
    if weights_name is not None and (reference is None or reference.source != "torchvision"):
        raise UsageError("--weights-name goes with torchvision:NAME", hint="timm's weights are named in the model: timm:NAME.TAG")
    if reference is not None and layout is not None:
        raise UsageError(f"{model} has no layouts but its own", hint="leave out --layout")
    choices = Choices(input_kind, int(opset), layers, not no_explain, input_gradients, embed_resize)
    target = output or Path(model if reference is None else reference.folder)
    check_target(target, replace=force)
    options = ImageOptions(**image)
    source: dict[str, Any] = {
        "num_classes": num_classes,
        "weights_file": weights,
        "pretrained": pretrained,
        "seed": seed,
        "allow_types": allow_types,
        "unsafe_pickle": unsafe_pickle,
    }
    with console.progress(f"building {model}", total=None) as advance:
        if reference is None:
            loaded = load_model(model, layout=layout, on_progress=lambda done, total: advance(to=done, total=total), **source)
            if says_anything(options):
                loaded = replace(loaded, image=chosen_image(options, loaded.image, {}, model))
        else:
            image_of = partial(_image_of, options, model)
            foreign = ForeignChoices(parse_arguments(arguments), scores, trained, image_of, weights_name)
            loaded = load_foreign(reference, foreign, **source)
    for text in loaded.notes:
        console.note(f"note: {text}")
    if not loaded.weights.trained:
        console.warn(f"{model} has {loaded.weights.source} weights: it is untrained, its answers mean nothing")
    names = _labels(loaded, labels, label_order)
    manifest = write_bundle(target, prove_model(loaded, choices), names, choices, replace=force)
    console.result(manifest.to_text().rstrip() if as_json else summarize(target, manifest))


def _image_of(options: ImageOptions, model: str, known: ImageSpec | None, problems: Mapping[str, str]) -> ImageSpec:
    return chosen_image(options, known, problems, model)


def _labels(loaded: LoadedModel, path: Path | None, order: str | None) -> Labels | None:
    """The user's names, or those that came with the weights."""
    if path is not None:
        labels = read_labels(path, loaded.num_classes, label_order=order)
        _check_order(labels, loaded)
        return labels
    return Labels(loaded.labels, loaded.labels_source) if loaded.labels is not None else None


def _check_order(labels: Labels, loaded: LoadedModel) -> None:
    """Refuse the names of a folder in another order than that which the checkpoint itself was trained with."""
    stored = loaded.labels
    if stored is None or sorted(stored) != sorted(labels.names) or stored == labels.names:
        return
    i = next(i for i, (a, b) in enumerate(zip(stored, labels.names, strict=True)) if a != b)
    raise UsageError(
        f"{labels.source} puts {labels.names[i]!r} at class {i}, and {loaded.labels_source} puts {stored[i]!r} there",
        hint="leave out --labels to take the checkpoint's own order, or give the other --label-order",
    )
