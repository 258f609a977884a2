"""A classifier's file against the predict graph made of it, and where they part: what import does before it writes anything.

The file is run as it is, at its own batch, in its own layout and type, on pictures normalized here; the graph at several batches.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.cli import console
from deploykit.errors import ParityError
from deploykit.graph.files import write_graph
from deploykit.graph.foreign import ForeignInput, ForeignOutput, final_activation, is_half_precision
from deploykit.graph.scopes import with_outputs
from deploykit.image import normalize
from deploykit.parity import BATCH_SIZES, TOLERANCES, ParityRecord, batches_of, compare_at_batch_sizes
from deploykit.runtime.classifier import image_feed, run_predict
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import TensorInfo
from deploykit.spec import ImageSpec, Precision

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PROBABILITY_TOLERANCE = {Precision.FP32: 1e-5, Precision.FP16: 1e-2}
"""Absolute. A probability moves by a quarter of what its logit moves by; float16 rounds logits of 10 by 5e-3."""


@dataclass(frozen=True)
class Original:
    """A classifier's file, and how it is to be asked.

    Args:
        path, graph: the file, and what was read from it and its side files.
        source, output: where the picture enters and the scores leave.
        image: how pictures are prepared.
        takes_pixels: True for a predict graph of deploykit's own with the pixel input.
    """

    path: Path
    graph: "onnx.ModelProto"
    source: ForeignInput
    output: ForeignOutput
    image: ImageSpec
    takes_pixels: bool

    @property
    def precision(self) -> Precision:
        """How exactly it computes."""
        return Precision.FP16 if self.source.dtype == "float16" or is_half_precision(self.graph) else Precision.FP32

    def ask(self, session: OrtSession, pixels: Pixels, names: list[str], advance: Callable[..., None]) -> list[Array]:
        """Its answers by name, in batches of its own size; one picture at a time where it takes any."""
        parts = []
        for rows in batches_of(len(pixels), self.source.batch or 1):
            feed = pixels[rows] if self.takes_pixels else self.source.feed(normalize(pixels[rows], self.image))
            # The scores depend on no other input, so any value will do for those.
            others = {i.name: _zeros(i, len(rows)) for i in session.inputs if i.name != self.source.name}
            answer = session.run({self.source.name: feed, **others}, names)
            parts.append([np.atleast_1d(answer[name]) for name in names])
            advance(min(len(rows), len(pixels)))
        return [np.concatenate(arrays)[: len(pixels)] for arrays in zip(*parts, strict=True)]


def _zeros(info: TensorInfo, batch: int) -> Array:
    return np.zeros([d if isinstance(d, int) else batch for d in info.shape], info.dtype)


@dataclass(frozen=True)
class Answers:
    """What a file says of the pictures.

    Args:
        pixels: uint8 [n, H, W, 3].
        output: of its own output, in the file's type and shape.
        scores: before the final activation; the output again where there is none.
        backend: what ran it.
    """

    pixels: Pixels
    output: Array
    scores: Array
    backend: str


def ask_original(original: Original, pixels: Pixels) -> Answers:
    """Run the file on pictures. Where a final activation will be cut off, a copy that also shows the tensor before it is run too.

    Raises:
        SessionError: the file does not load or run.
    """
    output = original.output
    with console.progress(f"asking {original.path.name} itself", len(pixels)) as advance, OrtSession(original.path) as session:
        answer = original.ask(session, pixels, [output.name], advance)[0]
        backend = session.backend
    if output.scores == output.name:
        return Answers(pixels, answer, answer, backend)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        file = write_graph(with_outputs(original.graph, [output.scores]), Path(folder) / "scores.onnx")[0]
        with OrtSession(file) as session:
            return Answers(pixels, answer, original.ask(session, pixels, [output.scores], lambda *_: None)[0], backend)


def compare_with_original(
    original: Original, answers: Answers, predict: "onnx.ModelProto", input_kind: str
) -> tuple[Floats, ParityRecord]:
    """Compare the predict graph's logits with the file's scores, at batches that the file may not take.

    Returns:
        The logits that stand for the file from now on, and the record. They are the file's; of a float16 file they are the predict
        graph's, because that file's rounding has no place in what float32 graphs are compared with.

    Raises:
        ParityError: they differ by more than the tolerance; the message says by how much and where it begins.
    """
    pixels, precision = answers.pixels, original.precision
    steps = sum(len(batches_of(len(pixels), size)) for size in BATCH_SIZES)
    with (
        tempfile.TemporaryDirectory(prefix="deploykit-") as folder,
        OrtSession(write_graph(predict, Path(folder) / "predict.onnx")[0]) as session,
        console.progress("comparing the predict graph with it", steps) as advance,
    ):
        logits = run_predict(session, original.image, input_kind, pixels)
        expected = _as_logits(answers.scores, logits)
        record = compare_at_batch_sizes(
            lambda batch: run_predict(session, original.image, input_kind, batch),
            pixels,
            expected,
            precision,
            reference_name=f"{original.path.name} ({answers.backend})",
            candidate_name=session.backend,
            on_batch=advance,
        )
    if not record.is_equal:
        raise ParityError(
            f"the predict graph's logits are {record.max_difference:.3g} from the file's, {record.relative_difference:.1e} of the "
            f"largest; {record.tolerance:.0e} is allowed. {locate_difference(original, predict, pixels[:2], input_kind)}",
            hint="nothing was written. If rows are mixed there, export the model again with a dynamic batch",
        )
    _check_activation(original, logits, answers.output)
    return (expected if precision is Precision.FP32 else logits), record


def _as_logits(scores: Array, logits: Floats) -> Floats:
    """The file's scores in the shape of the logits; one score per image as the pair that stands for it."""
    scores = scores.astype(np.float32)
    if logits.ndim == 2 and scores.size == len(logits):
        half = scores.reshape(-1, 1) / 2
        return np.concatenate([-half, half], 1)
    return scores.reshape(len(scores), -1) if logits.ndim == 2 else scores


