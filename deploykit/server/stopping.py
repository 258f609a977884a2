"""How a server ends without losing a request that it took.

signal     not ready any more; every answer says ``connection: close``, so callers leave
then       no further connection begins; those that have begun are accepted, and the socket closes
then       connections that have just been made may still send their request
then       uvicorn closes what is idle and waits for the rest, as long as the grace period
2nd signal the process ends at once
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Collection
from typing import Any

import uvicorn

from deploykit.server.state import State

_LEAVE_S = 0.2
"""For callers with a connection to hear with their next answer that they should not use it again."""

_HANDSHAKE_S = 0.1
"""For connections that have begun to reach the kernel's queue: a handshake's way over a network and back."""

_SILENT_S = 0.5
"""How long a connection may have nothing to say when the socket has closed, before it counts as idle."""

_LOOK_S = 0.02

_SO_ATTACH_FILTER = 26
"""Linux's asm-generic/socket.h; Python has no name for it."""


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
    if not state.shares_socket:
        refuse_connections(listening)
    await asyncio.sleep(_HANDSHAKE_S)
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


def refuse_connections(listening: socket.socket) -> None:
    """Let no further connection begin, in any process that shares the socket; callers try again and find it closed.

    The kernel resets what is in a socket's queue when that closes. However soon a process closes it behind a look at the queue, a
    connection can come between, so its first packet (SYN without ACK, RFC 9293 section 3.1) is dropped by a filter of the socket
    (socket(7), SO_ATTACH_FILTER). Where there are no such filters, such as on macOS, it can still come between.
    """
    if sys.platform != "linux":
        return
    load_byte, keep_bits, jump_if_equal, give_back = 0x30, 0x54, 0x15, 0x06
    steps = [
        (load_byte, 0, 0, 13),
        (keep_bits, 0, 0, 0x12),
        (jump_if_equal, 0, 1, 0x02),
        (give_back, 0, 0, 0),
        (give_back, 0, 0, 1 << 31),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    with contextlib.suppress(OSError):  # a sandbox that has none
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(steps), ctypes.addressof(program)))


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
