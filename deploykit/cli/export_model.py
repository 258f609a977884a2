"""From a loaded model to a predict graph proved equal to it: the part of ``deploykit export`` that needs torch."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import ModelRecord
from deploykit.cli import console
from deploykit.cli.embed_resize import asked_pictures
from deploykit.cli.explain_graphs import Autograd
from deploykit.cli.export_bundle import Choices, Proved
from deploykit.cli.parity import check_parity
from deploykit.errors import ExportError
from deploykit.graph.files import write_graph
from deploykit.models.export import export_graph, layer_gradients, training_modules
from deploykit.models.registry import LoadedModel

_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def prove_model(loaded: LoadedModel, choices: Choices) -> Proved:
    """Export a loaded model and compare the graph with it.

    Raises:
        ExportError, GraphError: it does not become a graph.
        ParityError: the graph is another function.
    """
    if live := training_modules(loaded.model):
        console.note(f"note: {len(live)} modules are in training mode ({live[0]}, ...); the inference graph is exported")
    with console.progress("exporting to ONNX", total=None):
        predict = export_graph(loaded.model, loaded.image, input_kind=choices.input_kind, opset=choices.opset)
    asked = asked_pictures(loaded.image, embed_resize=choices.embed_resize)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        file = write_graph(predict, Path(folder) / "predict.onnx")[0]
        logits, record = check_parity(loaded.model, predict, file, loaded.image, choices.input_kind, asked.pixels)
    return Proved(
        predict=predict,
        model=_model_record(loaded, logits),
        weights=loaded.weights,
        image=loaded.image,
        input_kind=choices.input_kind,
        default_layer=loaded.entry.cam_layer or None,
        asked=asked,
        logits=logits,
        parity=record,
        packages=_PACKAGES,
        autograd=_autograd(loaded, asked.pixels),
    )


def _autograd(loaded: LoadedModel, pixels: npt.NDArray[np.uint8]) -> Autograd:
    """What torch says of a layer; of a tensor that no module returns it says nothing."""
    modules = dict(loaded.model.named_modules())

    def gradients(layer: str, class_index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
        if layer not in modules:
            return None
        try:
            return layer_gradients(loaded.model, pixels, loaded.image, layer, class_index)
        except ExportError:
            return None  # a module that runs several times, or returns several tensors: its last output is not the module's

    return gradients


def _model_record(loaded: LoadedModel, logits: npt.NDArray[np.float32]) -> ModelRecord:
    return ModelRecord(
        name=loaded.entry.name,
        family=loaded.entry.family,
        num_classes=logits.shape[1],
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        task="classification" if logits.ndim == 2 else "segmentation",
    )
