"""What every request passes: request id, API key, room, security headers, errors as JSON, metrics and the line in the log."""

import hmac
import json
import random
import re
import traceback
from collections.abc import MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploykit.errors import DeploykitError, RequestError
from deploykit.server.body import Body
from deploykit.server.failures import body_of, status_of
from deploykit.server.state import Note, State, note_of
from deploykit.server.waiting import GONE_STATUS

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_SECURITY_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]

_LINGER_BODIES = 4
"""How many of the largest allowed bodies are read and dropped of a request that is answered before its end."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,64}")

_OPEN = re.compile(r"/(docs|page/.*|docs/.*|openapi\.json|metrics|v2/health/(live|ready))?")
"""What needs no key: the page's and the description's own files, health, metrics."""

_PROBES = re.compile(r"/metrics|/v2/health/(live|ready)")


class Gate:
    """Stands round the whole application."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        note = Note(_request_id(headers.get(b"x-request-id")))
        scope["deploykit.note"] = note
        body = Body(receive, headers)
        receive = body.receive
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if note.error != "slow_upload":
                    await body.drop_rest(_LINGER_BODIES * self._state.settings.max_upload_bytes)
                _add_headers(message, note.request_id, closing=self._state.draining or not body.has_ended)
            await send(message)

        state = self._state
        state.in_flight += 1
        state.metrics.in_flight.set(state.in_flight)
        try:
            if refusal := self._refusal(scope["path"], headers):
                note.error, note.message = refusal.kind, str(refusal)
                await _error_response(refusal)(scope, receive, send_noted)
            else:
                await self._app(scope, receive, send_noted)
        except Exception as error:  # a defect: the caller gets a number to ask about, the log has the rest
            note.error, note.message = "defect", f"{type(error).__name__}: {error}"
            state.log.event("defect", id=note.request_id, traceback=traceback.format_exc())
        finally:
            state.in_flight -= 1
            state.metrics.in_flight.set(state.in_flight)
            self._tell(scope, note, status)

    def _refusal(self, path: str, headers: MutableMapping[bytes, bytes]) -> RequestError | None:
        """Why a request goes no further: no room, or no key. Health and metrics are told even when there is no room."""
        most = self._state.settings.max_requests
        if self._state.in_flight > most and not _PROBES.fullmatch(path):
            hint, extra = "ask again later", {"retry-after": "1", "connection": "close"}
            return RequestError(503, f"{most} requests are worked on, no more are allowed", hint, kind="too_many", headers=extra)
        key = self._state.settings.api_key
        if key is None or _OPEN.fullmatch(path):
            return None
        given = headers.get(b"authorization", b"")
        if hmac.compare_digest(given, f"Bearer {key}".encode()):
            return None
        return RequestError(
            401,
            "the request has no valid API key",
            "send: Authorization: Bearer KEY",
            kind="no_key",
            headers={"www-authenticate": "Bearer"},
        )

    def _tell(self, scope: Scope, note: Note, status: int) -> None:
        metrics = self._state.metrics
        status = GONE_STATUS if note.error == "gone" else status
        total_ms = note.elapsed_ms()
        note.stages_ms["total"] = total_ms
        metrics.requests.labels(note.endpoint, note.model, str(status)).inc()
        if note.error:
            metrics.errors.labels(note.model, note.error).inc()
        if note.model:
            for stage, spent_ms in note.stages_ms.items():
                metrics.stages.labels(note.model, stage).observe(spent_ms / 1e3)
        if note.endpoint in ("health", "metrics", "files") and not note.error:
            return  # probes and pictures of the page would bury the rest
        self._state.log.event(
            "request",
            id=note.request_id,
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            model=note.model or None,
            error=note.error,
            message=note.message,
            stages_ms={stage: round(spent, 2) for stage, spent in note.stages_ms.items()},
        )


async def on_error(request: Request, error: Exception) -> Response:
    """The answer to an error that names a mistake, for Starlette's ``exception_handlers``."""
    note = note_of(request)
    if isinstance(error, HTTPException):
        known = {404: "there is nothing at this address", 405: f"{request.method} is not allowed here"}
        error = RequestError(
            error.status_code,
            known.get(error.status_code, str(error.detail)),
            "GET /docs lists what there is",
            headers=error.headers,
            kind="no_route",
        )
    assert isinstance(error, DeploykitError)  # noqa: S101 what it is registered for
    note.error = status_of(error)[1]
    note.message = str(error)
    return _error_response(error)


async def on_defect(request: Request, error: Exception) -> Response:
    """The answer to any other error, which Starlette sends before it passes the error on to the gate."""
    body = {"error": "the server failed", "hint": f"its log has the reason under {note_of(request).request_id}"}
    return JSONResponse(body, 500)


def _error_response(error: DeploykitError) -> Response:
    status, _ = status_of(error)
    headers = error.headers if isinstance(error, RequestError) else None
    return JSONResponse(body_of(error), status, headers)


def _request_id(given: bytes | None) -> str:
    """The caller's own where it is short and printable, so that no log line is forged; else a new one."""
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"


def _add_headers(message: Message, request_id: str, *, closing: bool) -> None:
    headers: list[Any] = list(message.get("headers", []))
    names = {name.lower() for name, _ in headers}
    headers.append((b"x-request-id", request_id.encode()))
    headers += [pair for pair in (*_SECURITY_HEADERS, (b"cache-control", b"no-store")) if pair[0] not in names]
    if closing and b"connection" not in names:
        headers.append((b"connection", b"close"))
    message["headers"] = headers


def json_response(value: object) -> Response:
    """An answer of JSON: UTF-8 without spaces."""
    return Response(_JSON.encode(value).encode(), media_type="application/json")
