"""What NVIDIA's library tells, from a stand-in for it: full answers, partial ones, none."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from deploykit.benchmark.energy import gpu_meter
from deploykit.benchmark.machine import describe_machine, processor_state
from deploykit.benchmark.nvml import GpuState, open_nvml, read_gpus


class Nvml:
    """pynvml as far as it is used. Calls named in `missing` fail, as on a GPU or driver that does not tell."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *missing: str) -> None:
        self._missing = missing

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "_missing"):
            raise RuntimeError("Not Supported")
        return object.__getattribute__(self, name)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, _handle: int) -> bytes:  # noqa: N802
        return b"NVIDIA L4"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65"

    def nvmlDeviceGetClockInfo(self, _handle: int, kind: int) -> int:  # noqa: N802
        return {1: 2040, 2: 6251}[kind]

    def nvmlDeviceGetPowerUsage(self, _handle: int) -> int:  # noqa: N802
        return 71_500

    def nvmlDeviceGetTemperature(self, _handle: int, _kind: int) -> int:  # noqa: N802
        return 64

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: int) -> int:  # noqa: N802
        return 0x1 | 0x4 | 0x40

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=1)]

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: int) -> int:  # noqa: N802
        return 123_000


def test_everything_that_the_driver_tells_is_read() -> None:
    assert read_gpus(Nvml()) == (
        GpuState("NVIDIA L4", "580.65", 2040, 6251, 71.5, 64, ("power cap", "hardware thermal slowdown"), 1, 123_000),
    )


def test_a_figure_that_the_driver_refuses_is_none_and_the_others_stand() -> None:
    state = read_gpus(
        Nvml("nvmlDeviceGetPowerUsage", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetTotalEnergyConsumption")
    )
    assert (state[0].power_w, state[0].other_processes, state[0].energy_mj) == (None, None, None)
    assert state[0].sm_clock_mhz == 2040
    assert gpu_meter(Nvml("nvmlDeviceGetTotalEnergyConsumption"))() is None
    assert gpu_meter(Nvml())() == 123_000


def test_without_the_package_there_is_no_gpu_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with open_nvml() as nvml:
        assert read_gpus(nvml) == ()
        assert gpu_meter(nvml)() is None


def test_the_library_is_shut_down_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = SimpleNamespace(nvmlInit=lambda: calls.append("init"), nvmlShutdown=lambda: calls.append("shutdown"))
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    with pytest.raises(OSError, match="x"), open_nvml():
        raise OSError("x")
    assert calls == ["init", "shutdown"]


def test_the_machine_is_described_and_a_processor_that_tells_nothing_gives_none(tmp_path: Any) -> None:
    machine = describe_machine("numpy", "no-such-package")
    assert machine["packages"]["no-such-package"] is None
    assert machine["cores"] == os.cpu_count()
    assert processor_state(tmp_path) == {"governor": None, "clocks_mhz": None, "temperature_c": None}
    folder = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("2450000\n")
    (folder / "scaling_governor").write_text("performance\n")
    assert processor_state(tmp_path) == {"governor": "performance", "clocks_mhz": [2450], "temperature_c": None}
