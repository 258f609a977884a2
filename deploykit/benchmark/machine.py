"""What stands beside every figure: the machine, its clocks and temperature, its GPUs, the versions that took part."""

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deploykit import __version__

# What decides how fast the arithmetic of a classifier can be on x86-64 and on ARM.
FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
)
_SYS = Path("/sys")


def describe_machine(*packages: str) -> dict[str, Any]:
    """The machine, the date, and the versions of deploykit and of the packages that took part."""
    cpu = _fields(Path("/proc/cpuinfo"))
    memory = _fields(Path("/proc/meminfo")).get("MemTotal", "")
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "cpu": cpu.get("model name") or platform.processor(),
        "cpu_features": [name for name in FEATURES if name in flags],
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "memory_bytes": int(memory.removesuffix(" kB")) * 1024 if memory else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "deploykit": __version__,
        "packages": {name: package_version(name) for name in packages},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def processor_state(sys_folder: Path = _SYS) -> dict[str, Any]:
    """What the processor does right now, as far as the system tells: governor, megahertz of each core, degrees Celsius."""
    cpus = sorted(sys_folder.glob("devices/system/cpu/cpu[0-9]*/cpufreq"))
    clocks = [int(text) // 1000 for folder in cpus if (text := _read(folder / "scaling_cur_freq"))]
    governors = sorted({text for folder in cpus if (text := _read(folder / "scaling_governor"))})
    degrees = [int(text) / 1000 for path in sys_folder.glob("class/thermal/thermal_zone*/temp") if (text := _read(path))]
    return {
        "governor": ", ".join(governors) or None,
        "clocks_mhz": clocks or None,
        "temperature_c": max(degrees) if degrees else None,
    }


def package_version(package: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def one_line(machine: Mapping[str, Any]) -> str:
    """The machine in words, for the head of a table."""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"


def _fields(path: Path) -> dict[str, str]:
    """The ``name : value`` lines of a file of the kernel's, the first of each name; none where there is no such file."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, value in reversed(pairs)}


def _read(path: Path) -> str:
    """A file of the kernel's, which may be there and refuse to be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
