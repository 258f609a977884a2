"""What NVIDIA's management library tells of a GPU: clocks, power, energy, temperature, throttling, who else is on it.

Through the package nvidia-ml-py (module ``pynvml``), which is imported only here and only where a GPU is measured. Everything is
optional: a figure that the driver does not give is None. Constants: https://docs.nvidia.com/deploy/nvml-api/.
"""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

# nvmlClocksEventReasons, by bit.
THROTTLE_REASONS = {
    0x1: "idle",
    0x2: "applications' clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
HARMLESS = ("idle", "applications' clocks")
"""A GPU at rest, and one whose clocks somebody fixed so that figures repeat."""


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment.

    Args:
        name, driver: as the driver says.
        sm_clock_mhz, memory_clock_mhz: now.
        power_w: now. temperature_c: of the die.
        throttled_by: why the clocks are lower than they could be; without ``idle``.
        other_processes: compute processes on the GPU besides this one.
        energy_mj: drawn since the driver was loaded, in millijoules (Volta and later).
    """

    name: str
    driver: str | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    throttled_by: tuple[str, ...] = ()
    other_processes: int | None = None
    energy_mj: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The state as it stands in a report."""
        return asdict(self) | {"throttled_by": list(self.throttled_by)}


@contextlib.contextmanager
def open_nvml() -> Iterator[Any]:
    """The library, started; None where there is no package, no driver, or no GPU."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the package is missing, or its NVMLError, a class that exists only when it is there
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def read_gpus(nvml: Any) -> tuple[GpuState, ...]:
    """The state of every GPU that the driver shows; none if ``nvml`` is None."""
    if nvml is None:
        return ()
    count = nvml.nvmlDeviceGetCount()
    return tuple(_read_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count))


def _read_gpu(nvml: Any, handle: Any) -> GpuState:
    def ask(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception:  # NVMLError: this GPU or driver does not tell
            return None

    reasons = ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
    processes = ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    power = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return GpuState(
        name=_text(ask(lambda: nvml.nvmlDeviceGetName(handle)) or "unknown"),
        driver=_text(ask(nvml.nvmlSystemGetDriverVersion)),
        sm_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        power_w=None if power is None else power / 1000,
        temperature_c=ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        throttled_by=tuple(reason for bit, reason in THROTTLE_REASONS.items() if reasons & bit and reason != "idle"),
        other_processes=None if processes is None else sum(p.pid != os.getpid() for p in processes),
        energy_mj=ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
    )


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
