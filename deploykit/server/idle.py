"""Connections that send no request are closed: uvicorn bounds the time between requests, and not that of a request's headers."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

_LOOK_S = 0.5


async def close_idle(connections: Collection[Any], timeout_s: float) -> None:
    """Close connections that have been opened, or have begun a request, and have not sent its headers in time. Until cancelled.

    Args:
        connections: uvicorn's protocol objects. ``cycle`` is the request that is worked on or was last; ``timeout_keep_alive_task``
            is set while an idle connection waits for its next request, and ends that by itself.
    """
    since: dict[Any, float] = {}
    while True:
        now = time.monotonic()
        silent = {c for c in connections if _has_no_request(c)}
        since = {c: since.get(c, now) for c in silent}
        for connection, start in since.items():
            if now - start > timeout_s:
                connection.transport.close()
        await asyncio.sleep(min(_LOOK_S, timeout_s / 2))


def _has_no_request(connection: Any) -> bool:
    is_working = connection.cycle is not None and not connection.cycle.response_complete
    return not is_working and connection.timeout_keep_alive_task is None
