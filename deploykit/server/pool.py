"""Threads for decoding and drawing, off the event loop, with a bound on what waits for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deploykit.errors import RequestError

T = TypeVar("T")


class Pool:
    """A few threads and a bounded queue before them. Used from one event loop; `close` it.

    Args:
        threads: that work at the same time.
        most_waiting: calls that may wait for a thread; one more is refused.
    """

    def __init__(self, threads: int, most_waiting: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = threads + most_waiting
        self._count = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread. Cancelled, the call is dropped unless it has begun.

        Raises:
            RequestError: too many calls are waiting.
        """
        if self._count >= self._most:
            raise RequestError(
                503,
                f"{self._count} requests wait to be decoded",
                "ask again later",
                kind="queue_full",
                headers={"retry-after": "1"},
            )
        future = self._executor.submit(function)
        self._count += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done) if not loop.is_closed() else None)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _done(self) -> None:
        self._count -= 1
