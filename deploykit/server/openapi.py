"""The description of the interface in OpenAPI 3.1, for the models and limits that this server really has.

https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deploykit import __version__
from deploykit.runtime.explain_graphs import ALL_METHODS
from deploykit.server.questions import MAX_CLASSES, MAX_TOP
from deploykit.server.schemas import COUNT, FLAG, SCHEMAS, TEXT, Schema, named, several
from deploykit.server.served_model import EXPLAIN_SUFFIX, ServedModel
from deploykit.server.settings import Settings
from deploykit.server.state import State
from deploykit.server.waiting import TIMEOUT_HEADER

_REASONS = {
    400: "the request cannot be read, or asks for what is not there",
    401: "no valid API key",
    404: "no such model, version or file",
    405: "another method",
    408: "the upload took too long",
    413: "more bytes than allowed",
    415: "a kind of file, body or encoding that is not read",
    422: "a picture that cannot be used: damaged, or larger than allowed",
    499: "the caller closed the connection, so nobody receives this",
    500: "the server failed; its log has the reason under x-request-id",
    503: "no room now: ask again after Retry-After",
    504: "the request's time was up",
}

_ASKED = (400, 404, 408, 413, 415, 503, 504)


def describe_interface(state: State) -> dict[str, Any]:
    """All of it."""
    settings, models = state.settings, state.repository.models()
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "deploykit", "version": __version__, "description": _introduction(settings)},
        "paths": {**_people(models), **_protocol(models), **_server()},
        "components": {"schemas": SCHEMAS},
    }
    if settings.api_key is not None:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in described["paths"].items():
            if path.startswith(("/v1", "/v2")) and "/health/" not in path:
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
                    operation["responses"]["401"] = _failure(401)
    return described


def _introduction(settings: Settings) -> str:
    batch, limits = settings.batch, settings.limits
    sentences = (
        f"Bodies have at most {settings.max_upload_bytes:,} bytes and arrive within {settings.upload_timeout_s:g} s.",
        f"Pictures are {', '.join(limits.formats)} of at most {limits.max_pixels:,} pixels and {limits.max_aspect_ratio:g} : 1.",
        f"Runs have at most {batch.max_batch_size} rows; {batch.max_queue_size} requests may wait.",
        f"An answer takes at most {settings.timeout_s:g} s, or as many milliseconds as the header {TIMEOUT_HEADER} says.",
        "Every answer has the header x-request-id.",
    )
    return " ".join(sentences)


def _people(models: Sequence[ServedModel]) -> dict[str, Any]:
    name = _name([model.name for model in models])
    precisions = sorted({str(p) for model in models for p in model.graphs})
    layers = sorted({layer.name for model in models for layer in model.manifest.layers})
    common = [
        name,
        _query("top", {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 5}, "how many classes to name"),
        _query("precision", {"enum": precisions}, "one that the model is served at"),
        _timeout(),
    ]
    explain = [
        *common,
        _query("method", {"enum": list(ALL_METHODS), "default": "grad-cam"}, "of explaining; /v1/models says which a model can do"),
        _query("layer", {"enum": layers} if layers else TEXT, "to explain at"),
        _query(
            "class_index",
            several(TEXT, maxItems=MAX_CLASSES),
            "classes to explain, by label or index, or several indices with commas; the picture's own likeliest without",
        ),
        _query("classes", {"enum": ["top"]}, "explain each of the `top` likeliest"),
        _query("overlay", {**FLAG, "default": False}, "draw the map over the photo too"),
    ]
    failures = (*_ASKED, 422)
    return {
        "/v1/models": {"get": _operation("models", "What is served", "Models", [], ())},
        "/v1/models/{name}/labels": {
            "get": _operation("labels", "The classes' names, in the order of the logits", "Labels", [name], (404,))
        },
        "/v1/models/{name}:predict": {
            "post": _operation("predict", "The likeliest classes of a picture", "Predictions", common, failures, _picture())
            | _example(models, ":predict?top=3")
        },
        "/v1/models/{name}:explain": {
            "post": _operation("explain", "And what in it speaks for which", "Explanations", explain, failures, _picture())
            | _example(models, ":explain?overlay=true")
        },
        "/v1/samples": {"get": _operation("samples", "Pictures to try", "Samples", [], ())},
        "/v1/samples/{file}": {
            "get": {
                "operationId": "sample",
                "summary": "One of them",
                "parameters": [{"name": "file", "in": "path", "required": True, "schema": TEXT}],
                "responses": {"200": {"description": "the picture", "content": {"image/*": {}}}, **_failures((404,))},
            }
        },
    }


def _protocol(models: Sequence[ServedModel]) -> dict[str, Any]:
    """The Open Inference Protocol's addresses."""
    name = _name([model.name + suffix for model in models for suffix in _suffixes(model)])
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": ["1"]}}
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "schema": COUNT,
        "description": "how long the JSON is, where binary data follows it",
    }
    empty = {"200": {"description": "yes"}, "503": {"description": "no"}}
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("server_metadata", "What this server is", "ServerMetadata", [], ())},
        "/v2/health/live": {
            "get": {"operationId": "live", "summary": "The process answers", "responses": {"200": {"description": "yes"}}}
        },
        "/v2/health/ready": {"get": {"operationId": "ready", "summary": "It takes requests", "responses": empty}},
        "/v2/models/stats": {"get": _operation("all_stats", "What every graph has done", "Statistics", [], ())},
        "/v2/repository/index": {"post": _operation("index", "Every graph that can be asked", "Index", [], ())},
    }
    infer_body = {"application/json": {"schema": named("InferRequest")}, "application/octet-stream": {}}
    for prefix, tail, parameters in (
        ("/v2/models/{name}", "", [name]),
        ("/v2/models/{name}/versions/{version}", "_version", [name, version]),
    ):
        infer = _operation(
            f"infer{tail}",
            "Tensors in, tensors out",
            "InferAnswer",
            [*parameters, length, _timeout()],
            _ASKED,
            {"required": True, "content": infer_body},
        )
        infer["responses"]["200"]["content"]["application/octet-stream"] = {}
        ready = {
            "operationId": f"model_ready{tail}",
            "summary": "The model takes requests",
            "parameters": parameters,
            "responses": {**empty, **_failures((404,))},
        }
        paths |= {
            prefix: {"get": _operation(f"model_metadata{tail}", "Its tensors", "ModelMetadata", parameters, (404,))},
            f"{prefix}/ready": {"get": ready},
            f"{prefix}/config": {"get": _operation(f"model_config{tail}", "In Triton's words", "ModelConfig", parameters, (404,))},
            f"{prefix}/stats": {"get": _operation(f"model_stats{tail}", "What it has done", "Statistics", parameters, (404,))},
            f"{prefix}/infer": {"post": infer},
        }
    return paths


