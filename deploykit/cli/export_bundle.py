"""From a graph that is proved to a bundle on disk: the part that ``export`` and ``import`` share. Needs no torch."""

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Manifest, ModelRecord, Stage, WeightsRecord, new_bundle
from deploykit.bundle.reader import GOLDEN_NAME, LABELS_NAME
from deploykit.cli import console
from deploykit.cli.embed_resize import Asked, prove_embedded
from deploykit.cli.explain_graphs import Autograd, ExplainGraphs, make_explain_graphs
from deploykit.errors import UsageError
from deploykit.graph.describe import describe_graph
from deploykit.graph.files import write_graph
from deploykit.graph.pixels import IMAGE_NAME, embed_resize
from deploykit.graph.versions import DEFAULT_OPSET
from deploykit.models.labels import Labels
from deploykit.parity import ParityRecord
from deploykit.spec import ImageSpec, Precision

if TYPE_CHECKING:
    import onnx

PREDICT = f"{Precision.FP32}/predict.onnx"
EXPLAIN = f"{Precision.FP32}/explain.onnx"

_MOST_GOLDEN_BYTES = 8 << 20
"""Of logits: five pictures of 21 classes at 520 x 520 would be 114 MB, nearly as much as the network."""


@dataclass(frozen=True)
class Choices:
    """What the user chose of a bundle's shape.

    Args:
        input_kind: ``pixels`` or ``float``.
        opset: see `deploykit.graph.versions.OPSETS`.
        layers: to explain at: module paths or tensor names; empty for the model's own default.
        explain: whether there are explain graphs at all.
        input_gradients: whether guided backpropagation and the deconvnet get their graph.
        embed_resize: whether the graphs take photos at their own size; they are made and proved with the pixel input first.
    """

    input_kind: str = "pixels"
    opset: int = DEFAULT_OPSET
    layers: tuple[str, ...] = ()
    explain: bool = True
    input_gradients: bool = False
    embed_resize: bool = False

    def __post_init__(self) -> None:
        if self.embed_resize and self.input_kind != "pixels":
            raise UsageError(
                f"--embed-resize takes a photo's pixels, and --input {self.input_kind} takes normalized numbers",
                hint="leave one of them out",
            )


@dataclass(frozen=True)
class Proved:
    """A predict graph that answers as its original does, and all that a bundle says about it.

    Args:
        predict: the graph.
        model, weights, image, input_kind: for the manifest.
        default_layer: where to explain when the user names no layer: a module path or a tensor name;
            None for the last feature map.
        asked, logits: the pictures that were asked, and the original's answers.
        parity: how far the graph's own answers were from those.
        packages: those that took part, for the manifest.
        autograd: the original's own gradients, where it has any.
    """

    predict: "onnx.ModelProto"
    model: ModelRecord
    weights: WeightsRecord
    image: ImageSpec
    input_kind: str
    default_layer: str | None
    asked: Asked
    logits: npt.NDArray[np.float32]
    parity: ParityRecord
    packages: tuple[str, ...]
    autograd: Autograd | None = None


def write_bundle(target: Path, proved: Proved, labels: Labels | None, choices: Choices, *, replace: bool = False) -> Manifest:
    """Make the explain graphs of a predict graph, prove them, and write the bundle.

    Returns:
        The manifest as written.

    Raises:
        GraphError, ParityError, BundleError: and nothing has been written.
    """
    explaining = _explain(proved, choices) if choices.explain else None
    parity = proved.parity.to_json() | (_embedded(proved, explaining) if choices.embed_resize else {})
    with new_bundle(
        target,
        model=proved.model,
        weights=proved.weights,
        image=proved.image,
        input="photo" if choices.embed_resize else proved.input_kind,
        labels_source=labels.source if labels is not None else None,
        layers=explaining.layers if explaining else (),
        replace=replace,
    ) as stage:
        if labels is not None:
            stage.add(LABELS_NAME, labels_file(labels))
        origin = {"weights": proved.weights.sha256}
        add_graph(stage, PREDICT, proved.predict, made_from=origin, packages=proved.packages, parity=parity)
        origin = {**origin, PREDICT: stage.manifest.files[PREDICT].sha256}
        for name, graph in explaining.graphs.items() if explaining else ():
            shown = explaining.parity.get(name) if explaining else None
            add_graph(stage, f"{Precision.FP32}/{name}", graph, made_from=origin, packages=proved.packages, parity=shown)
        photos, pixels = proved.asked.photos, proved.asked.pixels
        golden: dict[str, npt.NDArray[Any]] = {"image": pixels} if photos is None else {"image": photos, "resized": pixels}
        golden["logits"] = proved.logits
        if explaining:
            golden |= {"explained_class": explaining.explained_class, "cam": explaining.cam}
        rows = _golden_rows(proved.logits)
        stage.add(
            GOLDEN_NAME, _npz({name: array[:rows] for name, array in golden.items()}), made_from={"weights": proved.weights.sha256}
        )
    return stage.manifest


