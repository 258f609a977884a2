"""Arrays in one binary file that C++ reads without a library; the format is described in template/include/deploykit/golden.h.

In: names and numpy arrays. Out: bytes, all numbers little-endian.
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x89DKA\r\n\x1a\n"
_TYPES = {"uint8": 0, "int64": 1, "float32": 2}
_ENTRY = struct.Struct("<16s2I4I3Q")
_ALIGNMENT = 16


def pack_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """One file of arrays: uint8, int64 or float32, of rank 1 to 4, in the order given.

    Raises:
        ValueError: another type or rank, or a name that is not 1 to 15 ASCII characters; a defect of the caller.
    """
    begin = len(_MAGIC) + 8 + _ENTRY.size * len(arrays)
    entries, data = [], bytearray()
    for name, array in arrays.items():
        if not (name.isascii() and 1 <= len(name) <= 15 and array.dtype.name in _TYPES and 1 <= array.ndim <= 4):
            raise ValueError(f"{name!r} is {array.dtype} of rank {array.ndim}, expected one of {', '.join(_TYPES)} of rank 1 to 4")
        data += bytes(-(begin + len(data)) % _ALIGNMENT)
        raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes("C")
        shape = [*array.shape, *[0] * (4 - array.ndim)]
        place = begin + len(data)
        entries.append(_ENTRY.pack(name.encode(), _TYPES[array.dtype.name], array.ndim, *shape, place, len(raw), 0))
        data += raw
    return _MAGIC + struct.pack("<2I", len(arrays), 0) + b"".join(entries) + bytes(data)


def unpack_arrays(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of such a file, for whoever looks at one in Python."""
    names = {code: name for name, code in _TYPES.items()}
    (count, _) = struct.unpack_from("<2I", data, len(_MAGIC))
    arrays = {}
    for index in range(count):
        name, code, rank, *rest = _ENTRY.unpack_from(data, len(_MAGIC) + 8 + _ENTRY.size * index)
        shape, place, size = rest[:rank], rest[4], rest[5]
        values = np.frombuffer(data[place : place + size], np.dtype(names[code]).newbyteorder("<"))
        arrays[name.rstrip(b"\0").decode()] = values.reshape(shape)
    return arrays
