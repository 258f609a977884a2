"""plugins/ configures and builds; its C++ tests pass; no kernel spills; TensorRT's own registry takes the library."""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from deploykit.graph.resize_normalize import make_resize_graph
from deploykit.spec import ImageSpec
from tests.plugins.building import build_folder, plugin_library, require

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
KERNELS = {
    "grad_cam_means": 2,  # instances: loads of 16 bytes, loads of 4
    "grad_cam_evidence": 2,  # small tiles, large tiles
    "resize_weights": 1,
    "resize_first": 2,  # rows, columns
    "resize_second": 2,
}
# Of a multiprocessor on every GPU from compute capability 8.0 to 12.0 (CUDA C++ Programming Guide, "Compute Capabilities").
REGISTERS = 65536
THREADS = {"grad_cam_means": 256, "grad_cam_evidence": 1024, "resize_weights": 128, "resize_first": 256, "resize_second": 256}


@dataclass(frozen=True)
class Usage:
    """What ptxas -v says of a kernel's instance on one architecture."""

    kernel: str
    architecture: str
    registers: int
    shared_bytes: int
    spilled_bytes: int


def read_usages(log: str) -> list[Usage]:
    """Find every kernel in nvcc's output."""
    pattern = (
        r"Compiling entry function '\w*?\d((?:grad_cam|resize)_[a-z]+)_kernel\w*' for '(sm_\d+)'"
        r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)"
    )
    usages = []
    for kernel, architecture, stack, stores, loads, registers, rest in re.findall(pattern, log, re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        spilled = int(stack) + int(stores) + int(loads)
        usages.append(Usage(kernel, architecture, int(registers), int(shared[1]) if shared else 0, spilled))
    return usages


def by_kernel(usages: list[Usage]) -> Mapping[str, list[Usage]]:
    groups: dict[str, list[Usage]] = defaultdict(list)
    for usage in usages:
        groups[usage.kernel].append(usage)
    return groups


def test_every_kernel_compiles_for_every_gpu_without_spills(capsys: pytest.CaptureFixture[str]) -> None:
    usages = read_usages((build_folder() / "build.log").read_text())
    found = {
        (kernel, name): sum(u.architecture == name for u in group)
        for kernel, group in by_kernel(usages).items()
        for name in ARCHITECTURES
    }
    assert found == {(kernel, name): count for kernel, count in KERNELS.items() for name in ARCHITECTURES}
    with capsys.disabled():
        sys.stdout.write("\n" + "".join(f"  {line}\n" for line in list_usages(usages)))
    assert [u for u in usages if u.spilled_bytes] == []
    assert [u for u in usages if u.registers * THREADS[u.kernel] > REGISTERS] == []


def list_usages(usages: list[Usage]) -> list[str]:
    """A line per kernel: registers on each architecture (of the instance that needs most), and shared memory."""
    lines = []
    for kernel, group in sorted(by_kernel(usages).items()):
        registers = " ".join(f"{name}:{max(u.registers for u in group if u.architecture == name)}" for name in ARCHITECTURES)
        lines.append(f"{kernel:18} registers {registers}  shared {max(u.shared_bytes for u in group)} bytes, no spills")
    return lines


def test_a_spill_is_seen() -> None:
    log = (
        "ptxas info    : Compiling entry function '_ZN9deploykit3_x_119resize_first_kernelILb1EEvPKh' for 'sm_80'\n"
        "ptxas info    : Function properties for _ZN9deploykit\n"
        "    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 32 registers, used 1 barriers, 4096 bytes smem, 384 bytes cmem[0]\n"
    )
    assert read_usages(log) == [Usage("resize_first", "sm_80", 32, 4096, 28)]


def test_the_c_plus_plus_tests_pass() -> None:
    done = subprocess.run(
        ["ctest", "--test-dir", build_folder(), "--output-on-failure"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "geometry" in done.stdout


def test_the_library_is_tested_against_tensorrts_headers() -> None:
    done = subprocess.run(["ctest", "--test-dir", plugin_library().parent, "-N"], capture_output=True, text=True, check=True)
    assert "library" in done.stdout


def test_the_library_shows_its_entry_points_and_needs_no_tensorrt() -> None:
    require("nm", "readelf")
    shown = subprocess.run(["nm", "-D", "--defined-only", plugin_library()], capture_output=True, text=True, check=True).stdout
    assert sorted(line.split()[-1] for line in shown.splitlines()) == ["getCreators", "setLoggerFinder"]
    needed = subprocess.run(["readelf", "-d", plugin_library()], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(nvinfer|cudart)", needed)


# In a process of its own: what TensorRT's registry has taken once stays there, for every later test too.
REGISTER = """
import sys
import numpy as np
import tensorrt_rtx as trt
registry = trt.get_plugin_registry()
assert registry.load_library(sys.argv[1]) is not None
def attribute(name, values, dtype):
    kind = trt.PluginFieldType.INT32 if dtype == np.int32 else trt.PluginFieldType.FLOAT32
    return trt.PluginField(name, np.array(values, dtype), kind)
whole = [attribute(n, v, np.int32) for n, v in
         (("height", [32]), ("width", [32]), ("resize_size", [36]), ("cubic", [1]), ("channels", [0, 1, 2]))]
whole += [attribute(n, [1, 1, 1], np.float32) for n in ("scale", "bias")]
resize = registry.get_creator("ResizeNormalize", "1", "")
print(sorted(field.name for field in resize.field_names))
print(resize.create_plugin("node", trt.PluginFieldCollection(whole), trt.TensorRTPhase.BUILD) is not None)
print(resize.create_plugin("node", trt.PluginFieldCollection(whole[1:]), trt.TensorRTPhase.BUILD) is not None)
cam = registry.get_creator("GradCam", "1", "")
print(cam.create_plugin("node", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD) is not None)
"""


def test_tensorrts_registry_takes_the_library_and_makes_its_plugins() -> None:
    library = plugin_library()
    pytest.importorskip("tensorrt_rtx")
    done = subprocess.run([sys.executable, "-c", REGISTER, library], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    names = "['bias', 'channels', 'cubic', 'height', 'resize_size', 'scale', 'width']"
    assert done.stdout.splitlines() == [names, "True", "False", "True"]
    assert "deploykit.ResizeNormalize: attribute height is missing" in done.stderr


# TensorRT for RTX has no plugin layers: its parser makes the plugin and then ends the process, hence one of its own for this.
PARSE = """
import resource, sys
import tensorrt_rtx as trt
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
log = trt.Logger(trt.Logger.INFO)
assert trt.get_plugin_registry().load_library(sys.argv[1]) is not None
network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
parser.set_flag(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
parser.parse(sys.stdin.buffer.read())
"""


def test_tensorrts_parser_makes_the_plugin_of_a_node_that_deploykit_writes() -> None:
    library = plugin_library()
    pytest.importorskip("tensorrt_rtx")
    graph = make_resize_graph(ImageSpec(32, 24, 36, interpolation="bicubic"))
    command = [sys.executable, "-c", PARSE, str(library)]
    done = subprocess.run(command, input=graph.SerializeToString(), capture_output=True, check=False, timeout=120)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert "Successfully created plugin: ResizeNormalize" in said, said
    del graph.graph.node[0].attribute[:]
    done = subprocess.run(command, input=graph.SerializeToString(), capture_output=True, check=False, timeout=120)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert "created plugin" not in said, said
    assert "deploykit.ResizeNormalize: attribute height is missing" in said
