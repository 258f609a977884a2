"""How a server ends without losing a request that it took.

signal     not ready any more; every answer says ``connection: close``, so callers leave
then       the socket closes, and what the kernel had accepted is accepted before
then       connections that have just been made may still send their request
then       uvicorn closes what is idle and waits for the rest, as long as the grace period
2nd signal the process ends at once
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection
from typing import Any

import uvicorn

from deploykit.server.state import State

_LEAVE_S = 0.2
"""For callers with a connection to hear with their next answer that they should not use it again."""

_SILENT_S = 0.5
"""How long a connection may have nothing to say when the socket has closed, before it counts as idle."""

_LOOK_S = 0.02


def end_on_signals(server: uvicorn.Server, state: State, listening: socket.socket) -> None:
    """Take SIGTERM and SIGINT over from uvicorn, which would close the socket and every idle connection at once."""
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    def on_signal() -> None:
        if ending:
            state.log.event("stopped_at_once", in_flight=state.in_flight)
            state.log.close()
            os._exit(1)
        state.draining = True
        state.log.event("stopping", in_flight=state.in_flight, grace_s=state.settings.grace_s)
        ending.append(loop.create_task(_end(server, state, listening)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


async def _end(server: uvicorn.Server, state: State, listening: socket.socket) -> None:
    start = time.monotonic()
    await asyncio.sleep(_LEAVE_S)
    await _close_socket(server, listening)
    closed = time.monotonic()
    connections: Collection[Any] = server.server_state.connections  # of `deploykit.server.connections`
    while connections and time.monotonic() - start < state.settings.grace_s:
        is_working = any(connection.has_request() for connection in connections)
        if not is_working and time.monotonic() - closed > _SILENT_S:
            break
        await asyncio.sleep(_LOOK_S)
    # uvicorn's own bound counts from here on, and takes None for none.
    server.config.timeout_graceful_shutdown = max(1, round(state.settings.grace_s - (time.monotonic() - start)))
    server.should_exit = True


async def _close_socket(server: uvicorn.Server, listening: socket.socket) -> None:
    """Listen no more. Connections that wait in the kernel's queue would be reset, so they are taken out first."""
    with listening.dup() as spare:
        spare.setblocking(False)
        for one in server.servers:
            one.close()
        waiting: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(spare.accept()[0])
    loop, config = asyncio.get_running_loop(), server.config
    for connection in waiting:
        connection.setblocking(False)
        await loop.connect_accepted_socket(
            lambda: config.http_protocol_class(config=config, server_state=server.server_state, app_state=server.lifespan.state),  # type: ignore[call-arg]
            connection,
        )
