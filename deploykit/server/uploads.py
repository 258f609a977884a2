"""A request's body, bounded in bytes and time while it arrives, and the picture in it.

read_body        what arrives -> bytes; refused with 413 before it is buffered, 408 when it takes too long
unpack           gzip or deflate -> bytes, never more than allowed
find_picture     multipart form, JSON or the bare file -> the picture's bytes
"""

import asyncio
import base64
import binascii
import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Callable

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from deploykit.errors import RequestError
from deploykit.server.forms import read_file
from deploykit.server.settings import Settings
from deploykit.server.waiting import timeout

_FIELD = "image"


class HeldBytes:
    """How many bytes of bodies are in memory, over all requests of one event loop.

    Args:
        most: that may be.
        observe: told of every change.
    """

    def __init__(self, most: int, observe: Callable[[int], None] = lambda count: None) -> None:
        self._most, self._observe, self.count = most, observe, 0

    def take(self, size: int) -> None:
        """Count bytes that are about to be kept.

        Raises:
            RequestError: 503, there is no room now.
        """
        if self.count + size > self._most:
            raise RequestError(
                503,
                f"uploads hold {self.count:,} bytes, at most {self._most:,} are allowed at once",
                "ask again later",
                kind="uploads_full",
                headers={"retry-after": "1", "connection": "close"},
            )
        self.count += size
        self._observe(self.count)

    def give_back(self, size: int) -> None:
        """Uncount them."""
        self.count -= size
        self._observe(self.count)


@contextlib.asynccontextmanager
async def read_body(request: Request, settings: Settings, held: HeldBytes) -> AsyncIterator[bytearray]:
    """The body of a request, for as long as the block lasts.

    Raises:
        RequestError: 413 more bytes than allowed, by its header or as they come; 408 too slow; 503 no room; 400 cut off.
    """
    body = bytearray()
    try:
        try:
            _check_length(request, settings.max_upload_bytes)
            async with timeout(settings.upload_timeout_s):
                await _fill(body, request, settings.max_upload_bytes, held)
        except asyncio.TimeoutError:
            raise RequestError(
                408,
                f"{len(body):,} bytes arrived in {settings.upload_timeout_s:g} s and the upload had not ended",
                "send it faster, or a smaller picture",
                kind="slow_upload",
                headers={"connection": "close"},
            ) from None
        yield body
    finally:
        held.give_back(len(body))


def unpack(body: bytes | bytearray, encoding: str, most: int) -> bytes | bytearray:
    """A body without its Content-Encoding.

    Args:
        encoding: the header's value; empty or ``identity`` for none.
        most: bytes that it may become.

    Raises:
        RequestError: 415 another encoding; 413 more bytes; 400 damaged.
    """
    windows = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib.decompressobj's words for the two wrappers
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in windows:
        raise RequestError(415, f"Content-Encoding is {encoding[:40]!r}, allowed are gzip and deflate", kind="unsupported")
    try:
        stream = zlib.decompressobj(windows[name])
        data = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body is no {name}: {error}") from error
    if len(data) > most:
        raise too_large(f"the {name} body unpacks to more", most)
    if not stream.eof or stream.unused_data:
        raise RequestError(400, f"the {name} body {'goes on behind its end' if stream.eof else 'is cut off'}")
    return data


def find_picture(body: bytes | bytearray, content_type: str) -> bytes | bytearray:
    """The bytes of the picture in a body: the file ``image`` of a form, ``{"image": {"b64": ...}}``, or the body itself.

    Raises:
        RequestError: 415 another content type; 400 or 422 no picture where one should be.
    """
    name, options = parse_options_header(content_type or "application/octet-stream")
    kind = name.decode("latin-1")
    if kind == "multipart/form-data":
        picture: bytes | bytearray = read_file(body, options.get(b"boundary", b""), _FIELD)
    elif kind == "application/json":
        picture = _from_json(body)
    elif kind == "application/octet-stream" or kind.startswith("image/"):
        picture = body
    else:
        raise RequestError(
            415,
            f"Content-Type is {content_type[:80]!r}, expected one of multipart/form-data, application/json, image/*, "
            "application/octet-stream",
            kind="unsupported",
        )
    if not picture:
        raise RequestError(422, "the picture is empty", kind="bad_picture")
    return picture


def too_large(what: str, most: int) -> RequestError:
    """The refusal of too many bytes."""
    return RequestError(
        413,
        f"{what}, at most {most:,} bytes are allowed (--max-upload-bytes)",
        "send a smaller picture",
        kind="too_large",
        headers={"connection": "close"},
    )


def _check_length(request: Request, most: int) -> None:
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdecimal() and int(length) > most:
        raise too_large(f"the body has {int(length):,} bytes", most)


async def _fill(body: bytearray, request: Request, most: int, held: HeldBytes) -> None:
    try:
        async for piece in request.stream():
            if len(body) + len(piece) > most:
                raise too_large("the body does not end", most)
            held.take(len(piece))
            body += piece
    except ClientDisconnect:
        raise RequestError(400, f"the upload was cut off behind {len(body):,} bytes", kind="cut_off") from None


def _from_json(body: bytes | bytearray) -> bytes:
    expected = 'expected {"image": {"b64": "..."}}'
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {str(error)[:120]}", expected) from error
    image = message.get("image") if isinstance(message, dict) else None
    text = image.get("b64") if isinstance(image, dict) else None
    if not isinstance(text, str):
        raise RequestError(400, f"the JSON body has no picture, {expected}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"b64 is no base64: {error}") from error
