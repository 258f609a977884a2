"""What is known of the dilated residual networks.

Weights and their figures: https://github.com/fyu/drn, README.md (error rates on one crop of 224 pixels from pictures whose shorter
side is 256) and drn.py (names of the files). The only address that was ever given, http://dl.yf.io/drn/, has no https and has not
answered since 2022 (https://github.com/fyu/drn/issues/45); a copy of a file is known by the digest in its name.
"""

from functools import partial

from torch import nn

from deploykit.models.entry import ModelEntry
from deploykit.models.families import drn
from deploykit.models.layouts import PYTORCH, Conventions, Layout
from deploykit.models.published import PublishedWeights
from deploykit.spec import ImageSpec

_PAGE = "https://github.com/fyu/drn/blob/master/README.md"
_IMAGE = ImageSpec(224, 224, 256)
_RELEASE = Layout("drn")

# Parameters with 1000 classes, file (its name ends in the first digits of its sha256), top-1 in percent.
_FACTS = {
    "drn_c_26": (21_126_584, "drn_c_26-ddedf421.pth", 75.1),
    "drn_d_22": (16_393_752, "drn_d_22-4bd2f8ea.pth", 74.2),
    "drn_d_38": (26_501_912, "drn_d_38-eebb45f0.pth", 76.2),
    "drn_d_54": (35_809_176, "drn_d_54-0e0534ff.pth", 78.8),
}


def _build(variant: drn.Variant, num_classes: int, _conventions: Conventions) -> nn.Module:
    return drn.DRN(variant, num_classes)


def _entry(name: str, variant: drn.Variant) -> ModelEntry:
    parameters, file, top1 = _FACTS[name]
    digest = file.removesuffix(".pth").rpartition("-")[2]
    return ModelEntry(
        name=name,
        family="drn",
        paper="Yu, Koltun & Funkhouser, Dilated Residual Networks, CVPR 2017",
        paper_url="https://arxiv.org/abs/1705.09914",
        build=partial(_build, variant),
        parameters=parameters,
        cam_layer="layer8",
        head="fc",
        conventions=PYTORCH,
        layouts=(_RELEASE,),
        image=_IMAGE,
        weights=(PublishedWeights("ImageNet", _IMAGE, top1, _PAGE, sha256=digest),),
    )


ENTRIES = tuple(_entry(name, variant) for name, variant in drn.VARIANTS.items())
