"""The host library as Python functions: the kernels' arithmetic on numpy arrays."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deploykit.spec import ImageSpec
from tests.plugins.building import host_library

POINTER = ctypes.c_void_p
INT = ctypes.c_int32


class ResizeSpec(ctypes.Structure):
    """deploykit::ResizeSpec of resize_geometry.h, field by field."""

    _fields_ = (
        ("height", INT),
        ("width", INT),
        ("resize_size", INT),
        ("cubic", INT),
        ("channels", INT * 3),
        ("scale", ctypes.c_float * 3),
        ("bias", ctypes.c_float * 3),
    )


@dataclass(frozen=True)
class Attributes:
    """The attributes of deploykit.ResizeNormalize; as they stand here, the result is the resized grey levels themselves."""

    height: int
    width: int
    resize_size: int = 0
    cubic: int = 0
    channels: Sequence[int] = (0, 1, 2)
    scale: Sequence[float] = (1.0, 1.0, 1.0)
    bias: Sequence[float] = (0.0, 0.0, 0.0)

    @classmethod
    def of_node(cls, node: onnx.NodeProto) -> "Attributes":
        """Those of a call in a graph, as TensorRT's parser hands them to the plugin: by name."""
        return cls(**{a.name: helper.get_attribute_value(a) for a in node.attribute})

    @property
    def image_spec(self) -> ImageSpec:
        """The same resize and crop as deploykit.image knows it; normalization aside."""
        rule, filters = "shorter" if self.resize_size else "exact", ("bilinear", "bicubic")
        return ImageSpec(self.height, self.width, self.resize_size or None, rule, filters[self.cubic])

    def as_structure(self) -> ResizeSpec:
        numbers = (self.height, self.width, self.resize_size, self.cubic, (INT * 3)(*self.channels))
        return ResizeSpec(*numbers, (ctypes.c_float * 3)(*self.scale), (ctypes.c_float * 3)(*self.bias))


def host_resize_normalize(photo: NDArray[np.uint8], attributes: Attributes) -> NDArray[np.float32]:
    """uint8 [H, W, 3] in, float32 [3, height, width] out.

    Raises:
        ValueError: what the arithmetic refuses.
    """
    function = ctypes.CDLL(str(host_library())).deploykit_host_resize_normalize
    function.restype, function.argtypes = ctypes.c_char_p, [POINTER, INT, INT, POINTER, POINTER]
    photo = np.ascontiguousarray(photo)
    result = np.full((3, max(attributes.height, 0), max(attributes.width, 0)), np.nan, np.float32)
    spec = attributes.as_structure()
    error = function(photo.ctypes.data, photo.shape[0], photo.shape[1], ctypes.addressof(spec), result.ctypes.data)
    if error is not None:
        raise ValueError(error.decode())
    return result


def host_resize_workspace(height: int, width: int, attributes: Attributes) -> int:
    """Bytes of workspace that a photo of this size needs."""
    function = ctypes.CDLL(str(host_library())).deploykit_host_resize_workspace
    function.restype, function.argtypes = ctypes.c_uint64, [INT, INT, POINTER]
    spec = attributes.as_structure()
    return int(function(height, width, ctypes.addressof(spec)))


def host_grad_cam(activations: NDArray[np.float32], gradients: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [N, C, h, w] twice in, float32 [N, h, w] out."""
    function = ctypes.CDLL(str(host_library())).deploykit_host_grad_cam
    function.restype, function.argtypes = None, [POINTER, POINTER, INT, INT, INT, POINTER]
    count, channels, height, width = activations.shape
    activations, gradients = np.ascontiguousarray(activations), np.ascontiguousarray(gradients)
    cam = np.full((count, height, width), np.nan, np.float32)
    function(activations.ctypes.data, gradients.ctypes.data, count, channels, height * width, cam.ctypes.data)
    return cam


def launch_library(path: Path) -> ctypes.CDLL:
    """The launches of plugins/tests/launch.cpp: of the kernels on a GPU, or of the same kernels on the CPU."""
    library = ctypes.CDLL(str(path))
    library.deploykit_launch_grad_cam.argtypes = [POINTER, POINTER, INT, INT, INT, POINTER, POINTER, POINTER]
    library.deploykit_launch_resize_normalize.argtypes = [POINTER, INT, INT, POINTER, POINTER, POINTER, POINTER]
    return library


def grad_cam_error_units(channels: int, area: int) -> int:
    """Roundings, at most, that one addend goes through (error_units of grad_cam_math.h)."""
    return int(ctypes.CDLL(str(host_library())).deploykit_host_grad_cam_error_units(channels, area))


def grad_cam_bound(activations: NDArray[np.float32], gradients: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far a pixel of the cam may lie from the exact value: error_units * 2^-24 * sum over C of mean|gradients| * |activations|.

    The factor 1.01 stands for the products of roundings, which first-order counting leaves out.
    """
    _, channels, height, width = activations.shape
    means = np.abs(gradients.astype(np.float64)).mean(axis=(2, 3), keepdims=True)
    mass = (means * np.abs(activations.astype(np.float64))).sum(axis=1)
    return np.asarray(1.01 * grad_cam_error_units(channels, height * width) * 2.0**-24 * mass)


def exact_cam(activations: NDArray[np.float32], gradients: NDArray[np.float32]) -> NDArray[np.float64]:
    """Grad-CAM in float64."""
    weights = gradients.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    return np.asarray(np.maximum((weights * activations.astype(np.float64)).sum(axis=1), 0))
