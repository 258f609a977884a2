"""What is known of a model before it is built."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from deploykit.models.layouts import Conventions, Layout
from deploykit.models.published import PublishedWeights
from deploykit.spec import ImageSpec

TASKS = ("classification", "segmentation")


@dataclass(frozen=True)
class ModelEntry:
    """What deploykit knows about a model before it is built.

    Args:
        name, family: as the command line takes and shows them.
        paper, paper_url: who defined it.
        build: from the number of classes and the weights' conventions to a module, image [N, 3, H, W] to logits [N, K], or
            [N, K, h, w] for segmentation.
        parameters: how many there are with `num_classes` classes.
        cam_layer: module path of the last convolutional feature map, where Grad-CAM looks unless told otherwise.
        head: module path of the layer that makes the logits.
        conventions: of weights under deploykit's own names, and of random ones.
        layouts: the namings of checkpoints that are understood.
        image: how pictures are taken by the default weights, and by weights that nobody published.
        weights: the published ones, the default first; empty where there are none.
        num_classes: K unless told otherwise: that of the published weights.
        task: one of ``TASKS``.
        training_only: how the names of tensors begin that checkpoints hold for training alone, such as auxiliary heads.
    """

    name: str
    family: str
    paper: str
    paper_url: str
    build: Callable[[int, Conventions], nn.Module]
    parameters: int
    cam_layer: str
    head: str
    conventions: Conventions
    layouts: tuple[Layout, ...]
    image: ImageSpec
    weights: tuple[PublishedWeights, ...]
    num_classes: int = 1000
    task: str = "classification"
    training_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"{self.name}: task is {self.task!r}, expected one of {', '.join(TASKS)}")
