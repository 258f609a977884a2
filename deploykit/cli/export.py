"""``deploykit export``: model -> graph -> bundle, with the graph proved equal to the model before anything is written."""

import io
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from deploykit.bundle import Manifest, ModelRecord, Stage, check_target, new_bundle, sha256_of
from deploykit.bundle.reader import GOLDEN_NAME, LABELS_NAME
from deploykit.cli import console
from deploykit.cli.parity import check_parity
from deploykit.errors import UsageError
from deploykit.graph.describe import describe_graph
from deploykit.graph.files import write_graph
from deploykit.graph.versions import DEFAULT_OPSET, OPSETS
from deploykit.models.export import export_graph, training_modules
from deploykit.models.labels import read_labels
from deploykit.models.registry import LoadedModel, load_model
from deploykit.parity import ParityRecord
from deploykit.spec import Precision

PREDICT = f"{Precision.FP32}/predict.onnx"


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
            on_progress=lambda *_: advance(0),
        )
    for text in loaded.notes:
        console.note(f"note: {text}")
    if not loaded.weights.trained:
        console.warn(f"{model} has {loaded.weights.source} weights: it is untrained, its answers mean nothing")
    names, source = loaded.labels, loaded.labels_source
    if labels is not None:
        names, source = read_labels(labels, loaded.num_classes, label_order=label_order), str(labels.name)
    elif label_order is not None:
        raise UsageError("--label-order goes with --labels DIRECTORY")
    manifest = export_bundle(target, loaded, names, source, input_kind=input_kind, opset=int(opset), replace=force)
    console.result(manifest.to_text().rstrip() if as_json else _summary(target, manifest))


def export_bundle(
    target: Path,
    loaded: LoadedModel,
    labels: tuple[str, ...] | None,
    labels_source: str | None,
    *,
    input_kind: str = "pixels",
    opset: int = DEFAULT_OPSET,
    replace: bool = False,
) -> Manifest:
    """Export a loaded model, prove the graph equal to it, and write the bundle.

    Returns:
        The manifest as written.

    Raises:
        ExportError, GraphError, ParityError, BundleError: and nothing has been written.
    """
    if live := training_modules(loaded.model):
        console.note(f"note: {len(live)} modules are in training mode ({live[0]}, ...); the inference graph is exported")
    labels_text = "".join(f"{name}\n" for name in labels).encode() if labels is not None else None
    with console.progress("exporting to ONNX", total=None):
        graph = export_graph(loaded.model, loaded.image, input_kind=input_kind, opset=opset)
    describe_graph(
        graph,
        model=loaded.entry.name,
        image=loaded.image,
        input_kind=input_kind,
        labels_sha256=sha256_of(labels_text) if labels_text is not None else None,
    )
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        files = write_graph(graph, Path(folder) / Path(PREDICT).name)
        pixels, logits, record = check_parity(loaded.model, graph, files[0], loaded.image, input_kind)
        with new_bundle(
            target,
            model=_model_record(loaded, logits),
            weights=loaded.weights,
            image=loaded.image,
            input=input_kind,
            labels_source=labels_source if labels is not None else None,
            replace=replace,
        ) as stage:
            _add_graph(stage, files, loaded, record)
            if labels_text is not None:
                stage.add(LABELS_NAME, labels_text)
            stage.add(GOLDEN_NAME, _npz(image=pixels, logits=logits), made_from={"weights": loaded.weights.sha256})
    return stage.manifest


def _summary(target: Path, manifest: Manifest) -> str:
    """What was made, in a few lines."""
    record = manifest.files[PREDICT]
    parity = record.parity or {}
    image, model = manifest.image, manifest.model
    size = f"{image.height}, {image.width}"
    shape = f"uint8 [N, {size}, 3]" if manifest.input == "pixels" else f"float32 [N, 3, {size}]"
    difference = f"{parity['max_difference']:.1e} ({parity['relative_difference']:.1e} of the largest logit)"
    lines = [
        f"{target}",
        f"  model    {model.name}, {model.parameters:,} parameters, {model.num_classes:,} classes",
        f"  weights  {manifest.weights.source}{'' if manifest.weights.trained else ', UNTRAINED'}",
        f"  graph    {PREDICT}, {record.size_bytes / 1e6:.1f} MB, image {shape} -> logits",
        f"  parity   at most {difference} from torch, {parity['tolerance']:.0e} allowed; "
        f"{parity['pictures']} pictures, batches of {', '.join(map(str, parity['batch_sizes']))}",
    ]
    return "\n".join(lines)


def _model_record(loaded: LoadedModel, logits: npt.NDArray[np.float32]) -> ModelRecord:
    return ModelRecord(
        name=loaded.entry.name,
        family=loaded.entry.family,
        num_classes=logits.shape[1],
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        task="classification" if logits.ndim == 2 else "segmentation",
    )


def _add_graph(stage: Stage, files: list[Path], loaded: LoadedModel, record: ParityRecord) -> None:
    """The graph and, above 2 GB, the file with its weights: two entries, so that a change of either shows."""
    packages = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")}
    for file in files:
        stage.add(
            f"{Precision.FP32}/{file.name}",
            file,
            made_from={"weights": loaded.weights.sha256},
            made_with=packages,
            parity=record.to_json() if file is files[0] else None,
        )


def _npz(**arrays: npt.NDArray[Any]) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    return data.getvalue()
