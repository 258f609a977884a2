"""Waiting for an answer no longer than its caller: until a deadline, and not beyond the moment at which the caller hangs up."""

import asyncio
import sys
import time
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from deploykit.errors import RequestError
from deploykit.server.batcher import late
from deploykit.server.settings import Settings

if sys.version_info >= (3, 11):
    from asyncio import timeout as timeout  # for others too
else:
    from async_timeout import timeout as timeout

T = TypeVar("T")

GONE_STATUS = 499
"""nginx's number for a request whose client has closed the connection; nobody receives it, logs and metrics show it."""

TIMEOUT_HEADER = "x-timeout-ms"


def deadline_of(request: Request, settings: Settings, timeout_us: int | None = None) -> float:
    """Until when the answer is of use, on the monotonic clock: as the request says, and not later than the server allows.

    Raises:
        RequestError: the header is no whole number of milliseconds.
    """
    seconds = settings.timeout_s
    text = request.headers.get(TIMEOUT_HEADER)
    if text is not None:
        if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0):
            raise RequestError(400, f"{TIMEOUT_HEADER} is {text[:40]!r}, expected a whole number of milliseconds")
        seconds = min(seconds, int(text) / 1e3)
    if timeout_us is not None:
        seconds = min(seconds, timeout_us / 1e6)
    return time.monotonic() + seconds


async def answer_in_time(request: Request, work: Awaitable[T], deadline: float) -> T:
    """The result of some work, which is cancelled when its time is up or its caller has gone. The body must have been read.

    Raises:
        RequestError: 504 too late, 499 gone; or what the work raises.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    gone.add_done_callback(lambda _: task.cancel())
    try:
        async with timeout(max(deadline - time.monotonic(), 0)):
            return await task
    except asyncio.TimeoutError:
        raise late("before the answer was there") from None
    except asyncio.CancelledError:
        if gone.done():
            raise RequestError(GONE_STATUS, "the caller has gone", kind="gone") from None
        raise  # this request's own task was cancelled
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
