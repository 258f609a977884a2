"""Threads for decoding and drawing, off the event loop, with a bound on what waits for them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any, TypeVar

from deploykit.errors import RequestError
from deploykit.server.cores import Cores

T = TypeVar("T")
U = TypeVar("U")


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
        return await asyncio.wrap_future(self._submit(function))

    async def run_and_wait(self, function: Callable[[], tuple[T, "Future[U]"]]) -> tuple[T, U]:
        """Call a function that has others go on with its work, and wait for them too. The event loop is woken once, at the end.

        Cancelled, what has not begun is dropped.

        Raises:
            RequestError: as `run`.
        """
        return await asyncio.wrap_future(_both(self._submit(function)))

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, function: Callable[[], T]) -> "Future[T]":
        with self._lock:
            if self._count >= self._most:
                raise RequestError(
                    503,
                    f"{self._count} requests wait to be decoded",
                    "ask again later",
                    kind="queue_full",
                    headers={"retry-after": "1"},
                )
            self._count += 1
        future = self._executor.submit(self._call, function)
        future.add_done_callback(self._done)
        return future

    def _call(self, function: Callable[[], T]) -> T:
        with self._cores:
            return function()

    def _done(self, _: "Future[Any]") -> None:
        with self._lock:
            self._count -= 1


def _both(first: "Future[tuple[T, Future[U]]]") -> "Future[tuple[T, U]]":
    """One future for a call and for the work that it has handed on."""
    whole: Future[tuple[T, U]] = Future()
    handed_on: list[Future[U]] = []

    def after_first(_: "Future[tuple[T, Future[U]]]") -> None:
        if first.cancelled():
            whole.cancel()
        elif error := first.exception():
            _settle(whole, error)
        else:
            made, rest = first.result()
            handed_on.append(rest)
            rest.add_done_callback(lambda _: after_rest(made, rest))
            drop_if_cancelled(whole)

    def after_rest(made: T, rest: "Future[U]") -> None:
        if rest.cancelled():
            whole.cancel()
        elif error := rest.exception():
            _settle(whole, error)
        else:
            _settle(whole, (made, rest.result()))

    def drop_if_cancelled(_: "Future[tuple[T, U]]") -> None:
        # Called when `whole` ends and when there is something to drop: one of the two comes second.
        if whole.cancelled():
            first.cancel()
            for rest in handed_on:
                rest.cancel()

    whole.add_done_callback(drop_if_cancelled)
    first.add_done_callback(after_first)
    return whole


def _settle(whole: "Future[T]", outcome: T | BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # it was cancelled at this moment
        if isinstance(outcome, BaseException):
            whole.set_exception(outcome)
        else:
            whole.set_result(outcome)
