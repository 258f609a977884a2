"""Arrays that stand on the GPU already: what DLPack and __cuda_array_interface__ say of them, read from numpy's and torch's own
capsules, which differ from a GPU's in their address alone.
"""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch

from deploykit.errors import InputError
from deploykit.runtime.device_arrays import DeviceArray, _DLTensor, is_on_device, read_device_array
from deploykit.runtime.session import TensorInfo

INFO = TensorInfo("image", "float32", ("N", 2, 3))


class OnGpu:
    """An array that says of itself that it stands on a GPU."""

    def __init__(self, array: Any, device: int = 0) -> None:
        self.array, self.device, self.streams = array, device, list[int | None]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()


@pytest.mark.parametrize("make", [lambda a: a, torch.from_numpy])
def test_a_capsule_is_read_without_being_consumed(make: Any) -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    held = OnGpu(make(array))
    found = read_device_array(held, INFO, 0)
    assert found == DeviceArray(array.ctypes.data, (2, 2, 3), "float32", 1)
    # The producer is told which stream waits for it: 1, the legacy default stream, which the session's waits for.
    assert held.streams == [1]
    assert "dltensor" in repr(found.owner)  # consumed ones are called "used_dltensor", and whoever consumes one must free it


def test_a_view_begins_where_it_begins() -> None:
    array = np.zeros((4, 2, 3), np.float32)
    found = read_device_array(OnGpu(torch.from_numpy(array)[1:3]), INFO, 0)
    assert (found.address, found.shape) == (array.ctypes.data + 24, (2, 2, 3))
    assert found.rows(1, 2).address == array.ctypes.data + 48
    assert found.rows(1, 2).shape == (1, 2, 3)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_types_are_numpys(dtype: str) -> None:
    array = np.zeros((1, 2, 3), dtype)
    info = TensorInfo("image", dtype, ("N", 2, 3))
    assert read_device_array(OnGpu(torch.from_numpy(array)), info, 0).dtype == dtype


@pytest.mark.parametrize(
    ("tensor", "device", "message"),
    [
        (torch.zeros(1, 2, 3, dtype=torch.float16), 0, r"image has dtype float16, expected image float32 \[N, 2, 3\] on GPU 0"),
        (torch.zeros(1, 2, 3, dtype=torch.bfloat16), 0, "has dtype DLPack type 4 of 16 bits"),
        (torch.zeros(1, 3, 3), 0, r"image has shape \[1, 3, 3\]"),
        (torch.zeros(0, 2, 3), 0, r"image has shape \[0, 2, 3\]"),
        (torch.zeros(1, 2, 3), 1, "image stands on GPU 1"),
        (torch.zeros(2, 3, 2).transpose(1, 2), 0, r"image is not contiguous \(strides \[6, 1, 2\] in elements\)"),
    ],
)
def test_what_does_not_fit_is_refused(tensor: torch.Tensor, device: int, message: str) -> None:
    held = OnGpu(_ClaimsDevice(tensor, device) if device else tensor, device)
    with pytest.raises(InputError, match=message):
        read_device_array(held, INFO, 0)


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (7, 300)])
def test_a_photo_of_any_size_fits_an_input_whose_sides_are_dynamic(size: tuple[int, int]) -> None:
    photo = TensorInfo("image", "uint8", (1, "H", "W", 3))
    found = read_device_array(OnGpu(torch.zeros(1, *size, 3, dtype=torch.uint8)), photo, 0)
    assert (found.shape, found.row_bytes) == ((1, *size, 3), size[0] * size[1] * 3)
    for rows, channels in ((2, 3), (1, 4)):
        wrong = OnGpu(torch.zeros(rows, *size, channels, dtype=torch.uint8))
        with pytest.raises(InputError, match=r"expected image uint8 \[1, H, W, 3\] on GPU 0"):
            read_device_array(wrong, photo, 0)


def test_a_producer_that_refuses_is_named() -> None:
    held = OnGpu(torch.zeros(1, 2, 3, requires_grad=True))
    with pytest.raises(InputError, match="image: OnGpu gives no DLPack capsule: Can't export tensors that require gradient"):
        read_device_array(held, INFO, 0)


def test_arrays_of_the_host_are_told_apart() -> None:
    assert not is_on_device(np.zeros(1))
    assert not is_on_device(torch.zeros(1))
    assert not is_on_device([1, 2])
    assert is_on_device(OnGpu(np.zeros(1)))
    assert is_on_device(type("Cupy", (), {"__cuda_array_interface__": {}})())


class _ClaimsDevice:
    """A tensor whose capsule says another GPU."""

    def __init__(self, tensor: torch.Tensor, device: int) -> None:
        self._tensor, self._device = tensor, device

    def __dlpack__(self) -> Any:
        capsule = self._tensor.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        _DLTensor.from_address(pointer(capsule, b"dltensor")).device.id = self._device
        return capsule
