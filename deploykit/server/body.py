"""The body of a request that is answered before it has all arrived."""

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.types import Message, Receive

_LINGER_S = 2.0


class Body:
    """Knows whether a body has ended, and reads the rest of one that nobody wants.

    A connection that is closed while its client still sends is reset, and the reset discards the answer that says why. And on one
    that stays open the rest would stand before the next request.

    Args:
        receive: ASGI's.
        headers: of the request, in lower case.
    """

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        self._receive = receive
        self.has_ended = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0").strip() == b"0"
        # A client that waits for "100 Continue" has sent nothing yet, and to ask for more would tell it to begin.
        self._waits = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> Message:
        """ASGI's receive."""
        message = await self._receive()
        self._waits = False
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self.has_ended = True
        return message

    async def drop_rest(self, most: int) -> None:
        """Read and drop what still comes: for a while, and so many bytes at most."""
        if self.has_ended or self._waits:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(most), _LINGER_S)

    async def _drop(self, most: int) -> None:
        seen = 0
        while not self.has_ended and seen < most:
            seen += len((await self.receive()).get("body", b""))
