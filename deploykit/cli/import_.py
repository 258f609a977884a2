"""``deploykit import``: an ONNX classifier from anywhere -> bundle, proved equal to its file. Needs no torch."""

from pathlib import Path
from typing import Any

import click

from deploykit.bundle import check_target, sha256_of
from deploykit.cli import console
from deploykit.cli.export_bundle import Choices, Proved, labels_file, summarize, write_bundle
from deploykit.cli.import_graph import prove_graph
from deploykit.cli.import_image import described_image, resolve_image
from deploykit.cli.import_options import ImageOptions, image_options
from deploykit.cli.import_parity import Original
from deploykit.errors import UsageError
from deploykit.graph.describe import description_of
from deploykit.graph.files import read_graph
from deploykit.graph.foreign import LAYOUTS, find_input, find_output
from deploykit.models.labels import IMAGENET_CLASSES, Labels, load_imagenet_labels, read_labels


@click.command(name="import")
@click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH.onnx")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the bundle goes. [default: ./NAME]")
@click.option("--name", help="What the model is called. [default: the file's name]")
@image_options
@click.option("--layout", type=click.Choice(LAYOUTS), help="Where the channels stand, where the input's shape does not tell.")
@click.option("--scores", metavar="NAME", help="The output, or inner tensor, with one score per class, where there are several.")
@click.option("--labels", metavar="FILE|DIRECTORY|imagenet",
              help="Class names: a file with one per line, an ImageFolder directory, or those of ImageNet.")  # fmt: skip
@click.option("--label-order", type=click.Choice(["text", "natural"]), help="How numeric folders sort: 0 1 10 2, or 0 1 2 10.")
@click.option("--input", "input_kind", type=click.Choice(["pixels", "float"]), default="pixels", show_default=True,
              help="What the bundle's graphs take: uint8 RGB pixels [N,H,W,3], or normalized float32 [N,3,H,W].")  # fmt: skip
@click.option("--embed-resize", is_flag=True, help="Graphs that take a photo at its own size, one a run, and resize it themselves.")
@click.option("--layer", "layers", multiple=True, metavar="NAME",
              help="Where Grad-CAM looks: a tensor's name. May be repeated. [default: the last feature map]")  # fmt: skip
@click.option("--no-explain", is_flag=True, help="Make no explain graphs.")
@click.option("--input-gradients", is_flag=True, help="Make the graph of guided backpropagation and the deconvnet too.")
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the bundle's manifest.")
def command(
    graph: Path,
    output: Path | None,
    name: str | None,
    layout: str | None,
    scores: str | None,
    labels: str | None,
    label_order: str | None,
    input_kind: str,
    embed_resize: bool,
    layers: tuple[str, ...],
    no_explain: bool,
    input_gradients: bool,
    force: bool,
    as_json: bool,
    **image: Any,
) -> None:
    """Turn an ONNX classifier from anywhere into a bundle that is proved equal to it.

    GRAPH.onnx may come from Keras, Paddle, Caffe or an older exporter: channels first or last, RGB or BGR, float or uint8 input, a
    fixed batch, a softmax at its end. The file itself is run, and the bundle's graph must answer the same.

    What the file cannot say must be said here: how pictures are normalized (--normalize, or --mean and --std), and what the classes
    are called (--labels).

    \b
    deploykit import mobilenet.onnx --normalize -1..1 --labels imagenet
    deploykit import caffe.onnx --mean 123,117,104 --std 1 --pixel-scale 255 --colour-order bgr
    """
    if label_order is not None and labels is None:
        raise UsageError("--label-order goes with --labels DIRECTORY")
    if no_explain and (layers or input_gradients):
        raise UsageError("--no-explain excludes --layer and --input-gradients")
    choices = Choices(input_kind, layers=layers, explain=not no_explain, input_gradients=input_gradients, embed_resize=embed_resize)
    read = read_graph(graph)
    description = description_of(read)
    name = name or description.get("deploykit.model") or graph.stem
    target = output or Path(name)
    check_target(target, replace=force)
    original, notes = _describe(graph, read, layout, scores, ImageOptions(**image), input_kind)
    for text in notes:
        console.note(f"note: {text}")
    proved = prove_graph(original, name, choices, trained=description.get("deploykit.trained") != "false")
    if not proved.weights.trained:
        console.warn(f"{graph.name} says that it is untrained: its answers mean nothing")
    names = _labels(labels, label_order, proved, description.get("deploykit.labels_sha256"))
    manifest = write_bundle(target, proved, names, choices, replace=force)
    console.result(manifest.to_text().rstrip() if as_json else summarize(target, manifest))


def _describe(
    path: Path, graph: Any, layout: str | None, scores: str | None, options: ImageOptions, input_kind: str
) -> tuple[Original, list[str]]:
    """The file as it is to be asked, and what had to be assumed about it."""
    description = description_of(graph)
    if description.get("deploykit.input") == "photo":
        raise UsageError(
            f"{path.name} resizes photos itself (deploykit export --embed-resize), and a bundle is made of a graph that does not",
            hint="import the graph of a bundle without --embed-resize, and give --embed-resize here",
        )
    output = find_output(graph, scores)
    source = find_input(graph, output.name, layout)
    takes_pixels = description.get("deploykit.input") == "pixels" and source.dtype == "uint8"
    if takes_pixels and input_kind == "float":
        raise UsageError(f"{path.name} takes pixels and normalizes them itself", hint="leave out --input float")
    image, notes = resolve_image(options, source, described_image(description), takes_pixels=takes_pixels)
    return Original(path, graph, source, output, image, takes_pixels), notes


def _labels(given: str | None, order: str | None, proved: Proved, known_sha256: str | None) -> Labels | None:
    """The user's names, or ImageNet's where the graph says by their digest that they are its own."""
    classes = proved.model.num_classes
    if given == "imagenet" and not Path(given).exists():
        if classes != IMAGENET_CLASSES:
            raise UsageError(f"ImageNet has {IMAGENET_CLASSES:,} classes, the graph has {classes:,}")
        return load_imagenet_labels()
    if given is not None:
        return read_labels(given, classes, label_order=order)
    if known_sha256 and classes == IMAGENET_CLASSES:
        labels = load_imagenet_labels()
        return labels if sha256_of(labels_file(labels)) == known_sha256 else None
    return None
