"""Threads off the event loop: what is refused, dropped and waits for a core; and cores that take turns."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploykit.errors import RequestError
from deploykit.server.cores import Cores
from deploykit.server.pool import Pool

WAIT_S = 10


def test_a_call_that_has_not_begun_is_dropped_and_leaves_its_place() -> None:
    pool, may_end, called = Pool(1, 1, "test"), threading.Event(), []

    async def ask() -> None:
        first = asyncio.ensure_future(pool.run(lambda: may_end.wait(WAIT_S)))
        second = asyncio.ensure_future(pool.run(lambda: called.append("called")))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="2 requests wait for a thread"):
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


def test_calls_take_a_core_each() -> None:
    cores, may_go, taken = Cores(1), threading.Event(), threading.Event()
    pool = Pool(2, 4, "test", cores)

    async def ask() -> None:
        waiting = asyncio.ensure_future(pool.run(lambda: "went"))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done  # the only core is taken
        may_go.set()
        assert await waiting == "went"

    def hold() -> None:
        with cores:
            taken.set()
            assert may_go.wait(WAIT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(WAIT_S)
    asyncio.run(ask())
    holder.join()
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
