"""Pictures in, ranked predictions out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.bundle import Bundle, Manifest
from deploykit.errors import InputError, SessionError, UsageError
from deploykit.image import DEFAULT_LIMITS, DecodeLimits, Source, load_pixels, normalize
from deploykit.runtime.opening import Answering, open_session
from deploykit.runtime.photo_limits import photo_limits
from deploykit.runtime.session import Session
from deploykit.spec import ImageSpec, Precision

Floats = npt.NDArray[np.float32]
Pictures = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]
"""uint8 [N, H, W, 3] RGB, or N of [H, W, 3], which may differ in size where the graph resizes them itself."""


@dataclass(frozen=True)
class Prediction:
    """One class for one picture.

    Args:
        class_index: position in the logits.
        label: its name; ``class 7`` where the bundle knows no names.
        probability: after softmax, 0 to 1.
        logit: before softmax.
    """

    class_index: int
    label: str
    probability: float
    logit: float


class Classifier:
    """Answers for the pictures it is given. Threads may share it; `close` it or use it in a ``with`` block.

    Args:
        session: of a predict graph.
        manifest: of the bundle it came from: the image spec and the kind of input.
        labels: names in class order, or None.
        limits: what a picture may cost.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        labels: Sequence[str] | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> None:
        self.session = session
        self.manifest = manifest
        self.labels = labels
        self.limits = photo_limits(session, manifest.input, limits)

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        *,
        precision: Precision | str = Precision.FP32,
        backend: str | None = None,
        provider: str = "cpu",
        threads: int = 0,
        plan: Path | None = None,
        plugins: tuple[Path, ...] = (),
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> "Classifier":
        """Open the predict graph of a bundle at a precision, or its plan.

        Args:
            precision, backend, provider, threads, plan, plugins: what answers; see `deploykit.runtime.opening.Answering`.

        Raises:
            UsageError: not a precision, not a backend, or not a classifier.
            BundleError: not a bundle, or the precision is not in it.
            EngineError: no plan that fits this machine.
            SessionError: the provider is not here, or the graph does not load.
        """
        bundle = open_for(bundle, "classification", "Segmenter")
        session = open_predict(bundle, precision, backend=backend, provider=provider, threads=threads, plan=plan, plugins=plugins)
        return cls(session, bundle.manifest, bundle.labels(), limits)

    def classify(self, image: Source, top: int = 5) -> list[Prediction]:
        """The likeliest classes of one picture, best first. See `classify_batch`."""
        return self.classify_batch([image], top)[0]

    def classify_batch(self, images: Iterable[Source], top: int = 5) -> list[list[Prediction]]:
        """The likeliest classes of each picture, best first, from one run; from one each, where the graph resizes them itself.

        Args:
            images: paths, encoded bytes, Pillow images, or RGB arrays uint8 [H, W, 3] of any size.
            top: how many classes, 1 to K; more than K gives K.

        Raises:
            UsageError: ``top`` below 1.
            ImageError: a picture that cannot be used; it is named.
        """
        pixels = [load_pixels(image, self.manifest.image, self.limits, self.manifest.input) for image in images]
        return self.rank(self.logits(pixels), top) if pixels else []

    def logits(self, pixels: Pictures) -> Floats:
        """The logits of pictures that have the network's size already; any size, where the graph resizes them itself.

        Args:
            pixels: uint8 [N, H, W, 3] RGB, or N of [H, W, 3]; not normalized, whatever the kind of the graph's input.

        Returns:
            float32 [N, K].
        """
        return run_predict(self.session, self.manifest.image, self.manifest.input, pixels)

    def rank(self, logits: Floats, top: int = 5) -> list[list[Prediction]]:
        """The likeliest classes of each row of logits [N, K], best first; ties in class order.

        Raises:
            UsageError: ``top`` below 1.
            SessionError: a row holds NaN or infinity.
        """
        return rank_logits(logits, self.labels, top)

    def label(self, class_index: int) -> str:
        """The name of a class."""
        return label_of(self.labels, class_index)

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_for(bundle: Bundle | str | Path, task: str, other: str) -> Bundle:
    """The bundle, whose model must be for a task.

    Args:
        other: the class of deploykit.runtime that answers with models for another.

    Raises:
        UsageError: it is for another task.
        BundleError: not a bundle.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if bundle.manifest.model.task != task:
        raise UsageError(
            f"{bundle.path} holds a {bundle.manifest.model.task} model, expected {task}",
            hint=f"deploykit.runtime.{other} answers with it",
        )
    return bundle


def open_predict(
    bundle: Bundle,
    precision: Precision | str,
    *,
    backend: str | None = None,
    provider: str = "cpu",
    threads: int = 0,
    plan: Path | None = None,
    plugins: tuple[Path, ...] = (),
) -> Session:
    """A session of the bundle's predict graph at a precision, or of its plan; see `deploykit.runtime.opening.open_session`."""
    return open_session(bundle, "predict", Answering(precision, backend, provider, threads, plan, plugins))


