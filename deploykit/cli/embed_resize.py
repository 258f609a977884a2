"""``--embed-resize``: graphs that resize photos themselves, proved against the host's way in before they are written.

In: the graphs with the pixel input, which are proved already, and photos. Out: a record for the manifest, or a `ParityError`.

Two hops are compared: the grey levels that the graph makes of a photo with those that `deploykit.image` makes, and the outputs
for the photo with those of the pixel graph for the very levels. So what is left between the host and the graph is what steps
of one grey level at some values do to the logits. That is measured too, and held to what such a step at every value does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.bundle import Bundle
from deploykit.cli.explain_graphs import open_graphs, relative_difference
from deploykit.errors import ParityError
from deploykit.graph.files import read_graph
from deploykit.graph.pixels import embed_resize, remove_resize, resizes
from deploykit.graph.resize_normalize import make_resize_graph
from deploykit.image import resize_and_crop
from deploykit.parity import PICTURES, sample_pictures
from deploykit.runtime.ort import OrtSession
from deploykit.spec import PHOTO_SIDES, ImageSpec, Precision

if TYPE_CHECKING:
    import onnx

Pixels = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]

LEVELS_TOLERANCE = 1
"""Grey levels. The graph's are Pillow's to the bit; the host folds the crop into the resize (`deploykit.image.resize`)."""

OUTPUTS_TOLERANCE = 1e-4
"""Of an output's largest value. The nodes behind the resize are the same; a runtime may fuse them otherwise."""

_SIGNS = 4
"""Patterns of random signs with which every value is moved by one level."""


@dataclass(frozen=True)
class Asked:
    """The pictures of the parity check.

    Args:
        pixels: uint8 [n, H, W, 3] at the network's size.
        photos: what they were made of, all of one size; None where the graphs take pixels.
    """

    pixels: Pixels
    photos: Pixels | None = None


def asked_pictures(image: ImageSpec, *, embed_resize: bool) -> Asked:
    """Made-up pictures at the network's size; with ``embed_resize`` photos and the pixels that the operator makes of them, so that
    whoever runs the graph later is held to those, and not to the rounding of the host's resize."""
    if not embed_resize:
        return Asked(sample_pictures(PICTURES, image.height, image.width))
    photos = sample_pictures(PICTURES, *_sizes(image)[0])
    with open_graphs({"resize": make_resize_graph(image)}) as sessions:
        return Asked(np.stack([_levels(sessions["resize"], photo) for photo in photos]), photos)


def prove_embedded(graphs: Mapping[str, "onnx.ModelProto"], image: ImageSpec, asked: Asked) -> dict[str, Any]:
    """Compare graphs that resize with their pixel graphs and with the host.

    Args:
        graphs: those with the pixel input, by file name; ``predict.onnx`` is among them.

    Returns:
        For the manifest: sizes, the share of values that differ by a level, the logits' difference and its bound.

    Raises:
        GraphError: a graph whose pixels are not normalized by deploykit's own nodes.
        ParityError: levels, outputs or logits are further from each other than they may be.
    """
    assert asked.photos is not None  # noqa: S101 made by asked_pictures for this
    photos = [*asked.photos, *(sample_pictures(1, *size, seed=i)[0] for i, size in enumerate(_sizes(image)[1:], PICTURES))]
    embedded = {f"photo_{name}": embed_resize(graph, image) for name, graph in graphs.items()}
    with open_graphs(
        {"resize": make_resize_graph(image), **{f"pixels_{name}": g for name, g in graphs.items()}, **embedded}
    ) as found:
        host = np.stack([resize_and_crop(Image.fromarray(photo), image) for photo in photos])
        levels = np.stack([_levels(found["resize"], photo) for photo in photos])
        share = _compare_levels(levels, host, photos)
        for name in graphs:
            _compare_outputs(name, found[f"photo_{name}"], found[f"pixels_{name}"], photos[0], levels[:1])
        logits = np.concatenate([_logits(found["photo_predict.onnx"], photo[None]) for photo in photos])
        pixels = found["pixels_predict.onnx"]
        difference, bound = float(np.abs(logits - _logits(pixels, host)).max()), _one_level(pixels, host)
    if not difference <= bound:
        raise ParityError(
            f"the logits of the graph that resizes are {difference:.3g} from those of the host's resize; a step of one grey level "
            f"at every value moves them by {bound:.3g}",
            hint="nothing was written; export without --embed-resize",
        )
    return {
        "reference": "the host's resize",
        "sizes": [list(photo.shape[:2]) for photo in photos],
        "differing_share": share,
        "max_level_difference": int(np.abs(levels.astype(np.int16) - host).max()),
        "max_difference": difference,
        "one_level_moves": bound,
    }


