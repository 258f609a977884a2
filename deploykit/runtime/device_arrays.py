"""Arrays that stand on the GPU already, such as a torch tensor's or a CuPy array's: read where they are, without a copy.

In: an object with ``__dlpack__`` (https://dmlc.github.io/dlpack/latest/python_spec.html) or ``__cuda_array_interface__``
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html). Out: a `DeviceArray`, or a clear error. DLPack is asked
first: it lets the producer order its own work before ours, which torch's ``__cuda_array_interface__`` says nothing of.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploykit.errors import InputError
from deploykit.runtime.session import TensorInfo

_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_KINDS = {0: "int", 1: "uint", 2: "float", 6: "bool"}  # DLDataTypeCode


@dataclass(frozen=True)
class DeviceArray:
    """An array on the GPU, C-contiguous.

    Args:
        address: where it begins, as the device counts.
        shape, dtype: as numpy's.
        producer_stream: whoever reads it waits for that stream first; None where there is nothing to wait for.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    producer_stream: int | None = None
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def rows(self, start: int, stop: int) -> "DeviceArray":
        """Some of its rows, where they stand."""
        begin = self.address + start * self.row_bytes
        return DeviceArray(begin, (stop - start, *self.shape[1:]), self.dtype, self.producer_stream, self.owner)


def is_on_device(value: object) -> bool:
    """Whether a value is an array that a GPU holds."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) in (_CUDA, _CUDA_MANAGED)
    return hasattr(value, "__cuda_array_interface__")


def read_device_array(value: Any, info: TensorInfo, ordinal: int) -> DeviceArray:
    """Describe an array on the GPU, which must be as the input wants it: nothing is converted there.

    Args:
        ordinal: of the GPU that will read it.

    Raises:
        InputError: another GPU, dtype, shape or memory layout.
    """
    array, strides, device = _from_dlpack(value, info) if hasattr(value, "__dlpack__") else _from_interface(value, ordinal)
    expected = f"expected {info} on GPU {ordinal}, C-contiguous"
    if device != ordinal:
        raise InputError(
            f"{info.name} stands on GPU {device}, {expected}", hint="move it first; deploykit copies nothing between GPUs"
        )
    if array.dtype != info.dtype:
        raise InputError(f"{info.name} has dtype {array.dtype}, {expected}", hint="convert it on the GPU, or pass a numpy array")
    fits = len(array.shape) == len(info.shape) and all(
        size > 0 and (isinstance(want, str) or want == size) for size, want in zip(array.shape, info.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{info.name} has shape {list(array.shape)}, {expected}")
    if strides is not None and not _is_contiguous(array.shape, strides):
        raise InputError(
            f"{info.name} is not contiguous (strides {list(strides)} in elements), {expected}", hint="pass x.contiguous()"
        )
    return array


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _from_interface(value: Any, ordinal: int) -> tuple[DeviceArray, tuple[int, ...] | None, int]:
    """The interface names no GPU: what it gives counts as standing on ours."""
    seen = value.__cuda_array_interface__
    dtype, shape = np.dtype(seen["typestr"]), tuple(int(n) for n in seen["shape"])
    if seen.get("mask") is not None:
        raise InputError("a masked array cannot be an input", hint="fill the mask first")
    strides = seen.get("strides")
    steps = None if strides is None else tuple(int(s) // dtype.itemsize for s in strides)
    return DeviceArray(int(seen["data"][0]), shape, dtype.name, seen.get("stream"), value), steps, ordinal


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    """DLTensor of dlpack.h, the first member of DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any, info: TensorInfo) -> tuple[DeviceArray, tuple[int, ...] | None, int]:
    """Read the capsule without consuming it: it keeps the memory and frees it with its own last reference."""
    try:
        # 1 is the legacy default stream: the producer lets it wait for its work, and the lane's stream waits for it.
        capsule = value.__dlpack__(stream=1)
    except Exception as error:  # foreign code; torch raises BufferError, RuntimeError or its own
        raise InputError(f"{info.name}: {type(value).__name__} gives no DLPack capsule: {error}") from error
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(get_pointer(capsule, b"dltensor"))
    kind, bits = _KINDS.get(tensor.dtype.code), tensor.dtype.bits
    if kind is None or tensor.dtype.lanes != 1:
        dtype = f"DLPack type {tensor.dtype.code} of {bits} bits x {tensor.dtype.lanes}"
    else:
        dtype = kind if kind == "bool" else f"{kind}{bits}"
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, dtype, 1, capsule), strides, int(tensor.device.id)
