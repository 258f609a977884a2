"""What is known of Dilation8, the front end with its context modules.

The release has weights for Caffe alone, which nothing here reads; a checkpoint that was converted from one loads by the layout
``caffe``. How pictures are taken is the release's: datasets/pascal_voc.json in https://github.com/fyu/dilation has the mean, in
grey levels and in the order blue, green, red.
"""

from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import dilation
from deploykit.models.labels import VOC_CLASSES
from deploykit.models.layouts import PYTORCH, Conventions, Layout
from deploykit.spec import ImageSpec

_CONTEXTS = {"dilation8_frontend": None, "dilation8": "basic", "dilation8_large": "large"}

# With 21 classes.
_PARAMETERS = {"dilation8_frontend": 134_346_581, "dilation8": 134_374_973, "dilation8_large": 141_149_720}

# The network takes any size that is a multiple of 8. The release answers for photos of up to 500 pixels, which costs about 1e12
# multiply-adds each; at 256 x 256 it is a quarter of that. The whole picture is resized: a crop would leave places unanswered.
_IMAGE = ImageSpec(
    256,
    256,
    None,
    resize_rule="exact",
    mean=(116.52 / 255, 111.36 / 255, 102.93 / 255),
    std=(1 / 255,) * 3,  # grey levels, not scaled
    colour_order="bgr",
)


def _caffe_names() -> dict[str, str]:
    """The prototxt's names of the layers to ours."""
    front = [f"conv{block}_{layer}" for block, widths in enumerate(dilation.BLOCKS, 1) for layer in range(1, len(widths) + 1)]
    table = {name: f"frontend.{name}" for name in (*front, "fc6", "fc7")} | {"fc-final": "frontend.final"}
    return table | {f"ct_{name}": f"context.{name}" for name in (*dilation.CONTEXT_NAMES, "final")}


LAYOUTS = (Layout("deploykit"), Layout("caffe", PYTORCH, outer=_caffe_names()))


def _build(context: str | None, num_classes: int, _conventions: Conventions) -> nn.Module:
    return dilation.Dilation8(num_classes, context)


def _entry(name: str, context: str | None) -> ModelEntry:
    return ModelEntry(
        name=name,
        family="dilation",
        paper="Yu & Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, ICLR 2016",
        paper_url="https://arxiv.org/abs/1511.07122",
        build=partial(_build, context),
        parameters=_PARAMETERS[name],
        cam_layer="frontend.relu7",  # the first maps that are without the margin, and so lie on the picture, are fc6's
        head="frontend.final" if context is None else "context.final",
        conventions=PYTORCH,
        layouts=LAYOUTS,
        image=_IMAGE,
        weights=(),
        num_classes=len(VOC_CLASSES),
        task="segmentation",
    )


ENTRIES = tuple(_entry(name, context) for name, context in _CONTEXTS.items())