def _server() -> dict[str, Any]:
    def text(kind: str) -> dict[str, Any]:
        return {"200": {"description": "done", "content": {kind: {}}}}

    return {
        "/": {"get": {"operationId": "page", "summary": "The page", "responses": text("text/html")}},
        "/docs": {"get": {"operationId": "docs", "summary": "This description, to read", "responses": text("text/html")}},
        "/openapi.json": {"get": {"operationId": "openapi", "summary": "This description", "responses": text("application/json")}},
        "/metrics": {"get": {"operationId": "metrics", "summary": "What Prometheus reads", "responses": text("text/plain")}},
    }


def _suffixes(model: ServedModel) -> tuple[str, ...]:
    return ("",) if model.graphs[model.default].explain is None else ("", EXPLAIN_SUFFIX)


def _operation(
    identifier: str,
    summary: str,
    answer: str,
    parameters: Sequence[Mapping[str, Any]],
    failures: Sequence[int],
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": identifier,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "done", "content": {"application/json": {"schema": named(answer)}}},
            **_failures((*failures, 503)),
        },
    }
    return told | ({"requestBody": body} if body else {})


def _picture() -> dict[str, Any]:
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    form: Schema = {"type": "object", "properties": {"image": file}, "required": ["image"]}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": named("Picture")},
            "application/octet-stream": {},
            "image/*": {},
        },
    }


def _example(models: Sequence[ServedModel], tail: str) -> dict[str, str]:
    name = models[0].name if models else "NAME"
    return {"description": f"curl -F image=@photo.jpg 'HOST/v1/models/{name}{tail}'"}


def _failures(statuses: Sequence[int]) -> dict[str, Any]:
    return {str(status): _failure(status) for status in sorted(set(statuses))}


def _failure(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {"description": _REASONS[status], "content": {"application/json": {"schema": named("Error")}}}
    if status == 503:
        told["headers"] = {"Retry-After": {"schema": COUNT, "description": "seconds"}}
    return told


def _name(names: Sequence[str]) -> dict[str, Any]:
    return {"name": "name", "in": "path", "required": True, "schema": {"enum": list(names)}}


def _query(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _timeout() -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
    return {"name": TIMEOUT_HEADER, "in": "header", "schema": schema, "description": "milliseconds to the answer"}
