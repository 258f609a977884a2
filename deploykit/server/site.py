"""The page, the description of the interface, the metrics: files as they lie, and what is told about the server itself."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from deploykit.errors import RequestError
from deploykit.server.gate import json_response
from deploykit.server.openapi import describe_interface
from deploykit.server.state import note_of, state_of

_FOLDERS = {"page": Path(__file__).parent / "page", "docs": Path(__file__).parent / "docs"}

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Files of other kinds are not served, whatever lies in the folders."""


async def page(request: Request) -> Response:
    """The page that shows what the model looks at."""
    return _file(request, "page", "index.html")


async def docs(request: Request) -> Response:
    """The description of the interface, to read."""
    return _file(request, "docs", "index.html")


async def page_file(request: Request) -> Response:
    """What the page needs."""
    return _file(request, "page", request.path_params["file"])


async def docs_file(request: Request) -> Response:
    """What the description needs."""
    return _file(request, "docs", request.path_params["file"])


async def openapi(request: Request) -> Response:
    """The description of the interface, to read by programs: https://spec.openapis.org/oas/v3.1.0."""
    note_of(request).endpoint = "files"
    return json_response(describe_interface(state_of(request)))


async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    note_of(request).endpoint = "metrics"
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


ROUTES = [
    Route("/", page, methods=["GET"]),
    Route("/page/{file}", page_file, methods=["GET"]),
    Route("/docs", docs, methods=["GET"]),
    Route("/docs/{file}", docs_file, methods=["GET"]),
    Route("/openapi.json", openapi, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]


def _file(request: Request, folder: str, name: str) -> Response:
    """A file right in a folder of ours; ``name`` has no slash, as the route says."""
    note_of(request).endpoint = "files"
    path = _FOLDERS[folder] / name
    kind = _TYPES.get(path.suffix)
    if kind is None or name.startswith(".") or not path.is_file():
        raise RequestError(404, f"there is no {folder}/{name[:100]}", kind="no_route")
    return FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})
