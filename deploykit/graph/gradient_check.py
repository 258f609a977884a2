"""The guard at export: numbers that an explain graph must show before anyone trusts its maps.

A gradient that an exporter froze into a constant, or that a runtime computes wrongly, still makes a plausible heat map. So: run it.
Sessions come as callables, because graph/ knows no runtime.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import ParityError, UsageError

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]
Probe = Callable[[int, npt.NDArray[np.float64]], npt.NDArray[Any]]

# The change of the scores, relative to the largest logit (per pixel that counts), that a finite difference aims at: small beside
# the curvature of a smooth head, large beside float32 rounding (6e-8 of the logit, so below a thousandth of the difference).
_STEPS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
_DIRECTIONS = 3
# Above this relative error a central difference is not believed to have met a smooth score.
_MISSED = 1e-2


@dataclass(frozen=True)
class GradientCheck:
    """What was measured; each must be positive or small as said.

    Args:
        between_classes: largest difference between the gradients of two classes of the same images, relative to the largest
            gradient.
        between_images: the same between the evidence, gradients times activations, of two images.
        finite_difference: relative difference between the gradient along a direction and a central difference of the score, the
            worst image (of a segmentation net, the first); None where neither a tail nor a shifted graph was given.
    """

    between_classes: float
    between_images: float
    finite_difference: float | None

    def to_json(self) -> dict[str, float | None]:
        """The record as it stands in a manifest."""
        return asdict(self)


def check_gradients(
    explain: Run,
    images: npt.NDArray[Any],
    tail: Run | None = None,
    *,
    shifted: Run | None = None,
    tolerance: float = 2e-2,
) -> GradientCheck:
    """Verify an explain graph by running it on images that differ.

    Args:
        explain: takes ``image`` and ``class_index``, gives ``logits``, ``gradients``, ``activations`` and ``cam``.
        images: at least two different ones, [N, ...], as the graph's input takes them.
        tail: takes ``activations`` and ``class_index``, gives ``logits`` (``make_tail_graph``).
        shifted: takes ``image`` and ``shift``, gives ``logits`` (``make_shifted_graph``): for layers that have no tail graph, at
            the price of the whole network. Without either there are no finite differences.
        tolerance: of the finite differences, relative. A kink of ReLU or max-pooling between the two ends costs about a percent.

    Raises:
        ParityError: a gradient is not finite, is zero everywhere, is the same for two classes or makes the same map of every image,
            or contradicts the finite differences. The message has the figures.
        UsageError: fewer than two images.
    """
    rows = len(images)
    if rows < 2 or all(np.array_equal(images[0], image) for image in images[1:]):
        raise UsageError(f"checking gradients needs two images or more that differ, got {rows}")
    first = explain({"image": images, "class_index": np.full(rows, -1, dtype=np.int64)})
    top = first["explained_class"].astype(np.int64)
    classes = first["logits"].shape[1]
    other = explain({"image": images, "class_index": (top + 1) % classes})
    for name in ("activations", "gradients", "cam"):
        if not all(np.isfinite(answer[name]).all() for answer in (first, other)):
            raise ParityError(f"{name} of the explain graph hold NaN or infinite values")
    scale = float(np.abs(first["gradients"]).max())
    if scale == 0:
        raise ParityError("the gradients of the explain graph are zero for every image: no evidence passes the layer")
    between_classes = float(np.abs(first["gradients"] - other["gradients"]).max()) / scale
    if classes > 1 and between_classes < 1e-6:
        raise ParityError(f"the gradients of two classes differ by {between_classes:.1e} of their size: the class is not looked at")
    between_images = _spread(first)
    if between_images < 1e-6:
        raise ParityError(
            f"the evidence maps of {rows} images differ by {between_images:.1e} of their size: a constant was exported"
        )
    probe = _probe(tail, shifted, images, first, top)
    # Of a segmentation net one image: a difference costs thirty runs that score every pixel, minutes at full size on a CPU.
    probed = rows if first["logits"].ndim == 2 else 1
    worst = None if probe is None else max(_finite_difference(probe, first, top, row) for row in range(probed))
    if worst is not None and not worst <= tolerance:
        raise ParityError(f"gradients differ from finite differences by {worst:.1e} relative, allowed {tolerance:.1e}")
    return GradientCheck(between_classes, between_images, worst)


def _spread(answer: Arrays) -> float:
    """How much the signed evidence g * A of other images differs from the first one's, relative."""
    evidence = (answer["gradients"] * answer["activations"]).astype(np.float64)
    return float(np.abs(evidence[1:] - evidence[:1]).max() / max(float(np.abs(evidence).max()), np.finfo(np.float32).tiny))