def labels_file(labels: Labels) -> bytes:
    """labels.txt: one name per line, in class order."""
    return "".join(f"{name}\n" for name in labels.names).encode()


def summarize(target: Path, manifest: Manifest) -> str:
    """What was made, in a few lines."""
    record = manifest.files[PREDICT]
    parity = record.parity or {}
    image, model = manifest.image, manifest.model
    size = f"{image.height}, {image.width}"
    shapes = {"pixels": f"uint8 [N, {size}, 3]", "float": f"float32 [N, 3, {size}]", "photo": "uint8 [1, H, W, 3]"}
    difference = f"{parity['max_difference']:.1e} ({parity['relative_difference']:.1e} of the largest logit)"
    reference = "torch" if str(parity["reference"]).startswith("torch ") else manifest.weights.source
    lines = [
        f"{target}",
        f"  model    {model.name}, {model.parameters:,} parameters, {model.num_classes:,} classes",
        f"  weights  {manifest.weights.source}{'' if manifest.weights.trained else ', UNTRAINED'}",
        f"  graph    {PREDICT}, {record.size_bytes / 1e6:.1f} MB, image {shapes[manifest.input]} -> logits",
        f"  parity   at most {difference} from {reference}, {parity['tolerance']:.0e} allowed; "
        f"{parity['pictures']} pictures, batches of {', '.join(map(str, parity['batch_sizes']))}",
    ]
    if resize := parity.get("resize"):
        lines.append(
            f"  resize   in the graph: {resize['differing_share']:.2%} of values a level from the host's, logits "
            f"{resize['max_difference']:.1e}; a level everywhere moves them by {resize['one_level_moves']:.1e}"
        )
    if (explain := manifest.files.get(EXPLAIN)) and explain.parity:
        shown = ", ".join(f"{layer.name} [{layer.channels}, {layer.height}, {layer.width}]" for layer in manifest.layers)
        agreement = f"gradients within {explain.parity['relative_difference']:.1e} of {explain.parity['reference']}"
        lines.append(f"  explain  {EXPLAIN} at {shown}; {agreement}")
    return "\n".join(lines)


def _explain(proved: Proved, choices: Choices) -> ExplainGraphs:
    layers = choices.layers or ((proved.default_layer,) if proved.default_layer is not None else ())
    with console.progress(f"making and checking the explain graph at {', '.join(layers) or 'the last feature map'}", total=None):
        return make_explain_graphs(
            proved.predict,
            layers,
            proved.asked.pixels,
            proved.image,
            input_kind=proved.input_kind,
            input_gradients=choices.input_gradients,
            autograd=proved.autograd,
        )


def _embedded(proved: Proved, explaining: ExplainGraphs | None) -> dict[str, Any]:
    """How the graphs answer once they resize: what their parity says besides."""
    graphs = {PurePosixPath(PREDICT).name: proved.predict, **(explaining.graphs if explaining else {})}
    with console.progress("embedding the resize and comparing it with the host's", total=None):
        takes_image = {name: graph for name, graph in graphs.items() if IMAGE_NAME in {i.name for i in graph.graph.input}}
        return {"resize": prove_embedded(takes_image, proved.image, proved.asked)}


def add_graph(
    stage: Stage,
    name: str,
    graph: "onnx.ModelProto",
    *,
    made_from: Mapping[str, str],
    packages: Sequence[str],
    parity: Mapping[str, Any] | None,
) -> None:
    """Add a graph, which says of itself what the manifest says, and, above 2 GB, the file with its weights: two entries, so that a
    change of either shows. A bundle whose graphs take photos gets it with the resize in front.

    Args:
        stage: its labels, where there are any, are in it already.
        name: path inside the bundle, such as ``int8/predict.onnx``.
        graph: with the pixel input, or the float input in a bundle of such.
        packages: those that took part.
        made_from, parity: see `deploykit.bundle.FileRecord`.
    """
    manifest = stage.manifest
    if manifest.input == "photo" and IMAGE_NAME in {i.name for i in graph.graph.input}:
        graph = embed_resize(graph, manifest.image)
    labels = manifest.files.get(LABELS_NAME)
    describe_graph(
        graph,
        model=manifest.model.name,
        image=manifest.image,
        input_kind=manifest.input,
        labels_sha256=labels.sha256 if labels is not None else None,
        trained=manifest.weights.trained,
    )
    made_with = {package: version(package) for package in packages}
    path = PurePosixPath(name)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        for file in write_graph(graph, Path(folder) / path.name):
            record = parity if file.name == path.name else None
            stage.add(str(path.with_name(file.name)), file, made_from=made_from, made_with=made_with, parity=record)


def _golden_rows(logits: npt.NDArray[np.float32]) -> int:
    """How many of the pictures become golden vectors: all, but as few as two where logits for every pixel would fill the bundle."""
    return max(2, min(len(logits), _MOST_GOLDEN_BYTES // int(logits[0].nbytes)))


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    return data.getvalue()
