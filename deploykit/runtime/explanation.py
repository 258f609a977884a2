"""What an explanation is, and its map on the photo that was explained."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.image import CropBox
from deploykit.runtime.classifier import Prediction
from deploykit.runtime.maps import place_map, scale_box
from deploykit.runtime.segmenter import ClassShare, Mask, place_pixels

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """One picture, one class: the answer, and where it comes from.

    Args:
        predictions: the likeliest classes of the picture, best first; of a segmentation net those with the largest shares.
        explained: the class that the map speaks for, with its label and probability; of a segmentation net with its share.
        map: float32 [H, W] at the network's size, 0 to 1 (`deploykit.runtime.maps`).
        cam: float32 [h, w], the raw map, 0 or more, not scaled; at the network's size for methods at the input.
        has_evidence: False where nothing in the picture speaks for the class; then the map is zeros.
        method: its name, such as ``grad-cam``.
        layer: as the manifest names it; ``input`` for methods that look at the picture itself.
        box: the part of the upright photo that the network saw.
        photo_size: width and height of the upright photo.
        input_gradients: float32 [3, H, W], RGB, for the methods at the input: what ``cam`` is the magnitude of.
        mask: of a segmentation net: bool [H, W], the pixels of the explained class, whose summed logits are the score that the
            map explains.
    """

    predictions: tuple[Prediction | ClassShare, ...]
    explained: Prediction | ClassShare
    map: Floats
    cam: Floats
    has_evidence: bool
    method: str
    layer: str
    box: CropBox
    photo_size: tuple[int, int]
    input_gradients: Floats | None = None
    mask: Mask | None = None

    @property
    def is_even(self) -> bool:
        """Whether there is evidence, and as much of it at one place as at any other: the map is zeros then too."""
        return self.has_evidence and not self.map.any()


def map_on_photo(explanation: Explanation, photo_size: tuple[int, int] | None = None) -> Floats:
    """The map on the whole photo: what the network did not see is 0.

    Args:
        photo_size: width and height of the upright photo as it will be drawn, when it is not drawn at its own size.

    Returns:
        float32 [height, width], 0 to 1.

    Raises:
        InputError: ``photo_size`` has another shape than the photo that was explained.
    """
    size = photo_size or explanation.photo_size
    return place_map(explanation.map, scale_box(explanation.box, explanation.photo_size, size), size)


def mask_on_photo(explanation: Explanation, photo_size: tuple[int, int] | None = None) -> Mask | None:
    """The explained class's pixels on the whole photo, bool [height, width]; None of a classifier. See `map_on_photo`."""
    if explanation.mask is None:
        return None
    size = photo_size or explanation.photo_size
    box = scale_box(explanation.box, explanation.photo_size, size)
    return np.asarray(place_pixels(explanation.mask.astype(np.uint8), box, size, 0) == 1)
