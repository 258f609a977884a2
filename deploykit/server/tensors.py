"""Tensors of the Open Inference Protocol: its datatypes, and arrays from and to their JSON and binary forms. Pure functions.

Sources: https://github.com/kserve/open-inference-protocol (tensor data, datatypes) and Triton's extension "binary tensor data":
binary data is little-endian and row-major; an element of BYTES is preceded by its length, 4 bytes.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import RequestError

Array = npt.NDArray[Any]

DATATYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""The protocol's datatypes that an array can have, and numpy's names for them. BYTES and BF16 have none there."""

NAMES: Mapping[str, str] = {numpy_name: name for name, numpy_name in DATATYPES.items()}

_MOST_AXES = 8


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """A tensor's shape as a request gives it.

    Raises:
        RequestError: no list of up to 8 whole numbers from 0 on.
    """
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(isinstance(d, int) and not isinstance(d, bool) and 0 <= d < 2**31 for d in shape)
    ):
        raise RequestError(400, f"input {name}: shape is {_short(shape)}, expected a list of up to {_MOST_AXES} whole numbers")
    return tuple(shape)


def check_datatype(name: str, datatype: object) -> str:
    """numpy's name for the datatype that a request gives.

    Raises:
        RequestError: one that no graph here takes.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(400, f"input {name}: datatype is {_short(datatype)}, expected one of {', '.join(DATATYPES)}")
    return DATATYPES[datatype]


def from_binary(name: str, data: memoryview, shape: tuple[int, ...], dtype: str) -> Array:
    """The array that little-endian row-major bytes hold; a read-only view of them.

    Raises:
        RequestError: another number of bytes than the shape asks for.
    """
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise RequestError(400, f"input {name}: {len(data):,} bytes of data, expected {expected:,} for {dtype} {list(shape)}")
    if dtype == "bool" and len(data) and max(data) > 1:
        raise RequestError(400, f"input {name}: a BOOL has bytes other than 0 and 1")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def from_json(name: str, data: object, shape: tuple[int, ...], dtype: str) -> Array:
    """The array that JSON numbers hold, nested by axis or flat in row-major order.

    Raises:
        RequestError: no numbers, numbers that the datatype cannot hold, or another count than the shape asks for.
    """
    if not isinstance(data, list):
        raise RequestError(400, f"input {name}: data is {_short(data)}, expected a list of numbers")
    try:
        seen = np.array(data) if data else np.empty(0, dtype)
    except ValueError as error:  # lists of different lengths
        raise RequestError(400, f"input {name}: data is nested unevenly, expected shape {list(shape)}") from error
    if seen.size != math.prod(shape) or (seen.ndim > 1 and seen.shape != shape):
        raise RequestError(400, f"input {name}: data has shape {list(seen.shape)}, expected {list(shape)} or its numbers in a row")
    return _converted(name, seen, dtype).reshape(shape)


def _converted(name: str, seen: Array, dtype: str) -> Array:
    wanted = np.dtype(dtype)
    allowed = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[wanted.kind]
    if seen.dtype.kind not in allowed:
        raise RequestError(400, f"input {name}: data holds values that are no {NAMES[dtype]}")
    if wanted.kind in "iu" and seen.size:
        bounds = np.iinfo(wanted)
        # As Python's numbers: numpy would compare uint64 with a negative bound in floats.
        if int(seen.min()) < bounds.min or int(seen.max()) > bounds.max:
            raise RequestError(400, f"input {name}: data goes from {seen.min()} to {seen.max()}, beyond {NAMES[dtype]}")
    with np.errstate(over="ignore"):
        array = seen.astype(wanted)
    if wanted.kind == "f" and not np.isfinite(array).all():
        raise RequestError(400, f"input {name}: data holds a number beyond {NAMES[dtype]}")
    return array


def to_binary(array: Array) -> bytes:
    """Little-endian row-major bytes; of text, each element's length and its UTF-8."""
    if array.dtype.kind == "U":
        encoded = [text.encode() for text in array.ravel().tolist()]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(name: str, array: Array) -> list[Any]:
    """The numbers in a row, as the protocol recommends.

    Raises:
        RequestError: NaN or infinity, for which JSON has no number.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(
            500,
            f"output {name} holds NaN or infinity, which JSON cannot say",
            'ask for it with "binary_data": true',
            kind="not_finite",
        )
    values: list[Any] = array.ravel().tolist()
    return values


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type; text is BYTES."""
    return "BYTES" if array.dtype.kind == "U" else NAMES[array.dtype.name]


def classify(values: Array, count: int, labels: Sequence[str] | None) -> Array:
    """Triton's extension "classification": the ``count`` greatest values of each row, as text ``value:index:label`` [N, count]."""
    rows = values.reshape(len(values), -1)
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    texts = [
        [f"{row[i]:f}:{i}" + (f":{labels[i]}" if labels and i < len(labels) else "") for i in best]
        for row, best in zip(rows, order, strict=True)
    ]
    return np.array(texts)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
