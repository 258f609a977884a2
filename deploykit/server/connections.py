"""Connections: a request's first line and headers are bounded in bytes and in time, which uvicorn does not do with every parser,
and the head of an answer is sent with its body.

uvicorn's seam is its option ``http``, which takes a protocol class; so this is the one place that derives from another's class.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_REFUSAL = b"\r\n".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"content-type: application/json",
        b"content-length: %d",
        b"connection: close",
        b"",
        b"%s",
    )
)


def bounded_protocol(timeout_s: float, most_bytes: int) -> type[asyncio.Protocol]:
    """The HTTP protocol class of a server.

    Args:
        timeout_s: from a connection's start, or a further request's first byte, to the end of the headers; then it is closed.
        most_bytes: of them; more get 431.
    """

    class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _head_bytes = 0
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(JoinedTransport(transport, self.loop))
            self._await_head()

        def data_received(self, data: bytes) -> None:
            if self.has_request():
                super().data_received(data)
                return
            self._head_bytes += len(data)
            if self._head_bytes > most_bytes and not _ends_within(data, most_bytes):
                body = b'{"error":"the headers have more than %d bytes"}' % most_bytes
                self.transport.write(_REFUSAL % (len(body), body))
                self.transport.close()
                return
            super().data_received(data)
            if self.has_request():
                self._end_head()
            elif self._head_timer is None:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_head()
            super().connection_lost(exc)

        def has_request(self) -> bool:
            """Whether a request's headers are here, and not all of its body or of its answer."""
            return self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete)

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(timeout_s, self.transport.close)

        def _end_head(self) -> None:
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return BoundedProtocol


class JoinedTransport:
    """A transport that sends together what is written in one turn of the event loop.

    uvicorn writes the head of an answer, then its body. Sent alone, the head is a packet of its own that wakes its reader in vain.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn."""
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        """Close the transport behind what has been written."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _ends_within(data: bytes, most_bytes: int) -> bool:
    """Whether the headers end early in a piece, and what follows them is a body."""
    return 0 <= data.find(b"\r\n\r\n") < most_bytes