def _check_activation(original: Original, logits: Floats, output: Array) -> None:
    """What the activation that was cut off makes of the new logits must be what the file itself says."""
    name, allowed = original.output.activation, PROBABILITY_TOLERANCE[original.precision]
    if name is None:
        return
    is_pair = output.size == len(logits)
    seen = final_activation(name, logits[:, 1:] - logits[:, :1] if is_pair else logits)
    difference = float(np.abs(seen.reshape(output.shape) - output.astype(np.float32)).max())
    # Log probabilities are as large as logits.
    scale = float(np.abs(output).max()) if name == "LogSoftmax" else 1.0
    if not difference <= allowed * max(scale, 1.0):
        raise ParityError(
            f"{name} of the new logits differs by {difference:.1e} from the output {original.output.name!r} of the file; "
            f"{allowed:.0e} is allowed",
            hint="nothing was written; name the tensor that holds the scores with --scores",
        )


def locate_difference(original: Original, predict: "onnx.ModelProto", pixels: Pixels, input_kind: str) -> str:
    """The first tensor of two pictures at once that is not what the file makes of them, as a sentence."""
    made = {name for node in original.graph.graph.node for name in node.output if name}
    nodes = {name: node for node in predict.graph.node for name in node.output if name in made}
    with OrtSession(with_outputs(predict, list(nodes)).SerializeToString()) as session:
        found = session.run({"image": image_feed(original.image, input_kind, pixels)}, list(nodes))
    with OrtSession(with_outputs(original.graph, list(nodes)).SerializeToString()) as session:
        expected = dict(zip(nodes, original.ask(session, pixels, list(nodes), lambda *_: None), strict=True))
    for name, node in nodes.items():
        a, b = expected[name], found[name]
        if a.shape != b.shape or a.dtype.kind != "f":
            continue
        difference = float(np.abs(a.astype(np.float32) - b).max())
        if not difference <= TOLERANCES[original.precision] * float(np.abs(a).max()):
            return f"They part at node {node.name or name!r} ({node.op_type}): {difference:.3g} apart there."
    return "No tensor that both have differs."
