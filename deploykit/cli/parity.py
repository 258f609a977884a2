"""Model against graph, and where they part: what export does before it writes anything."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.cli import console
from deploykit.errors import ParityError
from deploykit.graph.scopes import module_tensors, with_outputs
from deploykit.image import normalize
from deploykit.models.export import module_outputs, reference_logits
from deploykit.parity import BATCH_SIZES, TOLERANCES, ParityRecord, batches_of, compare_at_batch_sizes
from deploykit.runtime.classifier import run_predict
from deploykit.runtime.ort import OrtSession
from deploykit.spec import ImageSpec, Precision

if TYPE_CHECKING:
    import onnx
    from torch import nn

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def check_parity(
    model: "nn.Module", graph: "onnx.ModelProto", file: Path, image: ImageSpec, input_kind: str, pixels: Pixels
) -> tuple[Floats, ParityRecord]:
    """Compare a module with the graph that was exported from it, on pictures and batch sizes that the export did not see.

    Args:
        graph, file: the graph, and where it is written.
        pixels: the pictures, uint8 [n, H, W, 3].

    Returns:
        The module's logits for the pictures, and the record.

    Raises:
        ParityError: they differ by more than the tolerance; the message says by how much and where it begins.
    """
    steps = len(pixels) + sum(len(batches_of(len(pixels), size)) for size in BATCH_SIZES)
    with console.progress("comparing the graph with torch", steps) as advance, OrtSession(file) as session:
        logits = reference_logits(model, pixels, image, advance)
        record = compare_at_batch_sizes(
            lambda batch: run_predict(session, image, input_kind, batch),
            pixels,
            logits,
            Precision.FP32,
            reference_name=f"torch {version('torch')} (eager, float32)",
            candidate_name=session.backend,
            on_batch=advance,
        )
    if not record.is_equal:
        where = locate_difference(model, graph, pixels[:2], image, input_kind)
        raise ParityError(
            f"the graph differs from the model by {record.max_difference:.3g}, "
            f"{record.relative_difference:.1e} of the largest logit; {record.tolerance:.0e} is allowed. {where}",
            hint="nothing was written. Look at that module: values taken out of torch, random numbers, or state kept between calls",
        )
    return logits, record


def locate_difference(model: "nn.Module", graph: "onnx.ModelProto", pixels: Pixels, image: ImageSpec, input_kind: str) -> str:
    """The first module whose output in the graph is not what torch gives, as a sentence."""
    expected = module_outputs(model, pixels, image)
    tensors = {path: name for path, name in module_tensors(graph).items() if path in expected}
    feed = normalize(pixels, image) if input_kind == "float" else pixels
    with OrtSession(with_outputs(graph, list(tensors.values())).SerializeToString()) as session:
        found = session.run({"image": feed}, list(dict.fromkeys(tensors.values())))
    nodes = {output: node.name for node in graph.graph.node for output in node.output}
    for path, array in expected.items():
        seen = found.get(tensors.get(path, ""))
        if seen is None or seen.shape != array.shape:
            continue
        difference = float(np.abs(seen - array).max())
        if not difference <= TOLERANCES[Precision.FP32] * float(np.abs(array).max()):
            return f"They part at module {path}, node {nodes[tensors[path]]}: {difference:.3g} apart there."
    return "No inner module differs, so they part in what forward() does outside of its modules."