def _probe(
    tail: Run | None, shifted: Run | None, images: npt.NDArray[Any], answer: Arrays, top: npt.NDArray[np.int64]
) -> Probe | None:
    """What gives the logits [n, ...] of an image whose activations are shifted by [n, C, h, w]."""
    if tail is not None:

        def from_tail(row: int, shifts: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
            batch = (answer["activations"][row] + shifts).astype(np.float32)
            return tail({"activations": batch, "class_index": np.full(len(batch), top[row])})["logits"]

        return from_tail
    if shifted is not None:

        def from_image(row: int, shifts: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
            return shifted({"image": np.repeat(images[row : row + 1], len(shifts), 0), "shift": shifts.astype(np.float32)})[
                "logits"
            ]

        return from_image
    return None


def _finite_difference(probe: Probe, answer: Arrays, top: npt.NDArray[np.int64], row: int) -> float:
    """For one image, the median over directions of the least relative error over step sizes.

    Each direction leans on the gradient's own signs, so the slope is large beside rounding, and differs in its weights. For a
    segmentation net the pixels that count move with the logits; their score is then not the one differentiated, so the mask is
    held.

    Max-pooling of equal values passes the gradient to one of them: raising that one moves the score, lowering it does not. Between
    a ReLU and a pooling this is the rule, not a rare kink: one window in three of VGG-16's last holds nothing but zeros. So where
    the central difference misses, the same pixels are only ever raised: those of positive gradient against those of negative.
    """
    activations = answer["activations"][row].astype(np.float32)
    gradient = answer["gradients"][row].astype(np.float64)
    rng = np.random.default_rng(row)
    size = _score_size(answer["logits"][row], int(top[row]))

    def error(forward: npt.NDArray[np.float64], backward: npt.NDArray[np.float64]) -> float:
        """The least relative difference, over step sizes, between the gradient and the score's change from one end to the other."""
        slope = float((gradient * (forward - backward)).sum())
        steps = np.array([2 * s * size / slope for s in _STEPS])
        logits = probe(row, np.stack([step * end for step in steps for end in (forward, backward)])).astype(np.float64)
        scores = _scores(logits, answer["logits"][row], int(top[row]))
        return float(np.abs((scores[0::2] - scores[1::2]) / (steps * slope) - 1).min())

    errors = []
    for _ in range(_DIRECTIONS):
        direction = np.sign(gradient) * rng.random(gradient.shape) * (np.abs(activations).mean() + 1e-6)
        if (gradient * direction).any():
            central = error(direction, -direction)
            errors.append(
                central if central < _MISSED else min(central, error(np.maximum(direction, 0), np.maximum(-direction, 0)))
            )
    return float(np.median(errors)) if errors else 0.0


def _scores(logits: npt.NDArray[np.float64], reference: npt.NDArray[np.generic], chosen: int) -> npt.NDArray[np.float64]:
    """The differentiated score per row: the class's logit, or its sum over the pixels where the reference predicts it."""
    if logits.ndim == 2:
        return logits[:, chosen]
    mask = reference.argmax(axis=0) == chosen
    return np.asarray((logits[:, chosen] * mask).sum(axis=(1, 2)))


def _score_size(logits: npt.NDArray[Any], chosen: int) -> float:
    """What a change of the score is compared with: the largest logit, times the pixels whose logits are summed.

    Without the pixels the steps of a large picture would be below the activations' own rounding.
    """
    pixels = 1 if logits.ndim == 1 else max(1, int((logits.argmax(axis=0) == chosen).sum()))
    return float(np.abs(logits).max()) * pixels
