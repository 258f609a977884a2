"""What a plan's first 28 bytes tell: which product wrote it, in which version, and how long it should be.

The four bytes of the version stand at 24 (https://github.com/NVIDIA/TensorRT/issues/3073#issuecomment-1599934548). The length at 16
was found by trying, with TensorRT-RTX 1.7 alone, so it is told of that product's plans only. Nothing else is known of the layout:
not the GPU, and not the precision.
"""

import struct
from dataclasses import dataclass

MARKS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
"""What plans begin with, and who writes so."""

_LENGTH, _VERSION, _END = 16, 24, 28


@dataclass(frozen=True)
class PlanHeader:
    """What a header tells.

    Args:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: such as ``1.7.1.116``.
        size_bytes: of the whole plan; None where it is not told.
    """

    backend: str
    version: str
    size_bytes: int | None


def read_header(data: bytes) -> PlanHeader | None:
    """A plan's header; None where the bytes do not begin as a plan does, or end before the header."""
    backend = MARKS.get(data[:4])
    if backend is None or len(data) < _END:
        return None
    version = ".".join(str(part) for part in data[_VERSION:_END])
    (length,) = struct.unpack_from("<Q", data, _LENGTH)
    return PlanHeader(backend, version, length if backend == "tensorrt-rtx" else None)