def at_network_size(bundle: Bundle) -> Bundle:
    """A bundle as verbs see it that make another precision of its graphs: they take pixels, and get the resize back when they are
    added (`deploykit.cli.export_bundle.add_graph`). A bundle whose graphs do not resize is itself."""
    if bundle.manifest.input != "photo":
        return bundle
    return replace(bundle, manifest=replace(bundle.manifest, input="pixels"))


def read_float_graph(bundle: Bundle) -> "onnx.ModelProto":
    """The float32 predict graph of a bundle, without its resize if it has one."""
    graph = read_graph(bundle.file(f"{Precision.FP32}/predict.onnx"))
    return remove_resize(graph, bundle.manifest.image) if resizes(graph) else graph


def _sizes(image: ImageSpec) -> list[tuple[int, int]]:
    """Heights and widths of photos: a landscape a little larger than the network needs, of which the golden vectors are made; an
    upright one twice as high as wide, of which Pillow resizes the rows first; a wide one; a small one, to be enlarged."""
    base = image.resize_size or max(image.height, image.width)
    sizes = [
        (base * 9 // 8 + 3, base * 3 // 2 + 5),
        (base * 3 + 1, base * 5 // 4),
        (base * 2, base * 5 + 2),
        (base // 2 + 1, base // 2),
    ]
    least, greatest = PHOTO_SIDES
    return [(min(max(h, least), greatest), min(max(w, least), greatest)) for h, w in sizes]


def _levels(session: OrtSession, photo: Pixels) -> Pixels:
    """What the operator makes of a photo [H, W, 3], uint8 [h, w, 3]."""
    return np.asarray(session.run({"image": photo[None]})["levels"][0].transpose(1, 2, 0), np.uint8)


def _logits(session: OrtSession, image: Pixels) -> npt.NDArray[Any]:
    return session.run({"image": image}, ["logits"])["logits"]


def _compare_levels(seen: Pixels, expected: Pixels, photos: list[Pixels]) -> float:
    """The share of values that differ at all."""
    apart = np.abs(seen.astype(np.int16) - expected)
    for photo, one in zip(photos, apart, strict=True):
        if one.max() > LEVELS_TOLERANCE:
            raise ParityError(
                f"a photo of {photo.shape[0]} x {photo.shape[1]} resized in the graph is up to {one.max()} grey levels from the "
                f"host's resize, {LEVELS_TOLERANCE} is allowed",
                hint="nothing was written; export without --embed-resize",
            )
    return float((apart > 0).mean())


def _compare_outputs(name: str, embedded: OrtSession, plain: OrtSession, photo: Pixels, levels: Pixels) -> None:
    """Behind the resize the two graphs are one."""
    extra = {} if name == "predict.onnx" else {"class_index": np.array([-1], np.int64)}
    seen, expected = embedded.run({"image": photo[None], **extra}), plain.run({"image": levels, **extra})
    for output, value in expected.items():
        difference = relative_difference(seen[output], value)
        if seen[output].shape != value.shape or not difference <= OUTPUTS_TOLERANCE:
            raise ParityError(
                f"{output} of the {name} that resizes differs from that of the pixel graph by {difference:.1e}, "
                f"{OUTPUTS_TOLERANCE:.0e} is allowed"
            )


def _one_level(session: OrtSession, pixels: Pixels) -> float:
    """By how much a logit moves at most when every value of these pictures moves by one grey level, up or down at random."""
    random, before = np.random.default_rng(0), _logits(session, pixels)
    worst = 0.0
    for _ in range(_SIGNS):
        moved = np.clip(pixels + random.choice(np.array([-1, 1], np.int16), pixels.shape), 0, 255).astype(np.uint8)
        worst = max(worst, float(np.abs(_logits(session, moved) - before).max()))
    return worst
