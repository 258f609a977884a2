"""From an ONNX classifier's file to a predict graph proved equal to it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from deploykit.bundle import ModelRecord, WeightsRecord
from deploykit.cli import console
from deploykit.cli.embed_resize import asked_pictures
from deploykit.cli.export_bundle import Choices, Proved
from deploykit.cli.import_parity import Original, ask_original, compare_with_original
from deploykit.graph.files import read_structure, side_files
from deploykit.graph.foreign import adopt_graph, count_weights, stored_dtype
from deploykit.graph.pixels import add_pixel_input

_PACKAGES = ("onnx", "onnxruntime", "numpy")


def prove_graph(original: Original, name: str, choices: Choices, *, trained: bool) -> Proved:
    """Make the predict graph of a file and compare it with the file.

    Args:
        name: what the model is called from now on.
        choices: of its shape.
        trained: False where the file says that its weights are random.

    Raises:
        GraphError: a pass cannot do its part.
        SessionError: the file does not run.
        ParityError: the graph answers otherwise than the file.
    """
    input_kind = choices.input_kind
    asked = asked_pictures(original.image, embed_resize=choices.embed_resize)
    answers = ask_original(original, asked.pixels)
    with console.progress("making the predict graph", total=None):
        predict, notes = adopt_graph(
            original.graph, original.source, original.output, original.image, takes_pixels=original.takes_pixels
        )
        parameters = count_weights(predict)
        if input_kind == "pixels" and not original.takes_pixels:
            add_pixel_input(predict, original.image)
    for text in notes:
        console.note(f"note: {text}")
    logits, record = compare_with_original(original, answers, predict, input_kind)
    task = "classification" if logits.ndim == 2 else "segmentation"
    return Proved(
        predict=predict,
        model=ModelRecord(name, "onnx", logits.shape[1], parameters, task),
        weights=_weights_record(original, trained=trained),
        image=original.image,
        input_kind=input_kind,
        default_layer=None,
        asked=asked,
        logits=logits,
        parity=record,
        packages=_PACKAGES,
    )


def _weights_record(original: Original, *, trained: bool) -> WeightsRecord:
    sides = side_files(read_structure(original.path))
    return WeightsRecord(
        source=original.path.name,
        sha256=_sha256_joined([original.path, *(original.path.parent / name for name in sorted(sides))]),
        trained=trained,
        stored_dtype=stored_dtype(original.graph),
        layout="onnx",
    )


def _sha256_joined(files: Iterable[Path]) -> str:
    """The sha256 of files one behind the other, as ``cat GRAPH SIDE... | sha256sum`` prints it."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
