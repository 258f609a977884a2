"""Threads for large requests and for drawing, off the event loop, with a bound on what waits for them."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from deploykit.errors import RequestError
from deploykit.server.cores import Cores

T = TypeVar("T")


class Pool:
    """A few threads and a bounded queue before them. `close` it.

    Args:
        threads: that work at the same time.
        most_waiting: calls that may wait for a thread; one more is refused.
        cores: of which each call takes one.
    """

    def __init__(self, threads: int, most_waiting: int, name: str, cores: Cores | None = None) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._cores = threads + most_waiting, cores or Cores()
        self._lock, self._count = threading.Lock(), 0

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread. Cancelled, the call is dropped unless it has begun.

        Raises:
            RequestError: too many calls are waiting.
        """
        with self._lock:
            if self._count >= self._most:
                raise RequestError(
                    503,
                    f"{self._count} requests wait for a thread",
                    "ask again later",
                    kind="queue_full",
                    headers={"retry-after": "1"},
                )
            self._count += 1
        future = self._executor.submit(self._call, function)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[[], T]) -> T:
        with self._cores:
            return function()

    def _done(self, _: "Future[Any]") -> None:
        with self._lock:
            self._count -= 1
