"""What the logits of one picture say, for a classifier and for a segmentation net alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.runtime.classifier import Prediction, predictions_of, rank_logits
from deploykit.runtime.segmenter import ClassShare, Mask, Segmentation, read_segmentation, share_of
from deploykit.spec import ImageSpec

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Reading:
    """The answer for one picture.

    Args:
        predictions: the likeliest classes, or of a segmentation net those with the largest shares, best first.
        logits: [K] or [K, h, w].
        labels: names in class order, or None.
        segmentation: of a segmentation net.
    """

    predictions: tuple[Prediction | ClassShare, ...]
    logits: Floats
    labels: Sequence[str] | None
    segmentation: Segmentation | None = None

    def about(self, class_index: int) -> Prediction | ClassShare:
        """What the picture has of one class."""
        if self.segmentation is None:
            return predictions_of(self.logits, [class_index], self.labels)[0]
        return share_of(self.segmentation, class_index, self.labels)

    def mask_of(self, class_index: int) -> Mask | None:
        """The pixels of one class, bool [H, W] at the network's size; None of a classifier."""
        return None if self.segmentation is None else np.asarray(self.segmentation.class_map == class_index)


def read_logits(logits: Floats, photo_size: tuple[int, int], spec: ImageSpec, labels: Sequence[str] | None, top: int) -> Reading:
    """Read logits [K] of a classifier or [K, h, w] of a segmentation net.

    Args:
        photo_size: width and height of the upright photo.
        top: how many classes to name; of a segmentation net those that no pixel has are never named.

    Raises:
        UsageError: ``top`` below 1.
    """
    if logits.ndim == 1:
        return Reading(tuple(rank_logits(logits[None], labels, top)[0]), logits, labels)
    found = read_segmentation(logits, photo_size, spec, labels)
    return Reading(found.classes[:top], logits, labels, found)
