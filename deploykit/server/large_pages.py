"""The memory of sessions in pages of 2 MiB: a network walks through tens of megabytes for each picture, and the processor has no
room for as many translations of 4 KiB pages. ONNX Runtime keeps what it has allocated, so once is enough.

Linux alone, where transparent huge pages are at `madvise` or `always` (Documentation/admin-guide/mm/transhuge.rst of the kernel);
elsewhere nothing happens. The process must be the caller's own: all of its anonymous memory is meant.
"""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

_ADVICE = (14, 25)
"""MADV_HUGEPAGE, for what is touched later, and MADV_COLLAPSE (Linux 6.1), for what is there."""

_LARGE = 2 << 20

_LEAST = 16 << 20
"""Smaller regions are not a network's: stacks of threads above all, which would each grow to a whole large page."""

_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.p [0-9a-f]+ 00:00 0 *(\[heap\]|\[anon:.*\])?$")


def use_large_pages(maps: Path = Path("/proc/self/maps")) -> int:
    """Ask for large pages wherever memory is large.

    Args:
        maps: what the process has mapped, as Linux tells it (proc_pid_maps(5)).

    Returns:
        Bytes that were asked for and not refused; 0 where the system has no such pages.
    """
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        regions = list(_large_regions(maps.read_text()))
    except (OSError, AttributeError, TypeError):
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # A region may be gone by now, and a kernel may know no collapsing: advice that is refused changes nothing.
    taken = [size for start, size in regions if not madvise(start, size, _ADVICE[0])]
    for start, size in regions:
        madvise(start, size, _ADVICE[1])
    return sum(taken)


def _large_regions(text: str) -> Iterator[tuple[int, int]]:
    """Start and size of what is anonymous, in whole large pages."""
    for line in text.splitlines():
        if match := _ANONYMOUS.match(line):
            start, end = int(match[1], 16), int(match[2], 16)
            if end - start >= _LEAST:
                first = -(-start // _LARGE) * _LARGE
                yield first, end // _LARGE * _LARGE - first
