"""FP16 of a bundle's float32 graph: pictures through both, one batch at a time. In: a bundle and pictures. Out: a proved graph.

The float32 graph shows its ranges; the FP16 graph, every tensor of it rounded and laid open, must be finite everywhere and answer
as float32 does; then the graph as it is must answer the golden vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle, sha256_of
from deploykit.cli import console
from deploykit.cli.embed_resize import read_float_graph
from deploykit.cli.explain_graphs import open_graphs
from deploykit.errors import ImageError, ParityError
from deploykit.graph.exposure import batch_size_for, split
from deploykit.graph.half import (
    HalfGraph,
    TensorRange,
    convert_to_half,
    float_tensors,
    make_rounding_graph,
    measure_ranges,
    require_finite,
)
from deploykit.graph.half.ranges import module_text
from deploykit.graph.scopes import with_only_outputs
from deploykit.image import decode_each, find_images
from deploykit.parity import BATCH_SIZES, PICTURES, TOLERANCES, ParityRecord, batches_of, compare_at_batch_sizes, sample_pictures
from deploykit.runtime.classifier import image_feed, run_predict
from deploykit.runtime.ort import OrtSession
from deploykit.spec import Precision

if TYPE_CHECKING:
    import onnx

Pixels = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]

BATCH = 4
"""Pictures at a time, at most; fewer where they take much memory with every tensor laid open."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The pictures to ask with.

    Args:
        golden, made_up: uint8 [n, H, W, 3].
        paths: the user's files.
        skipped: of the user's files those that cannot be used, with the reason.
        digests: sha256 of the files that are used, by name.
    """

    golden: Pixels
    made_up: Pixels
    paths: tuple[Path, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.golden) + len(self.made_up) + len(self.paths)

    @property
    def source(self) -> str:
        """What they are, in words."""
        own = f"{len(self.paths)} of your own" if self.paths else f"{len(self.made_up)} made up"
        return f"{own}, {len(self.golden)} golden"


@dataclass(frozen=True)
class Answers:
    """FP16's logits beside float32's over all pictures.

    Args:
        pictures: how many.
        max_difference: of a logit.
        relative_difference: the same, of the largest logit.
        agreement: the share of rows (pixels, of a segmentation net) with the same top-1, 0 to 1.
    """

    pictures: int
    max_difference: float
    relative_difference: float
    agreement: float


@dataclass(frozen=True, eq=False)
class Converted:
    """An FP16 graph that was proved, and what was seen on the way."""

    half: HalfGraph
    ranges: Mapping[str, TensorRange]
    parity: ParityRecord
    answers: Answers
    asked: Asked

    def to_json(self) -> dict[str, Any]:
        """The range report as it stands in the bundle."""
        report = self.half.report.to_json()
        asked = {
            "golden": len(self.asked.golden),
            "made_up": len(self.asked.made_up),
            "images": dict(self.asked.digests),
            "skipped": dict(self.asked.skipped),
        }
        ranges = {name: seen.to_json() for name, seen in self.ranges.items()}
        return {"pictures": asked, "answers": asdict(self.answers), **report, "ranges": ranges}


def find_asked(bundle: Bundle, images: Sequence[Path]) -> Asked:
    """The golden pictures and the user's; without any of his, made-up ones.

    Raises:
        ImageError: none of the user's files can be used.
    """
    image, golden = bundle.manifest.image, bundle.golden().pixels
    if not images:
        return Asked(golden, sample_pictures(2 * PICTURES, image.height, image.width, seed=1))
    paths = find_images(images)
    good, skipped = [], {}
    with console.progress(f"reading {len(paths)} pictures", len(paths)) as advance:
        for path, pixels in decode_each(paths, image):
            if isinstance(pixels, ImageError):
                console.warn(f"skipped: {pixels}")
                skipped[str(path)] = str(pixels)
            else:
                good.append(path)
            advance()
    if not good:
        raise ImageError(f"none of {len(paths)} pictures can be used", hint="name a directory of photos with --images")
    return Asked(golden, golden[:0], tuple(good), skipped, {path.name: sha256_of(path) for path in good})


def convert_bundle(bundle: Bundle, asked: Asked, keep: Sequence[str]) -> Converted:
    """Convert and prove; nothing is written.

    Raises:
        UsageError: ``keep`` names nothing.
        GraphError: NaN or infinity, in float32 or in FP16; the node is named.
        ParityError: FP16 does not answer as float32 does; the node where they part is named.
    """
    graph = read_float_graph(bundle)
    ranges = _measure(bundle, graph, asked)
    half = convert_to_half(graph, ranges, keep=keep)
    answers = _compare(bundle, graph, half.graph, asked)
    with open_graphs({"fp16": half.graph}) as sessions:
        parity = _compare_with_golden(bundle, sessions["fp16"])
    worst = max(answers.relative_difference, parity.relative_difference)
    # Written so that NaN fails.
    if not worst <= TOLERANCES[Precision.FP16]:
        where = _where_they_part(bundle, graph, half.graph, asked)
        raise ParityError(
            f"FP16 is {worst:.1e} of the largest logit from float32, {TOLERANCES[Precision.FP16]:.0e} is allowed. {where}",
            hint="nothing was written. Keep that node or its module in float32 with --keep",
        )
    return Converted(half, ranges, parity, answers, asked)


def _feeds(bundle: Bundle, asked: Asked, size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """All pictures, decoded as they are needed."""
    manifest = bundle.manifest

    def feed(pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return {"image": image_feed(manifest.image, manifest.input, pixels)}

    for some in (asked.golden, asked.made_up):
        for start in range(0, len(some), size):
            yield feed(some[start : start + size])
    for start in range(0, len(asked.paths), size):
        rows = [pixels for _, pixels in decode_each(asked.paths[start : start + size], manifest.image)]
        for pixels in rows:
            if isinstance(pixels, ImageError):
                raise pixels  # it was readable a moment ago
        yield feed(np.stack([pixels for pixels in rows if not isinstance(pixels, ImageError)]))


def _measure(bundle: Bundle, graph: "onnx.ModelProto", asked: Asked) -> dict[str, TensorRange]:
    names = float_tensors(graph)
    size, parts = batch_size_for(graph, names, at_most=BATCH), split(graph, names)
    ranges: dict[str, TensorRange] = {}
    label = f"looking for the ranges of {asked.count} pictures in float32"
    with console.progress(label, asked.count * len(parts)) as advance:
        for part in parts:
            with open_graphs({"fp32": with_only_outputs(graph, part)}) as sessions:
                ranges |= measure_ranges(sessions["fp32"].run, part, _feeds(bundle, asked, size), on_batch=advance)
    return ranges


def _compare(bundle: Bundle, graph: "onnx.ModelProto", half: "onnx.ModelProto", asked: Asked) -> Answers:
    """Float32's logits beside those of FP16 with every tensor rounded as a device stores it, which ONNX Runtime's CPU would leave
    out (see `make_rounding_graph`). Each tensor must be finite, and not the logits alone."""
    rounding = make_rounding_graph(half)
    # In graph order, so that the first node that fails is named: the graph's own output, which comes first here, is its end.
    names = [*(output.name for output in rounding.graph.output if output.name != "logits"), "logits"]
    size, (*earlier, last) = batch_size_for(rounding, names, at_most=BATCH), split(rounding, names)
    rows, same, difference, largest = 0, 0, 0.0, 0.0
    label = f"comparing FP16 with float32 on {asked.count} pictures"
    with console.progress(label, asked.count * (len(earlier) + 1)) as advance:
        for part in earlier:
            with open_graphs({"fp16": with_only_outputs(rounding, part)}) as sessions:
                for feeds in _feeds(bundle, asked, size):
                    require_finite(half, sessions["fp16"].run(feeds), "the FP16 graph")
                    advance(len(feeds["image"]))
        with open_graphs({"fp32": graph, "fp16": with_only_outputs(rounding, last)}) as sessions:
            for feeds in _feeds(bundle, asked, size):
                expected, outputs = sessions["fp32"].run(feeds)["logits"], sessions["fp16"].run(feeds)
                require_finite(half, outputs, "the FP16 graph")
                seen = outputs["logits"]
                difference = max(difference, float(np.abs(expected - seen).max()))
                largest = max(largest, float(np.abs(expected).max()))
                agree = expected.argmax(1) == seen.argmax(1)
                rows, same = rows + agree.size, same + int(agree.sum())
                advance(len(expected))
    return Answers(asked.count, difference, difference / (largest or 1.0), same / max(rows, 1))


def _compare_with_golden(bundle: Bundle, session: OrtSession) -> ParityRecord:
    golden, manifest = bundle.golden(), bundle.manifest
    steps = sum(len(batches_of(len(golden.image), size)) for size in BATCH_SIZES)
    with console.progress("comparing FP16 with the golden vectors", steps) as advance:
        return compare_at_batch_sizes(
            lambda pixels: run_predict(session, manifest.image, manifest.input, pixels),
            golden.pixels,
            golden.logits,
            Precision.FP16,
            reference_name="the golden vectors",
            candidate_name=session.backend,
            on_batch=advance,
        )


def _where_they_part(bundle: Bundle, graph: "onnx.ModelProto", half: "onnx.ModelProto", asked: Asked) -> str:
    """The first node whose output in FP16 is further from float32's than the logits may be, as a sentence."""
    names, rounding = float_tensors(graph), make_rounding_graph(half)
    size = batch_size_for(graph, names, at_most=BATCH)
    feeds, there = next(_feeds(bundle, asked, size)), {output.name for output in rounding.graph.output}
    for part in split(graph, [name for name in names if name in there], copies=2):
        with open_graphs({"fp32": with_only_outputs(graph, part), "fp16": with_only_outputs(rounding, part)}) as sessions:
            expected, seen = (sessions[name].run(feeds) for name in ("fp32", "fp16"))
        if where := _first_apart(graph, expected, seen):
            return where
    return "No tensor of the first pictures differs by that much, so it adds up on the way"


def _first_apart(graph: "onnx.ModelProto", expected: Arrays, seen: Arrays) -> str | None:
    for node in graph.graph.node:
        for name in node.output:
            candidate = seen.get(name)
            if name not in expected or candidate is None:
                continue
            scale = float(np.abs(expected[name]).max())
            apart = float(np.abs(expected[name] - candidate).max())
            if not apart <= TOLERANCES[Precision.FP16] * scale:
                return f"They part at node {node.name or name} ({node.op_type}){module_text(node)}: {apart:.3g} apart there"
    return None
