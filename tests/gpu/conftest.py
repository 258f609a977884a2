"""Tests that need an NVIDIA GPU: each carries the marker ``gpu``, and is skipped only where the CUDA driver itself finds none."""

import ctypes
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploykit.bundle import Bundle
from deploykit.errors import DeploykitError
from deploykit.runtime import OrtSession, TrtSession
from deploykit.runtime.cuda_driver import load_driver
from deploykit.runtime.device import Device
from deploykit.trt import BACKENDS, find_gpu, load_flavour

HERE = Path(__file__).parent
MODULES = {"pycuda": "deploykit.runtime.device_pycuda", "cuda-core": "deploykit.runtime.device_cuda_core"}

OpenDevice = Callable[[int], Device]
Open = Callable[..., TrtSession]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in this folder; the hook is given everything that was collected."""
    without = pytest.mark.skip(reason="needs an NVIDIA GPU: the CUDA driver finds none here")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            if find_gpu() is None:
                item.add_marker(without)


def installed_backends() -> list[str]:
    """The TensorRT products that import here; none is tried where there is no GPU for it."""
    found = []
    for backend in BACKENDS if find_gpu() is not None else ():
        try:
            load_flavour(backend)
        except DeploykitError:
            continue
        found.append(backend)
    return found


@pytest.fixture(scope="module", params=installed_backends() or ["none"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the TensorRT products that are installed here."""
    if request.param == "none":
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    return str(request.param)


@pytest.fixture(params=["pycuda", "cuda-core"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OpenDevice:
    """The package between the session and CUDA."""
    pytest.importorskip({"pycuda": "pycuda", "cuda-core": "cuda.core"}[request.param])
    opener: OpenDevice = importlib.import_module(MODULES[request.param]).open_device
    monkeypatch.setattr("deploykit.runtime.trt.open_device", opener)
    return opener


@pytest.fixture
def graph(bundle: Bundle) -> Iterator[OrtSession]:
    """A module's ``bundle`` on ONNX Runtime: what its plans are compared with."""
    with OrtSession(bundle.file("fp32/explain.onnx")) as opened:
        yield opened


def used_bytes(device: Device) -> int:
    """Of the GPU's memory, by everything on it."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with device.activate():
        assert load_driver().cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return total.value - free.value
