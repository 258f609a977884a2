"""The cores of one server process, shared by what computes on them: decoding, and runs of one thread each.

Decoders and batchers have threads of their own. More of them at work than there are cores push each other off, and each comes
back to caches that hold another's data: with 32 callers of EfficientNet-Lite0 on two cores that cost 2 % of the throughput.
"""

import threading
from types import TracebackType


class Cores:
    """At most so many pieces of work at a time; the others wait. What holds a core must not wait for another.

    Args:
        count: of the cores; 0 bounds nothing, where runs take a GPU or each takes all cores.
    """

    def __init__(self, count: int = 0) -> None:
        self._free = threading.Semaphore(count) if count else None

    def __enter__(self) -> "Cores":
        if self._free is not None:
            self._free.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._free is not None:
            self._free.release()
