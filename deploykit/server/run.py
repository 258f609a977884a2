"""A process that serves: the socket, and uvicorn on it."""

import asyncio
import contextlib
import resource
import socket
import sys
from collections.abc import Callable

import uvicorn

from deploykit.errors import UsageError
from deploykit.server.app import make_app
from deploykit.server.connections import bounded_protocol
from deploykit.server.logs import UvicornLines
from deploykit.server.state import State
from deploykit.server.stopping import end_on_signals

_BACKLOG = 2048

_OTHER_FILES = 256
"""Open beside connections: models, pictures, logs."""


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        port: 0 for any that is free.

    Raises:
        UsageError: the address is taken, not ours, or no address.
    """
    with contextlib.ExitStack() as unless_done:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listening = unless_done.enter_context(socket.socket(family, kind, proto))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"cannot listen on {host} port {port}: {reason}", hint="take another with --port") from error
        unless_done.pop_all()
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
    _allow_files(settings.max_connections + _OTHER_FILES)
    config = uvicorn.Config(
        make_app(state),
        http=bounded_protocol(settings.header_timeout_s, settings.max_header_bytes),
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
    main = _serve(uvicorn.Server(config), state, listening, on_ready)
    if sys.version_info < (3, 11):
        asyncio.run(main)
        return
    # The loop that uvicorn itself would take: uvloop where it is installed.
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main)


def _allow_files(count: int) -> None:
    """Let the process open as many files as it may need, where its hard limit allows that; 1,024 are usual, and too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard))


async def _serve(server: uvicorn.Server, state: State, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        end_on_signals(server, state, listening)
        on_ready()
    await serving
