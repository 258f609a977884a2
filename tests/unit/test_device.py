"""The ways to a GPU, on stand-ins for pycuda, cuda-core and the driver; and that the names they use are those packages' own."""

import ctypes
import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploykit.cli import doctor
from deploykit.errors import MissingExtraError, SessionError
from deploykit.runtime import cuda_driver, device_cuda_core, device_pycuda
from deploykit.runtime.device import Device, open_device
from tests.recording_device import GPU, RecordingDevice
from tests.unit.fake_cuda import FakeDriver, Tally, fake_cuda_core, fake_pycuda

WAYS = {"pycuda": (fake_pycuda, device_pycuda.open_device), "cuda-core": (fake_cuda_core, device_cuda_core.open_device)}

OpenDevice = Callable[[int], Device]


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture(params=list(WAYS))
def open_it(request: pytest.FixtureRequest, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> OpenDevice:
    fake, opener = WAYS[request.param]
    for name, module in fake(tally).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(device_pycuda, "_contexts", {})
    return opener


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(cuda_driver, "load_driver", lambda: fake)
    return fake


def test_bytes_go_to_the_device_within_it_and_back(open_it: OpenDevice, tally: Tally) -> None:
    device = open_it(0)
    with device.activate():
        stream, first, second = device.open_stream(), device.allocate(64), device.allocate(64)
        pinned = device.allocate_pinned(64)
        assert first.address % 256 == second.address % 256 == 0
        pinned.array[:] = np.arange(64)
        stream.copy_in(first.address, pinned.array[:16])
        stream.copy_within(second.address, first.address, 16)
        pinned.array[:] = 0
        stream.copy_out(pinned.array[4:12], second.address + 4)
        stream.synchronize()
        assert stream.is_idle()
        assert pinned.array[:16].tolist() == [0, 0, 0, 0, *range(4, 12), 0, 0, 0, 0]
        start, end = device.make_event(), device.make_event()
        stream.record(start)
        stream.record(end)
        assert end.elapsed_ms(start) == 1
        for owned in (first, second, pinned):
            owned.free()
            owned.free()
        with pytest.raises(SessionError, match="was freed"):
            _ = pinned.array
        for event in (start, end):
            event.close()
        stream.close()
        gc.collect()
    assert {kind: count for kind, count in tally.left.items() if kind not in ("primary context", "ticks")} == {}


def test_the_threads_own_context_is_put_back(open_it: OpenDevice, tally: Tally) -> None:
    device = open_it(0)
    assert tally.stack == []
    tally.stack.append("torch's")
    with device.activate(), device.activate():
        assert tally.stack[-1] != "torch's"
    assert tally.stack == ["torch's"]
    with pytest.raises(LookupError), device.activate():
        raise LookupError
    assert tally.stack == ["torch's"]


def test_what_one_thread_made_another_uses_and_frees(open_it: OpenDevice, tally: Tally) -> None:
    device = open_it(0)
    made: list[Any] = []

    def make() -> None:
        with device.activate():
            made.extend([device.allocate(16), device.allocate_pinned(16), device.open_stream()])

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with device.activate():
        made[2].copy_in(made[0].address, made[1].array)
        made[0].free()
        made[1].free()
        made.pop().close()
        gc.collect()
    assert tally.alive["device memory"] == tally.alive["pinned memory"] == tally.alive["stream"] == 0
    assert all(not stack for stack in tally.stacks.values())  # pycuda aborts the process where a thread ends with one


def test_memory_that_runs_out_is_a_clear_error(open_it: OpenDevice, tally: Tally) -> None:
    device = open_it(0)
    tally.fail.add("mem_alloc")
    with pytest.raises(SessionError, match=r"(?i)out.of.memory") as caught, device.activate():
        device.allocate(16)
    assert device.name in str(caught.value)
    assert "lower the batch" in str(caught.value.hint)
    assert tally.stack == []


def test_a_gpu_that_is_not_there_is_an_error(open_it: OpenDevice) -> None:
    with pytest.raises(SessionError, match="ordinal"):
        open_it(3)


def test_a_device_does_not_survive_a_fork(open_it: OpenDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    device, parent = open_it(0), os.getpid()
    monkeypatch.setattr("os.getpid", lambda: parent + 1)
    with pytest.raises(SessionError, match=f"opened in process {parent} and is used in its child {parent + 1}"), device.activate():
        pass


def test_pycudas_primary_context_is_retained_once(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_pycuda(tally).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(device_pycuda, "_contexts", {})
    for _ in range(3):
        device_pycuda.open_device(0)
    assert tally.alive["primary context"] == 1


@pytest.mark.parametrize(
    ("installed", "opened"), [({"pycuda", "cuda.core"}, "device_pycuda"), ({"cuda.core"}, "device_cuda_core"), (set(), None)]
)
def test_pycuda_comes_first_then_cuda_core(installed: set[str], opened: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("deploykit.runtime.device._is_installed", lambda package: package in installed)
    for module in (device_pycuda, device_cuda_core):
        monkeypatch.setattr(module, "open_device", lambda ordinal, name=module.__name__: asked.append(f"{name} {ordinal}"))
    if opened:
        open_device(2)
        assert asked == [f"deploykit.runtime.{opened} 2"]
    else:
        with pytest.raises(MissingExtraError, match="needs pycuda or cuda-core, and neither is installed") as caught:
            open_device()
        assert "pip install cuda-core" in str(caught.value.hint)


def test_a_package_that_does_not_import_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(SessionError, match="pycuda does not import"):
        device_pycuda.open_device(0)
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(SessionError, match="cuda-core does not import"):
        device_cuda_core.open_device(0)


def test_importing_the_runtime_imports_no_package_that_touches_a_gpu() -> None:
    names = ("pycuda", "cuda", "tensorrt", "tensorrt_rtx", "torch")
    code = f"import sys, deploykit.runtime; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_that_is_used_of_cuda_core_exists() -> None:
    core, driver = importlib.import_module("cuda.core"), importlib.import_module("cuda.bindings.driver")
    assert core.EventOptions(timing_enabled=True).timing_enabled
    for owner, names in {
        core.Device: ("set_current", "create_stream", "create_event"),
        core.Stream: ("handle", "record", "sync", "close"),
        core.Event: ("__sub__", "close"),
        driver.CUresult: ("CUDA_SUCCESS", "CUDA_ERROR_NOT_READY"),
    }.items():
        assert [name for name in names if not hasattr(owner, name)] == []
    fakes = set(fake_cuda_core(Tally())["cuda.bindings.driver"].__dict__)
    assert [name for name in fakes if name.startswith("cu") and not hasattr(driver, name)] == []


def test_every_function_that_is_called_by_ctypes_is_one_that_nvidias_own_bindings_look_up() -> None:
    driver = importlib.import_module("cuda.bindings.driver")
    table = Path(importlib.import_module("cuda.bindings._internal.driver").__file__ or "").read_bytes()
    assert [name for name in cuda_driver._SIGNATURES if name.encode() + b"\0" not in table] == []
    assert int(driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) == cuda_driver._CAPTURE_MODE_THREAD_LOCAL
    assert int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING) == cuda_driver._EVENT_DISABLE_TIMING
    assert int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING) == device_pycuda._NON_BLOCKING


def test_a_captured_graph_is_instantiated_launched_and_freed(driver: FakeDriver) -> None:
    graph = cuda_driver.capture(5, lambda: driver.calls.append("work"))
    graph.launch()
    graph.close()
    graph.close()
    assert driver.calls == [
        "cuStreamBeginCapture_v2",
        "work",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
    ]
    assert driver.graphs == driver.executables == 0


def test_work_that_fails_ends_the_capture_and_leaves_nothing(driver: FakeDriver) -> None:
    def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        cuda_driver.capture(5, work)
    assert driver.calls == ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphDestroy"]
    assert driver.graphs == 0


@pytest.mark.parametrize("name", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_capture_that_cuda_refuses_is_an_error_with_its_name(driver: FakeDriver, name: str) -> None:
    driver.fail[name] = 901
    with pytest.raises(SessionError, match=f"{name} failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        cuda_driver.capture(5, lambda: None)
    assert driver.graphs == driver.executables == 0


def test_a_stream_waits_for_another_without_the_caller(driver: FakeDriver) -> None:
    cuda_driver.order_behind(5, 1)
    assert driver.calls == ["cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventDestroy_v2"]
    assert driver.events == 0


def test_the_driver_is_called_with_whole_pointers() -> None:
    """An argument without a type is cut to 32 bits by ctypes."""
    for arguments in cuda_driver._SIGNATURES.values():
        assert ctypes.c_void_p in arguments or any("LP_" in kind.__name__ for kind in arguments)


def test_a_machine_without_a_driver_says_so() -> None:
    cuda_driver.load_driver.cache_clear()
    try:
        cuda_driver.load_driver()
    except SessionError as error:
        assert "the CUDA driver does not load" in str(error)  # noqa: PT017 a machine with a driver has no error to look at


@pytest.mark.skipif(
    shutil.which("gcc") is None or sys.platform != "linux", reason="the stand-in driver is compiled by gcc, on Linux"
)
def test_the_real_cuda_core_runs_a_session_on_a_stand_in_for_the_driver(tmp_path: Path) -> None:
    """pycuda 2026.1 passes too, compiled by hand against the stand-in; it wants 116 more of the driver's functions to import."""
    pytest.importorskip("cuda.core")
    here = Path(__file__).parent
    library = ["-o", str(tmp_path / "libcuda.so.1"), str(here / "stand_in_driver.c"), "-ldl"]
    subprocess.run(["gcc", "-shared", "-fPIC", *library], check=True)
    done = subprocess.run(
        [sys.executable, here / "session_on_stand_in_driver.py", "deploykit.runtime.device_cuda_core"],
        capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(here.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found.pop("device").startswith("cuda-core ")
    assert "CUDA does not survive fork" in found.pop("child")
    assert "memory" in found.pop("too_much").lower()
    assert found.pop("no_gpu") != "no error"
    spans = {"h2d": 1.5, "gpu": 1.5, "d2h": 1.5}
    assert found == {
        "wrong": 0, "spans": spans, "idle": True, "sums": [100, 100, 100], "alive": True, "left": 0, "captures": 1,
        "left_after_capture": 0, "context": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fail", "works", "found"),
    [
        (None, True, "NVIDIA A10 (sm86, driver for CUDA 13.0) through recording 1.0: tensorrt-rtx"),
        ("copy_in", False, "recording 1.0: copy_in failed: CUDA_ERROR_OUT_OF_MEMORY"),
        ("allocate", False, "recording 1.0: allocate failed"),
    ],
)
def test_doctor_sends_bytes_to_the_gpu_and_back(fail: str | None, works: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = RecordingDevice()
    monkeypatch.setattr(doctor, "find_gpu", lambda: GPU)
    monkeypatch.setattr("deploykit.runtime.device.open_device", lambda: gpu)
    if fail:
        gpu.fail[fail] = 1
    finding = doctor.find_plan_runner()
    assert finding.works is works
    assert finding.found.startswith(found)
    assert gpu.left == {} or fail == "allocate"


def test_doctor_says_when_nothing_reaches_the_gpu_and_when_tensorrt_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpu", lambda: GPU)
    monkeypatch.setattr("deploykit.runtime.device._is_installed", lambda package: False)
    assert "needs pycuda or cuda-core, and neither is installed: pip install cuda-core" in doctor.find_plan_runner().found
    monkeypatch.setattr("deploykit.runtime.device.open_device", RecordingDevice)
    monkeypatch.setattr(doctor, "BACKENDS", ())
    finding = doctor.find_plan_runner()
    assert (finding.works, finding.found.endswith("but no TensorRT is installed")) == (False, True)
