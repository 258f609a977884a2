"""The kernels' own code, run thread by thread on the CPU (plugins/tests/on_cpu): the host library's bits, no byte beside arrays.

The host library shares the kernels' arithmetic; what is shown here is the rest: which thread computes what, where tables and
pictures lie, barriers and shuffles. Arrays that are read end at a page that must not be touched; arrays that are written stand
between marks.
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.plugins.building import on_cpu_library
from tests.plugins.calls import Attributes, host_grad_cam, host_resize_normalize, host_resize_workspace, launch_library

MARK = 0xAB
MARGIN = 256  # keeps the alignment that a GPU's allocations have


@contextmanager
def before_a_forbidden_page(array: NDArray[Any]) -> Iterator[int]:
    """The address of a copy that ends where memory may not be read: a read behind it ends the process."""
    page = mmap.PAGESIZE
    pages = -(-array.nbytes // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbidden = ctypes.c_void_p(start + pages * page)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(forbidden, ctypes.c_size_t(page), 0) == 0
    address = start + pages * page - array.nbytes
    ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
    yield address
    assert libc.mprotect(forbidden, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE) == 0


@contextmanager
def between_marks(size: int) -> Iterator[NDArray[np.uint8]]:
    """Bytes to write; afterwards nothing beside them may have changed."""
    memory = np.full(size + 2 * MARGIN + 16, MARK, np.uint8)
    start = MARGIN + -memory.ctypes.data % 16
    yield memory[start : start + size]
    assert (memory[:start] == MARK).all(), "a kernel wrote in front of its array"
    assert (memory[start + size :] == MARK).all(), "a kernel wrote behind its array"


def on_cpu_resize_normalize(photo: NDArray[np.uint8], attributes: Attributes) -> NDArray[np.float32]:
    height, width, _ = photo.shape
    spec = attributes.as_structure()
    with (
        before_a_forbidden_page(photo) as pixels,
        between_marks(host_resize_workspace(height, width, attributes)) as workspace,
        between_marks(12 * attributes.height * attributes.width) as result,
    ):
        launch = launch_library(on_cpu_library()).deploykit_launch_resize_normalize
        status = launch(pixels, height, width, ctypes.addressof(spec), workspace.ctypes.data, result.ctypes.data, None)
        assert status == 0
    return result.view(np.float32).reshape(3, attributes.height, attributes.width)


def on_cpu_grad_cam(activations: NDArray[np.float32], gradients: NDArray[np.float32]) -> NDArray[np.float32]:
    count, channels, height, width = activations.shape
    with (
        before_a_forbidden_page(activations) as first,
        before_a_forbidden_page(gradients) as second,
        between_marks(4 * count * channels) as workspace,
        between_marks(4 * count * height * width) as cam,
    ):
        launch = launch_library(on_cpu_library()).deploykit_launch_grad_cam
        status = launch(first, second, count, channels, height * width, workspace.ctypes.data, cam.ctypes.data, None)
        assert status == 0
    return cam.view(np.float32).reshape(count, height, width)


@pytest.mark.parametrize("cubic", [0, 1], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "attributes"),
    [
        (1, 1, Attributes(1, 1)),
        (1, 1, Attributes(9, 7, 11)),
        (37, 41, Attributes(20, 24)),
        (11, 1201, Attributes(33, 31, 35)),
        (1201, 11, Attributes(33, 31, 35)),
        (400, 61, Attributes(30, 33)),  # the rows first; 13 taps and one warp's worth of weights
        (500, 120, Attributes(20, 18, 30)),  # the rows first, of the columns in the middle
        (61, 2000, Attributes(8, 9)),  # more taps than a warp has lanes
        (120, 160, Attributes(64, 56, 72)),
    ],
)
def test_resize_kernels_give_the_host_librarys_bits(height: int, width: int, attributes: Attributes, cubic: int) -> None:
    photo = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    attributes = Attributes(
        attributes.height, attributes.width, attributes.resize_size, cubic, (2, 0, 1), (0.5, 0.25, 0.125), (-1.0, 0.0, 1.0)
    )
    np.testing.assert_array_equal(on_cpu_resize_normalize(photo, attributes), host_resize_normalize(photo, attributes))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (3, 9, 7, 7),
        (2, 130, 3, 3),  # one tile and a pixel; more channels than groups
        (1, 300, 2, 4),  # loads of 16 bytes
        (1, 5, 32, 32),  # the largest map with small tiles
        (2, 33, 25, 41),  # the smallest with large ones, 1,025 pixels: 32 tiles and a pixel
        (1, 3, 34, 34),  # large tiles, loads of 16 bytes
    ],
)
def test_cam_kernels_give_the_host_librarys_bits(shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    activations, gradients = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(on_cpu_grad_cam(activations, gradients), host_grad_cam(activations, gradients))


def test_gradients_that_lie_askew_are_averaged_alike() -> None:
    # Four bytes past a border of 16 the loads are of 4 bytes each; the sums keep their order.
    shape = (1, 6, 8, 8)
    rng = np.random.default_rng(5)
    activations = rng.normal(size=shape).astype(np.float32)
    memory = np.empty(6 * 64 + 8, np.float32)
    start = (-memory.ctypes.data % 16) // 4 + 1
    gradients = memory[start : start + 6 * 64].reshape(shape)
    gradients[:] = rng.normal(size=shape)
    assert gradients.ctypes.data % 16 == 4
    workspace, cam = np.empty(6, np.float32), np.empty((1, 8, 8), np.float32)
    launch = launch_library(on_cpu_library()).deploykit_launch_grad_cam
    addresses = (activations.ctypes.data, gradients.ctypes.data, 1, 6, 64, workspace.ctypes.data, cam.ctypes.data, None)
    assert launch(*addresses) == 0
    np.testing.assert_array_equal(cam, host_grad_cam(activations, gradients))
