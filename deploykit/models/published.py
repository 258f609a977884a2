"""Published weights, as data: which file, how it takes pictures, how well it answers. Needs no torch.

The rows themselves stand with their families in ``catalogue/``.
"""

from dataclasses import dataclass

from deploykit.spec import ImageSpec

IMAGENET = "ImageNet-1k"
COCO_WITH_VOC_LABELS = "COCO val2017, Pascal VOC's classes"
TORCHVISION_URL = "https://download.pytorch.org/models/"
TORCHVISION_PAGE = "https://docs.pytorch.org/vision/stable/models.html"


@dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Args:
        name: as its publisher calls it.
        image: how it takes pictures.
        top1: accuracy on the validation images of `dataset`, in percent, as published; None where it is no classifier's.
        source: the page that says so.
        url: where the file can be downloaded; None where no address is known.
        package: the distribution on the package index that carries it; None where there is none.
        sha256: of the file: all 64 hexadecimal digits or the first ones, as far as they are known; empty without a file.
        dataset: whose classes it answers with.
        mean_iou: mean intersection over union on the validation images, in percent, as published; None for classifiers.
    """

    name: str
    image: ImageSpec
    top1: float | None
    source: str
    url: str | None = None
    package: str | None = None
    sha256: str = ""
    dataset: str = IMAGENET
    mean_iou: float | None = None


@dataclass(frozen=True)
class TorchvisionFile:
    """A row of torchvision's table of weights for ImageNet-1k.

    Args:
        name: of the weights, such as ``IMAGENET1K_V2``.
        file: as it stands on the server; its name ends in the first 8 digits of its sha256.
        size, resize: of the crop and of the shorter side before it, in pixels.
        interpolation: Pillow's.
        top1: in percent.
    """

    name: str
    file: str
    size: int
    resize: int
    interpolation: str
    top1: float

    def published(self) -> PublishedWeights:
        """The weights, with torchvision's mean and standard deviation."""
        image = ImageSpec(self.size, self.size, self.resize, interpolation=self.interpolation)
        digest = self.file.removesuffix(".pth").rpartition("-")[2]
        return PublishedWeights(self.name, image, self.top1, TORCHVISION_PAGE, TORCHVISION_URL + self.file, sha256=digest)
