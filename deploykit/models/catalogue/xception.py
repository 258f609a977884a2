"""What is known of Xception. The weights are timm's, ported from the author's own, and their figure is timm's.

The digest of timm's file is not known here, so it is no download: it is given with --weights.
"""

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import xception
from deploykit.models.layouts import PYTORCH, TIMM_OWN, Conventions
from deploykit.models.published import PublishedWeights
from deploykit.spec import ImageSpec

_WEIGHTS = PublishedWeights(
    "legacy_xception.tf_in1k",
    ImageSpec(299, 299, 333, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
    79.040,
    "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv",
)


def _build(num_classes: int, _conventions: Conventions) -> nn.Module:
    return xception.Xception(num_classes)


ENTRIES = (
    ModelEntry(
        name="xception",
        family="xception",
        paper="Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017",
        paper_url="https://arxiv.org/abs/1610.02357",
        build=_build,
        parameters=22_855_952,
        cam_layer="act4",
        head="fc",
        conventions=PYTORCH,
        layouts=(TIMM_OWN,),
        image=_WEIGHTS.image,
        weights=(_WEIGHTS,),
    ),
)
