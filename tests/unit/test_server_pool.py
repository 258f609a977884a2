"""Threads off the event loop: work that is handed on, what is cancelled on the way, and cores that take turns."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from deploykit.errors import RequestError
from deploykit.server.cores import Cores
from deploykit.server.pool import Pool

WAIT_S = 10


def test_what_a_call_hands_on_is_waited_for_too() -> None:
    pool, rest = Pool(1, 4, "test"), Future[str]()

    async def ask() -> tuple[int, str]:
        waiting = asyncio.ensure_future(pool.run_and_wait(lambda: (7, rest)))
        await pool.run(lambda: None)  # behind the other call in the only thread
        assert not waiting.done()
        rest.set_result("done")
        return await waiting

    assert asyncio.run(ask()) == (7, "done")
    pool.close()


@pytest.mark.parametrize("where", ["in the call", "in what it hands on"])
def test_an_error_on_either_side_is_raised(where: str) -> None:
    pool, rest = Pool(1, 4, "test"), Future[None]()
    rest.set_exception(RequestError(503, "full"))

    def call() -> tuple[None, Future[None]]:
        if where == "in the call":
            raise RequestError(415, "no picture")
        return None, rest

    with pytest.raises(RequestError, match="no picture" if where == "in the call" else "full"):
        asyncio.run(pool.run_and_wait(call))
    pool.close()


def test_what_was_handed_on_is_cancelled_with_its_caller() -> None:
    pool, rest, handed_on = Pool(1, 4, "test"), Future[None](), threading.Event()

    def call() -> tuple[None, Future[None]]:
        handed_on.set()
        return None, rest

    async def ask() -> None:
        waiting = asyncio.ensure_future(pool.run_and_wait(call))
        await asyncio.to_thread(handed_on.wait, WAIT_S)
        await pool.run(lambda: None)
        waiting.cancel()
        await asyncio.wait({waiting})

    asyncio.run(ask())
    assert rest.cancelled()
    pool.close()


def test_what_is_handed_on_after_its_caller_has_gone_is_cancelled_too() -> None:
    pool, rest = Pool(1, 4, "test"), Future[None]()
    has_begun, may_end = threading.Event(), threading.Event()

    def call() -> tuple[None, Future[None]]:
        has_begun.set()
        assert may_end.wait(WAIT_S)
        return None, rest

    async def ask() -> None:
        waiting = asyncio.ensure_future(pool.run_and_wait(call))
        await asyncio.to_thread(has_begun.wait, WAIT_S)
        waiting.cancel()
        await asyncio.wait({waiting})
        may_end.set()
        await pool.run(lambda: None)

    asyncio.run(ask())
    assert rest.cancelled()
    pool.close()


def test_a_call_that_has_not_begun_is_dropped_and_leaves_its_place() -> None:
    pool, may_end, called = Pool(1, 1, "test"), threading.Event(), []

    def never() -> tuple[None, Future[Any]]:
        called.append("called")
        return None, Future()

    async def ask() -> None:
        first = asyncio.ensure_future(pool.run(lambda: may_end.wait(WAIT_S)))
        second = asyncio.ensure_future(pool.run_and_wait(never))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="2 requests wait to be decoded"):
            await pool.run(lambda: None)
        second.cancel()
        await asyncio.wait({second})
        third = asyncio.ensure_future(pool.run(lambda: "third"))
        await asyncio.sleep(0)
        may_end.set()
        assert (await first, await third) == (True, "third")

    asyncio.run(ask())
    assert called == []
    pool.close()


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 2), (0, 4)])
def test_no_more_work_at_a_time_than_there_are_cores_and_0_bounds_nothing(count: int, most: int) -> None:
    cores, lock, together = Cores(count), threading.Lock(), threading.Barrier(most)
    now, seen = [0], [0]

    def work(_: int) -> None:
        with cores:
            with lock:
                now[0] += 1
                seen[0] = max(seen[0], now[0])
            together.wait(WAIT_S)  # so many do work at the same time
            with lock:
                now[0] -= 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert seen == [most]


def test_a_core_is_given_back_after_an_error() -> None:
    cores = Cores(1)
    with pytest.raises(ValueError, match="failed"), cores:
        raise ValueError("failed")
    with cores:
        pass
