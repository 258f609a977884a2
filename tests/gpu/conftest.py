"""Tests that need an NVIDIA GPU: each carries the marker ``gpu``, and is skipped only where the CUDA driver itself finds none."""

from pathlib import Path

import pytest

from deploykit.errors import DeploykitError
from deploykit.trt import BACKENDS, find_gpu, load_flavour

HERE = Path(__file__).parent


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
