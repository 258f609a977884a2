"""The cores of one server process, shared by what computes on them: decoding, and runs of one thread each.

Every graph's batcher has threads of its own. More of them at work than there are cores push each other off, and each comes back to
caches that hold another's data.
"""

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType


class Cores:
    """At most so many pieces of work at a time; the others wait. What holds a core must not wait for another. `close` it.

    Args:
        count: pieces at a time; 0 bounds nothing, where runs take a GPU or each takes all cores.
        decoders: threads that decode while others run; 0 where those that run decode as well.

    Attributes:
        decoders: takes what is to be decoded; None where there are none.
    """

    def __init__(self, count: int = 0, decoders: int = 0) -> None:
        self.decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode") if decoders else None
        # A queue of tokens is a semaphore in C; threading's own takes and gives a second lock on the way.
        self._free: SimpleQueue[None] | None = SimpleQueue() if count else None
        for _ in range(count):
            self._put_back()

    def close(self) -> None:
        """Let the decoders end. Call it when nothing is left to decode."""
        if self.decoders is not None:
            self.decoders.shutdown(wait=False)

    def __enter__(self) -> "Cores":
        if self._free is not None:
            self._free.get()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._put_back()

    def _put_back(self) -> None:
        if self._free is not None:
            self._free.put(None)
