"""Energy of bursts, where the hardware counts it: the processor package's counter (RAPL) or the GPUs' (NVML)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploykit.benchmark.nvml import read_gpus
from deploykit.benchmark.timing import Burst, Side

ReadMillijoules = Callable[[], float | None]

_POWERCAP = Path("/sys/class/powercap")


class Metered:
    """A side whose bursts are weighed.

    Args:
        side: what is measured.
        images: of a call.
        read_mj: a counter of energy that only grows; None where the hardware does not tell.
    """

    def __init__(self, side: Side, images: int, read_mj: ReadMillijoules) -> None:
        self._side, self._images, self._read_mj = side, images, read_mj
        self._joules, self._done, self._is_known = 0.0, 0, True

    def __call__(self, calls: int) -> Burst:
        """Make the calls and add up what they drew."""
        before = self._read_mj()
        burst = self._side(calls)
        after = self._read_mj()
        if before is None or after is None or after < before:  # a counter that wrapped says nothing
            self._is_known = False
        else:
            self._joules += (after - before) / 1e3
            self._done += calls * self._images
        return burst

    @property
    def images_per_joule(self) -> float | None:
        """Over all bursts, warm-up included; None where a burst could not be weighed."""
        return round(self._done / self._joules, 3) if self._is_known and self._joules > 0 else None


def processor_meter(powercap: Path = _POWERCAP) -> ReadMillijoules:
    """The counter of all processor packages; it covers the whole processor, whoever uses it."""
    counters = [folder / "energy_uj" for folder in sorted(powercap.glob("intel-rapl:?"))]

    def read() -> float | None:
        try:
            return sum(int(counter.read_text()) for counter in counters) / 1e3 if counters else None
        except OSError:  # readable by root alone since 2020, against attacks that watch the power
            return None

    return read


def gpu_meter(nvml: Any) -> ReadMillijoules:
    """The counter of all GPUs together."""

    def read() -> float | None:
        drawn = [gpu.energy_mj for gpu in read_gpus(nvml)]
        known = [energy for energy in drawn if energy is not None]
        return float(sum(known)) if known and len(known) == len(drawn) else None

    return read
