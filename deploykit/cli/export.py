"""``deploykit export``: model -> graph -> bundle, with the graph proved equal to the model before anything is written."""

from pathlib import Path

import click

from deploykit.bundle import check_target
from deploykit.cli import console
from deploykit.cli.export_bundle import Choices, summarize, write_bundle
from deploykit.cli.export_model import prove_model
from deploykit.errors import UsageError
from deploykit.graph.versions import DEFAULT_OPSET, OPSETS
from deploykit.models.labels import Labels, read_labels
from deploykit.models.registry import LoadedModel, load_model


@click.command(name="export")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the bundle goes. [default: ./MODEL]")
@click.option("--weights", type=click.Path(path_type=Path), help="A checkpoint: .pth, .pt, .bin or .safetensors.")
@click.option("--pretrained", is_flag=True, help="The published weights: from an installed package, the cache, or by download.")
@click.option("--layout", help="How the checkpoint names its tensors, where its keys do not tell. [default: found from the keys]")
@click.option("--num-classes", type=click.IntRange(1), help="Width of the logits. [default: the checkpoint's, or 1000]")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Class names: a file with one per line, or an ImageFolder directory."
)
@click.option("--label-order", type=click.Choice(["text", "natural"]), help="How numeric folders sort: 0 1 10 2, or 0 1 2 10.")
@click.option("--input", "input_kind", type=click.Choice(["pixels", "float"]), default="pixels", show_default=True,
              help="What the graph takes: uint8 RGB pixels [N,H,W,3], or normalized float32 [N,3,H,W].")  # fmt: skip
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
    num_classes: int | None,
    labels: Path | None,
    label_order: str | None,
    input_kind: str,
    opset: str,
    layers: tuple[str, ...],
    no_explain: bool,
    input_gradients: bool,
    seed: int,
    allow_types: tuple[str, ...],
    unsafe_pickle: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a model into a bundle with an ONNX graph that is proved equal to it.

    MODEL is a name from `deploykit models`. Without --weights or --pretrained its weights are random, which is enough to measure
    latency and to try the chain, and never to answer.
    """
    if label_order is not None and labels is None:
        raise UsageError("--label-order goes with --labels DIRECTORY")
    if no_explain and (layers or input_gradients):
        raise UsageError("--no-explain excludes --layer and --input-gradients")
    target = output or Path(model)
    check_target(target, replace=force)
    with console.progress(f"building {model}", total=None) as advance:
        loaded = load_model(
            model,
            num_classes=num_classes,
            weights_file=weights,
            pretrained=pretrained,
            layout=layout,
            seed=seed,
            allow_types=allow_types,
            unsafe_pickle=unsafe_pickle,
            on_progress=lambda done, total: advance(to=done, total=total),
        )
    for text in loaded.notes:
        console.note(f"note: {text}")
    if not loaded.weights.trained:
        console.warn(f"{model} has {loaded.weights.source} weights: it is untrained, its answers mean nothing")
    choices = Choices(input_kind, int(opset), layers, not no_explain, input_gradients)
    names = _labels(loaded, labels, label_order)
    manifest = write_bundle(target, prove_model(loaded, choices), names, choices, replace=force)
    console.result(manifest.to_text().rstrip() if as_json else summarize(target, manifest))


def _labels(loaded: LoadedModel, path: Path | None, order: str | None) -> Labels | None:
    """The user's names, or those that came with the weights."""
    if path is not None:
        return read_labels(path, loaded.num_classes, label_order=order)
    return Labels(loaded.labels, loaded.labels_source) if loaded.labels is not None else None
