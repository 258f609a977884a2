"""Large pages are asked for where memory is large and anonymous, and nowhere else."""

import mmap
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from deploykit.server.large_pages import use_large_pages

MIB = 1 << 20
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def line(start: int, size: int, *, mode: str = "rw-p", device: str = "00:00 0", name: str = "") -> str:
    return f"{start:x}-{start + size:x} {mode} 00000000 {device}                          {name}".rstrip()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these pages")
@pytest.mark.skipif(not SETTING.is_file() or "[never]" in SETTING.read_text(), reason="the system allows no large pages")
def test_memory_of_a_session_s_size_gets_large_pages(tmp_path: Path) -> None:
    memory = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 1
    start = array.ctypes.data
    maps = tmp_path / "maps"
    maps.write_text(line(start, 64 * MIB))
    assert 60 * MIB <= use_large_pages(maps) <= 64 * MIB
    assert array.all()
    if tuple(map(int, re.findall(r"[0-9]+", Path("/proc/sys/kernel/osrelease").read_text())[:2])) >= (6, 1):
        assert _in_large_pages(start) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells its maps so")
def test_files_small_regions_and_what_cannot_be_written_are_left_alone(tmp_path: Path) -> None:
    maps, start = tmp_path / "maps", 1 << 40
    left_alone = [
        line(start, 8 * MIB),  # a thread's stack
        line(start, 64 * MIB, mode="r-xp", device="fe:00 123", name="/usr/lib/libc.so"),
        line(start, 64 * MIB, device="fe:00 123", name="/home/somebody/a file"),
        line(start, 64 * MIB, mode="---p"),
        line(start, 64 * MIB, mode="rw-s", device="00:01 5", name="/memfd:shared"),
        line(start, 64 * MIB, name="[stack]"),
    ]
    maps.write_text("\n".join(left_alone))
    assert use_large_pages(maps) == 0


def test_a_system_that_tells_no_maps_has_none() -> None:
    assert use_large_pages(Path("/nowhere/maps")) == 0


def _in_large_pages(start: int) -> int:
    """Bytes of the region from ``start`` on that lie in large pages."""
    found, is_region = 0, False
    for text in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", text):
            is_region = int(span[1], 16) <= start < int(span[2], 16)
        elif is_region and text.startswith("AnonHugePages:"):
            found += int(text.split()[1]) * 1024
    return found
