"""The GPU of this machine, asked of the CUDA driver itself: no package is needed, and nothing is left behind on the device.

Attribute numbers: CUdevice_attribute of the CUDA driver API, https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

import ctypes
import sys
from functools import cache

from deploykit.plan import Gpu

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@cache
def find_gpu(ordinal: int = 0) -> Gpu | None:
    """A GPU as the driver counts them (``CUDA_VISIBLE_DEVICES`` decides which is 0); None without a driver or without that GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, major, minor, version = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", cuda)
