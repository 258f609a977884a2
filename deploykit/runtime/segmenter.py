"""Pictures in, a class for every pixel out.

A segmentation graph gives logits [N, K, h, w], at the picture's size (FCN, DeepLabv3) or at an eighth of it (Dilation8). They are
enlarged to the picture's size H x W, bilinear with half-pixel centres; a pixel's class is its largest logit. The class map is laid
on the original photo through the geometry that made the network's picture (`deploykit.image.placement`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from deploykit.bundle import Bundle, Manifest
from deploykit.errors import SessionError
from deploykit.image import DEFAULT_LIMITS, CropBox, DecodeLimits, Source, decode, graph_pixels, placement
from deploykit.runtime.classifier import Pictures, label_of, open_for, open_predict, run_predict, softmax
from deploykit.runtime.maps import pixel_centres, resample, scale_box
from deploykit.runtime.photo_limits import photo_limits
from deploykit.runtime.session import Session
from deploykit.spec import ImageSpec, Precision

Floats = npt.NDArray[np.float32]
ClassMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]

_MOST_IN_A_BYTE = 255


@dataclass(frozen=True)
class ClassShare:
    """One class in one picture.

    Args:
        class_index: position in the logits.
        label: its name; ``class 7`` where the bundle knows no names.
        share: part of the pixels that the network saw whose class it is, 0 to 1.
        probability: of the class, after softmax, mean over those pixels; 0 where there are none.
    """

    class_index: int
    label: str
    share: float
    probability: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer for one picture.

    Args:
        classes: those that any pixel has, by their share, largest first; ties in class order.
        class_map: [H, W] at the network's size: each pixel's class, uint8, or uint16 for more than 255 classes.
        confidence: float32 [H, W]: the probability of each pixel's class.
        logits: float32 [K, h, w], as the graph gave them.
        box: the part of the upright photo that the network saw.
        photo_size: width and height of the upright photo.
    """

    classes: tuple[ClassShare, ...]
    class_map: ClassMap
    confidence: Floats
    logits: Floats
    box: CropBox
    photo_size: tuple[int, int]

    def probabilities(self) -> Floats:
        """Of every class at every pixel, after softmax: float32 [K, H, W]; they sum to 1 at each pixel."""
        return np.asarray(softmax(enlarge(self.logits, *self.class_map.shape)[None])[0])


