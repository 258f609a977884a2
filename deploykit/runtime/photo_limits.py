"""What a picture may cost where the graph resizes photos itself: as large as what answers takes it, which of a plan is its profile.

In: what answers, and the limits that were asked for. Out: narrower ones, so that a photo is refused by its header, by name and
before it is decoded, and the other photos of a run are answered.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from deploykit.image import DecodeLimits, limits_for
from deploykit.runtime.session import TensorInfo


class Described(Protocol):
    """A session, or what stands for one."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The tensors that it takes."""


def photo_limits(answering: Described, input_kind: str, limits: DecodeLimits) -> DecodeLimits:
    """The limits of pictures for what answers; see `deploykit.image.limits_for`.

    Args:
        input_kind: of `deploykit.spec.INPUT_KINDS`.
    """
    limits = limits_for(input_kind, limits)
    sides = next((info.sides for info in answering.inputs if info.sides), None) if input_kind == "photo" else None
    if sides is None:
        return limits
    return replace(limits, min_side=max(limits.min_side, sides[0]), max_side=min(limits.max_side or sides[1], sides[1]))
