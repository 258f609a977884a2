"""From a picture's bytes to the answers that people get. These functions take their time and run in threads.

see             bytes -> the network's pixels, and what is left of the photo
tell_logits     logits -> predictions
explain_photo   bytes -> predictions, maps and overlays
"""

import base64
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.bundle import Manifest
from deploykit.errors import RequestError
from deploykit.image import DecodeLimits, decode, graph_pixels
from deploykit.image.formats import HEAD_BYTES, describe, identify
from deploykit.runtime import ClassShare, Explainer, Explanation, Prediction
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.overlay import draw_explanation
from deploykit.runtime.reading import read_logits
from deploykit.server.batcher import late
from deploykit.server.questions import Question
from deploykit.server.served_model import ServedModel
from deploykit.server.shared_session import SharedSession
from deploykit.spec import ImageSpec

OVERLAY_PIXELS = 1024
"""The longer side of an overlay at most."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as the network sees it.

    Args:
        image: what the graphs take for it, [1, H, W, 3] or [1, 3, H, W].
        photo_size: width and height of the upright photo.
        decode_ms: how long that took.
    """

    image: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    photo_size: tuple[int, int]
    decode_ms: float


def see(read: Callable[[], bytes | bytearray], limits: DecodeLimits, manifest: Manifest) -> Seen:
    """Decode, resize and crop.

    Args:
        read: gives the picture's bytes.
        limits: see `deploykit.runtime.photo_limits`.

    Raises:
        RequestError: 415, a file of a format that is not read.
        ImageError: a picture beyond the limits, or damaged.
    """
    start = time.perf_counter()
    photo = open_photo(read(), limits, manifest.image)
    image = image_feed(manifest.image, manifest.input, graph_pixels(photo, manifest.image, manifest.input)[None])
    return Seen(image, photo.size, (time.perf_counter() - start) * 1e3)


def open_photo(data: bytes | bytearray, limits: DecodeLimits, spec: ImageSpec) -> Image.Image:
    """The upright photo. Its header is held against the limits before a pixel is decoded. Errors: see `see`."""
    head = bytes(data[:HEAD_BYTES])
    if (found := identify(head)) is None or found not in limits.formats:
        reason, hint = describe(head) if found is None else (f"is a {found} file", None)
        raise RequestError(415, f"the picture {reason}", hint or f"allowed are {', '.join(limits.formats)}", kind="unsupported")
    return decode(data, limits, spec)


def tell_logits(logits: npt.NDArray[np.float32], seen: Seen, model: ServedModel, top: int) -> list[dict[str, Any]]:
    """The likeliest classes of one picture's logits, [K] or [K, h, w].

    Raises:
        SessionError: NaN or infinity.
    """
    reading = read_logits(logits, seen.photo_size, model.manifest.image, model.labels, top)
    return tell_predictions(reading.predictions)


def tell_predictions(predictions: Sequence[Prediction | ClassShare]) -> list[dict[str, Any]]:
    """Predictions as JSON has them."""
    return [_tell(one) for one in predictions]


def _tell(one: Prediction | ClassShare) -> dict[str, Any]:
    # dataclasses.asdict copies every value deeply: it was a tenth of the event loop's work.
    return dict(vars(one))


def explain_photo(
    read: Callable[[], bytes | bytearray], explainer: Explainer, shared: SharedSession, question: Question, deadline: float
) -> tuple[dict[str, Any], Mapping[str, float]]:
    """Answer and explain one picture.

    Args:
        read: gives the picture's bytes.
        shared: what the explainer asks; no run of it waits beyond the deadline.
        deadline: on the monotonic clock; looked at before each step.

    Returns:
        What the answer says, and how long its stages took in milliseconds.

    Raises:
        RequestError: 415; 504 the deadline has passed.
        UsageError, ImageError, BundleError, SessionError: see `Explainer.explain`.
    """
    marks = [time.perf_counter()]
    spec = explainer.manifest.image
    photo = open_photo(read(), explainer.limits, spec)
    _check_time(deadline)
    marks.append(time.perf_counter())
    with shared.until(deadline):
        explanations = _explain(explainer, photo, question)
    _check_time(deadline)
    marks.append(time.perf_counter())
    first = explanations[0]
    told = {
        "predictions": tell_predictions(first.predictions),
        "photo": {"width": first.photo_size[0], "height": first.photo_size[1]},
        "box": {
            "left": first.box.left,
            "top": first.box.top,
            "width": first.box.right - first.box.left,
            "height": first.box.bottom - first.box.top,
        },
        "explanations": _tell_explanations(explanations, photo, question, deadline),
    }
    marks.append(time.perf_counter())
    stages = zip(("decode", "explain", "draw"), marks, marks[1:], strict=False)
    return told, {stage: (end - start) * 1e3 for stage, start, end in stages}


def _explain(explainer: Explainer, photo: Image.Image, question: Question) -> list[Explanation]:
    method, layer, top = question.method, question.layer, question.top
    if question.explain_top:
        return explainer.explain_classes(photo, None, method, layer, top)
    if len(question.classes) > 1:
        return explainer.explain_classes(photo, question.classes, method, layer, top)
    return explainer.explain([photo], question.classes[0] if question.classes else None, method, layer, top)


def _tell_explanations(
    explanations: Sequence[Explanation], photo: Image.Image, question: Question, deadline: float
) -> list[dict[str, Any]]:
    small = _reduced(photo) if question.overlay else None
    told = []
    for one in explanations:
        _check_time(deadline)
        row = {
            **_tell(one.explained),
            "method": one.method,
            "layer": one.layer,
            "has_evidence": one.has_evidence,
            "is_even": one.is_even,
            "map": _grey(one.map),
        }
        if one.mask is not None:
            row["mask"] = _grey(one.mask)
        if small is not None:
            row["overlay_png_b64"] = _png(draw_explanation(small, one))
        told.append(row)
    return told


def _grey(values: npt.NDArray[np.float32] | npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A map or mask [H, W], 0 to 1, as a grey picture."""
    height, width = values.shape
    return {"width": width, "height": height, "png_b64": _png(Image.fromarray(np.rint(255.0 * values).astype(np.uint8)))}


def _reduced(photo: Image.Image) -> Image.Image:
    """The photo, its longer side at most ``OVERLAY_PIXELS``."""
    scale = OVERLAY_PIXELS / max(photo.size)
    if scale >= 1:
        return photo
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _png(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)  # a third of the time of Pillow's 6; sent once, and looked at
    return base64.b64encode(data.getvalue()).decode()


def _check_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise late("while it was explained")