class Segmenter:
    """Answers for the pictures it is given. Threads may share it; `close` it or use it in a ``with`` block.

    Args:
        session: of a predict graph of a segmentation model.
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
    ) -> "Segmenter":
        """Open the predict graph of a bundle at a precision, or its plan.

        Args:
            precision, backend, provider, threads, plan, plugins: what answers; see `deploykit.runtime.opening.Answering`.

        Raises:
            UsageError: not a precision, not a backend, or not a segmentation model.
            BundleError: not a bundle, or the precision is not in it.
            EngineError: no plan that fits this machine.
            SessionError: the provider is not here, or the graph does not load.
        """
        bundle = open_for(bundle, "segmentation", "Classifier")
        session = open_predict(bundle, precision, backend=backend, provider=provider, threads=threads, plan=plan, plugins=plugins)
        return cls(session, bundle.manifest, bundle.labels(), limits)

    def segment(self, image: Source) -> Segmentation:
        """The class of every pixel of one picture. See `segment_batch`."""
        return self.segment_batch([image])[0]

    def segment_batch(self, images: Iterable[Source]) -> list[Segmentation]:
        """The class of every pixel of each picture, from one run.

        Args:
            images: paths, encoded bytes, Pillow images, or RGB arrays uint8 [H, W, 3] of any size.

        Raises:
            ImageError: a picture that cannot be used; it is named.
            SessionError: the graph answers with NaN or infinity.
        """
        photos = [decode(image, self.limits, self.manifest.image) for image in images]
        return self.segment_photos(photos) if photos else []

    def segment_photos(self, photos: Sequence[Image.Image]) -> list[Segmentation]:
        """The same for photos that are decoded already: upright RGB, at least one."""
        logits = self.logits([graph_pixels(photo, self.manifest.image, self.manifest.input) for photo in photos])
        return [
            read_segmentation(row, photo.size, self.manifest.image, self.labels) for row, photo in zip(logits, photos, strict=True)
        ]

    def logits(self, pixels: Pictures) -> Floats:
        """The logits of pictures that have the network's size already; any size, where the graph resizes them itself.

        Args:
            pixels: uint8 [N, H, W, 3] RGB, or N of [H, W, 3]; not normalized, whatever the kind of the graph's input.

        Returns:
            float32 [N, K, h, w].
        """
        logits = run_predict(self.session, self.manifest.image, self.manifest.input, pixels)
        if not np.isfinite(logits).all():
            raise SessionError("the graph gives NaN or infinite logits", hint="try --precision fp32")
        return logits

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> "Segmenter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_segmentation(logits: Floats, photo_size: tuple[int, int], spec: ImageSpec, labels: Sequence[str] | None) -> Segmentation:
    """What logits [K, h, w] of one picture say.

    Args:
        photo_size: width and height of the upright photo.
        spec: how the network's picture was made of it.
    """
    scores = enlarge(logits, spec.height, spec.width)
    class_map = scores.argmax(0)
    # The likeliest class's probability is 1 / sum(exp(logit - largest logit)).
    confidence = (1 / np.exp(scores - scores.max(0)).sum(0)).astype(np.float32)
    counts = np.bincount(class_map.ravel(), minlength=len(logits))
    sums = np.bincount(class_map.ravel(), weights=confidence.ravel(), minlength=len(logits))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    classes = [ClassShare(i, label_of(labels, i), float(counts[i] / class_map.size), float(sums[i] / counts[i])) for i in order]
    small = class_map.astype(np.uint8 if len(logits) <= _MOST_IN_A_BYTE else np.uint16)
    return Segmentation(tuple(classes), small, confidence, logits, placement(*photo_size, spec), photo_size)


def share_of(segmentation: Segmentation, class_index: int, labels: Sequence[str] | None) -> ClassShare:
    """What a picture has of one class; a share of 0 where no pixel has it."""
    found = [one for one in segmentation.classes if one.class_index == class_index]
    return found[0] if found else ClassShare(class_index, label_of(labels, class_index), 0.0, 0.0)


def enlarge(logits: Floats, height: int, width: int) -> Floats:
    """Logits [K, h, w] at another size, bilinear with half-pixel centres; as they are where it is their own."""
    if logits.shape[1:] == (height, width):
        return logits
    return resample(logits, pixel_centres(logits.shape[1], height), pixel_centres(logits.shape[2], width))


def unseen_value(class_map: ClassMap) -> int:
    """What marks the pixels of a photo that the network did not see: 255, as in Pascal VOC; 65535 in a uint16 map."""
    return int(np.iinfo(class_map.dtype).max)


def class_map_on_photo(segmentation: Segmentation, photo_size: tuple[int, int] | None = None) -> ClassMap:
    """The class of every pixel of the whole photo: that of the nearest pixel of the network's picture.

    Args:
        photo_size: width and height of the upright photo as it will be drawn, when it is not drawn at its own size.

    Returns:
        [height, width] of the class map's type; `unseen_value` where the network saw nothing, judged by a pixel's centre.

    Raises:
        InputError: ``photo_size`` has another shape than the photo.
    """
    size = photo_size or segmentation.photo_size
    unseen = unseen_value(segmentation.class_map)
    return place_pixels(segmentation.class_map, scale_box(segmentation.box, segmentation.photo_size, size), size, unseen)


def place_pixels(pixels: npt.NDArray[np.generic], box: CropBox, photo_size: tuple[int, int], unseen: int) -> ClassMap:
    """Lay values [H, W] at the network's size on the photo, the nearest to each pixel's centre; ``unseen`` outside the box."""
    (height, width), (wide, high) = pixels.shape, photo_size
    x = (np.arange(wide) + 0.5 - box.left) * width / (box.right - box.left)
    y = (np.arange(high) + 0.5 - box.top) * height / (box.bottom - box.top)
    seen_x, seen_y = (x > 0) & (x < width), (y > 0) & (y < height)
    placed = np.full((high, wide), unseen, pixels.dtype)
    placed[np.ix_(seen_y, seen_x)] = pixels[np.ix_(y[seen_y].astype(np.intp), x[seen_x].astype(np.intp))]
    return placed
