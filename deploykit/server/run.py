"""A process that serves: the socket, uvicorn, and how it ends.

The first SIGTERM or SIGINT: not ready any more, answers say ``connection: close``, what the kernel has accepted is answered still,
then the socket closes, and what is in work is finished within the grace period. The second ends the process at once.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable

import uvicorn

from deploykit.errors import UsageError
from deploykit.server.app import make_app
from deploykit.server.idle import close_idle
from deploykit.server.logs import UvicornLines
from deploykit.server.state import State

_BACKLOG = 2048

_DRAIN_S = 0.3
"""Between the signal and the closing of the socket: connections that the kernel holds are accepted, and idle ones learn with their
next answer that they should not be used again."""


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        port: 0 for any that is free.

    Raises:
        UsageError: the address is taken, not ours, or no address.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}", hint="take another with --port"
        ) from error
    listening.set_inheritable(True)
    return listening


def address_of(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(state: State, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Answer until a signal says to stop, and what was accepted is finished.

    Args:
        state: with its models opened.
        listening: see `open_socket`; closed at the end.
        on_ready: called when requests are taken.
    """
    settings = state.settings
    config = uvicorn.Config(
        make_app(state),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        backlog=_BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.grace_s,
        limit_concurrency=settings.max_connections,
    )
    uvicorn.config.logger.handlers = [UvicornLines(state.log)]
    uvicorn.config.logger.propagate = False
    asyncio.run(_serve(uvicorn.Server(config), state, listening, on_ready))


async def _serve(server: uvicorn.Server, state: State, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        # In place of uvicorn's own, which it has set by now: those close the socket at once.
        loop = asyncio.get_running_loop()
        stopping: list[asyncio.Task[None]] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, server, state, stopping)
        idle = asyncio.create_task(close_idle(server.server_state.connections, state.settings.header_timeout_s))
        on_ready()
        await serving
        idle.cancel()
    await serving


def _stop(server: uvicorn.Server, state: State, stopping: list["asyncio.Task[None]"]) -> None:
    if stopping:
        state.log.event("stopped_at_once", in_flight=state.in_flight)
        state.log.close()
        os._exit(1)
    state.draining = True
    state.log.event("stopping", in_flight=state.in_flight, grace_s=state.settings.grace_s)

    async def drain() -> None:
        await asyncio.sleep(_DRAIN_S)
        server.should_exit = True

    stopping.append(asyncio.get_running_loop().create_task(drain()))