def run_predict(session: Session, image: ImageSpec, input_kind: str, pixels: Pictures) -> Floats:
    """Logits float32 [N, K, ...] of pictures, normalized here where the graph does not do it itself.

    Raises:
        InputError: another dtype or shape.
    """
    parts = [session.run({"image": feed}, ["logits"])["logits"] for feed in image_feeds(image, input_kind, pixels)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def image_feeds(image: ImageSpec, input_kind: str, pixels: Pictures) -> list[npt.NDArray[np.uint8] | Floats]:
    """What a graph's input ``image`` takes run by run for pictures, at least one: all at once; one by one under ``photo``, whose
    graphs take a batch of 1, because photos of a batch differ in size.

    Raises:
        InputError: another dtype, or a shape that cannot be normalized.
    """
    if input_kind == "photo":
        return [image_feed(image, input_kind, picture[None]) for picture in pixels]
    return [image_feed(image, input_kind, pixels if isinstance(pixels, np.ndarray) else np.stack(pixels))]


def image_feed(image: ImageSpec, input_kind: str, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | Floats:
    """What a graph's input ``image`` takes for pixels uint8 [N, H, W, 3]: themselves, or normalized under ``float``.

    Raises:
        InputError: another dtype, or a shape that cannot be normalized.
    """
    if pixels.dtype != np.uint8:
        raise InputError(f"pixels have dtype {pixels.dtype}, expected uint8 RGB, 0 to 255, not normalized")
    return normalize(pixels, image) if input_kind == "float" else pixels


def rank_logits(logits: Floats, labels: Sequence[str] | None, top: int) -> list[list[Prediction]]:
    """The likeliest classes of each row of logits [N, K], best first; ties in class order. See `Classifier.rank`.

    Raises:
        UsageError: ``top`` below 1.
        SessionError: NaN or infinity: sorting would make a class of it.
    """
    if top < 1:
        raise UsageError(f"top is {top}, expected 1 or more")
    if bad := [i for i, row in enumerate(logits) if not np.isfinite(row).all()]:
        raise SessionError(
            f"the network answers with NaN or infinity in {len(bad)} of {len(logits)} rows, first in row {bad[0]}",
            hint="try --precision fp32; deploykit convert finds what FP16 cannot hold",
        )
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    return [predictions_of(row, best, labels) for row, best in zip(logits, order, strict=True)]


def predictions_of(logits: Floats, classes: Iterable[int], labels: Sequence[str] | None) -> list[Prediction]:
    """Chosen classes of one row of logits [K], in the order given."""
    probabilities = softmax(logits[None])[0]
    return [Prediction(int(i), label_of(labels, int(i)), float(probabilities[i]), float(logits[i])) for i in classes]


def label_of(labels: Sequence[str] | None, class_index: int) -> str:
    """The name of a class; ``class 7`` where no names are known."""
    return labels[class_index] if labels is not None else f"class {class_index}"


def softmax(logits: Floats) -> Floats:
    """Probabilities float32 [N, K, ...] of logits [N, K, ...]; they sum to 1 over K. Large logits do not overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
