"""The models that deploykit defines, by name, and what is known of each before it is built: one file per family.

A family adds itself with a definition (``families/``), its layouts if checkpoints name tensors in several ways (``layouts.py``),
and a file here that ends in ``ENTRIES``.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from deploykit.errors import UsageError
from deploykit.models.catalogue import (
    densenet,
    dilation,
    drn,
    efficientnet,
    inception,
    mobilenet,
    resnet,
    segmentation,
    vgg,
    xception,
)
from deploykit.models.entry import ModelEntry

__all__ = ["MODELS", "ModelEntry", "find_model"]

MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        entry.name: entry
        for family in (densenet, dilation, drn, efficientnet, inception, mobilenet, resnet, segmentation, vgg, xception)
        for entry in family.ENTRIES
    }
)


def find_model(name: str) -> ModelEntry:
    """The entry of that name.

    Raises:
        UsageError: there is none; the message names those that look alike.
    """
    if name in MODELS:
        return MODELS[name]
    alike = difflib.get_close_matches(name.lower().replace("-", "_"), MODELS, n=3)
    raise UsageError(
        f"there is no model {name!r}" + (f"; did you mean {' or '.join(alike)}?" if alike else ""),
        hint=f"deploykit models lists all {len(MODELS)}",
    )
