"""The cores of one server process, shared by what computes on them: decoding, and runs of one thread each.

Decoders and batchers have threads of their own. More of them at work than there are cores push each other off, and each comes
back to caches that hold another's data.
"""

from queue import SimpleQueue
from types import TracebackType


class Cores:
    """At most so many pieces of work at a time; the others wait. What holds a core must not wait for another.

    Args:
        count: of the cores; 0 bounds nothing, where runs take a GPU or each takes all cores.
    """

    def __init__(self, count: int = 0) -> None:
        # A queue of tokens is a semaphore in C; threading's own takes and gives a second lock on the way.
        self._free: SimpleQueue[None] | None = SimpleQueue() if count else None
        for _ in range(count):
            self._put_back()

    def __enter__(self) -> "Cores":
        if self._free is not None:
            self._free.get()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._put_back()

    def _put_back(self) -> None:
        if self._free is not None:
            self._free.put(None)
