"""From a loaded model to a bundle on disk: what ``deploykit export`` does once it has the model."""

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Manifest, ModelRecord, Stage, new_bundle, sha256_of
from deploykit.bundle.reader import GOLDEN_NAME, LABELS_NAME
from deploykit.cli import console
from deploykit.cli.explain_graphs import ExplainGraphs, make_explain_graphs
from deploykit.cli.parity import check_parity
from deploykit.graph.describe import describe_graph
from deploykit.graph.files import write_graph
from deploykit.graph.versions import DEFAULT_OPSET
from deploykit.models.export import export_graph, training_modules
from deploykit.models.labels import Labels
from deploykit.models.registry import LoadedModel
from deploykit.spec import Precision

if TYPE_CHECKING:
    import onnx

PREDICT = f"{Precision.FP32}/predict.onnx"
EXPLAIN = f"{Precision.FP32}/explain.onnx"


@dataclass(frozen=True)
class Choices:
    """What the user chose of a bundle's shape.

    Args:
        input_kind: ``pixels`` or ``float``.
        opset: see `deploykit.graph.versions.OPSETS`.
        layers: to explain at: module paths or tensor names; empty for the model's own default.
        explain: whether there are explain graphs at all.
        input_gradients: whether guided backpropagation and the deconvnet get their graph.
    """

    input_kind: str = "pixels"
    opset: int = DEFAULT_OPSET
    layers: tuple[str, ...] = ()
    explain: bool = True
    input_gradients: bool = False


def export_bundle(target: Path, loaded: LoadedModel, labels: Labels | None, choices: Choices, *, replace: bool = False) -> Manifest:
    """Export a loaded model, prove every graph equal to it, and write the bundle.

    Returns:
        The manifest as written.

    Raises:
        ExportError, GraphError, ParityError, BundleError: and nothing has been written.
    """
    if live := training_modules(loaded.model):
        console.note(f"note: {len(live)} modules are in training mode ({live[0]}, ...); the inference graph is exported")
    labels_text = "".join(f"{name}\n" for name in labels.names).encode() if labels is not None else None
    with console.progress("exporting to ONNX", total=None):
        predict = export_graph(loaded.model, loaded.image, input_kind=choices.input_kind, opset=choices.opset)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        file = write_graph(predict, Path(folder) / "predict.onnx")[0]
        pixels, logits, record = check_parity(loaded.model, predict, file, loaded.image, choices.input_kind)
    explaining = _explain(loaded, predict, pixels, choices) if choices.explain else None
    with new_bundle(
        target,
        model=_model_record(loaded, logits),
        weights=loaded.weights,
        image=loaded.image,
        input=choices.input_kind,
        labels_source=labels.source if labels is not None else None,
        layers=explaining.layers if explaining else (),
        replace=replace,
    ) as stage:
        graphs: dict[str, tuple[onnx.ModelProto, Mapping[str, Any] | None]] = {"predict.onnx": (predict, record.to_json())}
        if explaining:
            graphs |= {name: (graph, explaining.parity.get(name)) for name, graph in explaining.graphs.items()}
        digest = sha256_of(labels_text) if labels_text is not None else None
        for name, (graph, parity) in graphs.items():
            describe_graph(graph, model=loaded.entry.name, image=loaded.image, input_kind=choices.input_kind, labels_sha256=digest)
            _add_graph(stage, f"{Precision.FP32}/{name}", graph, loaded, parity)
        if labels_text is not None:
            stage.add(LABELS_NAME, labels_text)
        golden: dict[str, npt.NDArray[Any]] = {"image": pixels, "logits": logits}
        if explaining:
            golden |= {"explained_class": explaining.explained_class, "cam": explaining.cam}
        stage.add(GOLDEN_NAME, _npz(golden), made_from={"weights": loaded.weights.sha256})
    return stage.manifest


def _explain(loaded: LoadedModel, predict: "onnx.ModelProto", pixels: npt.NDArray[np.uint8], choices: Choices) -> ExplainGraphs:
    layers = choices.layers or (loaded.entry.cam_layer,)
    with console.progress(f"making and checking the explain graph at {', '.join(layers)}", total=None):
        return make_explain_graphs(
            loaded.model,
            predict,
            layers,
            pixels,
            loaded.image,
            input_kind=choices.input_kind,
            input_gradients=choices.input_gradients,
        )


def _model_record(loaded: LoadedModel, logits: npt.NDArray[np.float32]) -> ModelRecord:
    return ModelRecord(
        name=loaded.entry.name,
        family=loaded.entry.family,
        num_classes=logits.shape[1],
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        task="classification" if logits.ndim == 2 else "segmentation",
    )


def _add_graph(stage: Stage, name: str, graph: "onnx.ModelProto", loaded: LoadedModel, parity: Mapping[str, Any] | None) -> None:
    """The graph and, above 2 GB, the file with its weights: two entries, so that a change of either shows."""
    origin = {"weights": loaded.weights.sha256}
    if name != PREDICT:
        origin[PREDICT] = stage.manifest.files[PREDICT].sha256
    packages = {package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        for file in write_graph(graph, Path(folder) / Path(name).name):
            path = f"{Path(name).parent.as_posix()}/{file.name}"
            stage.add(path, file, made_from=origin, made_with=packages, parity=parity if path == name else None)


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    return data.getvalue()
