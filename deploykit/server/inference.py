"""The Open Inference Protocol's addresses, ``/v2`` and below, with Triton's extensions that its clients use.

Of a model NAME the predict graph is ``NAME`` and the explain graph ``NAME_explain``, at the model's default precision or at the one
that the request's parameter ``precision`` names. Every model has the one version 1.
"""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploykit import __version__
from deploykit.errors import RequestError
from deploykit.runtime.session import Array
from deploykit.server.batch_queue import Answer
from deploykit.server.batcher import Batcher
from deploykit.server.gate import json_response
from deploykit.server.model_config import describe_config, describe_model
from deploykit.server.protocol import HEADER_LENGTH, InferRequest, choose_outputs, encode_answer, parse_request
from deploykit.server.repository import split_name
from deploykit.server.served_model import EXPLAIN_SUFFIX, ServedModel
from deploykit.server.state import note_of, state_of
from deploykit.server.uploads import read_body, unpack
from deploykit.server.waiting import answer_in_time, deadline_of

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics")

_IN_A_THREAD = 64 << 10
"""Bytes of JSON from which on reading it would hold the event loop for a millisecond and more."""


@dataclass(frozen=True, eq=False)
class _Target:
    """A model and one of its graphs, as an address names them."""

    name: str
    model: ServedModel
    is_explain: bool

    def batcher(self, precision: object) -> Batcher:
        if precision is not None and not isinstance(precision, str):
            raise RequestError(400, f"precision is {str(precision)[:40]!r}, expected text")
        at, graphs = self.model.at(precision)
        graph = graphs.explain if self.is_explain else graphs.predict
        if graph is None:
            raise _unknown(self.name, f"{self.model.name} explains nothing at {at}")
        return graph


async def live(request: Request) -> Response:
    """The process answers."""
    note_of(request).endpoint = "health"
    return Response(status_code=200)


async def ready(request: Request) -> Response:
    """It takes requests: every model is open, and the server is not about to stop."""
    note_of(request).endpoint = "health"
    return Response(status_code=503 if state_of(request).draining else 200)


async def server_metadata(request: Request) -> Response:
    """What this server is."""
    note_of(request).endpoint = "metadata"
    return json_response({"name": "deploykit", "version": __version__, "extensions": list(EXTENSIONS)})


async def model_metadata(request: Request) -> Response:
    """The tensors of a graph."""
    with _target(request, "metadata") as target:
        return json_response(describe_model(target.name, target.batcher(None), state_of(request).settings))


async def model_config(request: Request) -> Response:
    """The same in the words of Triton's model configuration, with how requests are batched."""
    with _target(request, "metadata") as target:
        has_labels = target.model.labels is not None
        return json_response(describe_config(target.name, target.batcher(None), state_of(request).settings, has_labels=has_labels))


async def model_ready(request: Request) -> Response:
    """Whether a model takes requests."""
    with _target(request, "health") as target:
        target.batcher(None)
        return Response(status_code=503 if state_of(request).draining else 200)


async def model_statistics(request: Request) -> Response:
    """What a graph has done, over all precisions."""
    with _target(request, "metadata") as target:
        target.batcher(None)
        return json_response({"model_stats": _statistics(target.name, target.model, is_explain=target.is_explain)})


async def all_statistics(request: Request) -> Response:
    """What every graph has done."""
    note_of(request).endpoint = "metadata"
    models = state_of(request).repository.models()
    return json_response({"model_stats": [row for model in models for row in _all_statistics(model)]})


async def repository_index(request: Request) -> Response:
    """Every graph that can be asked."""
    state = state_of(request)
    note_of(request).endpoint = "metadata"
    names = [
        model.name + suffix
        for model in state.repository.models()
        for suffix, graph in (("", True), (EXPLAIN_SUFFIX, model.graphs[model.default].explain is not None))
        if graph
    ]
    return json_response([{"name": name, "version": "1", "state": "READY", "reason": ""} for name in names])


async def infer(request: Request) -> Response:
    """Tensors in, tensors out."""
    state, note = state_of(request), note_of(request)
    with _target(request, "infer") as target:
        async with read_body(request, state.settings, state.held) as body:
            note.stages_ms["upload"] = before = note.elapsed_ms()
            parsed = await _parse(request, body)
            note.stages_ms["decode"] = note.elapsed_ms() - before
            graph = target.batcher(parsed.parameters.get("precision"))
            wanted = choose_outputs(parsed, [output.name for output in graph.outputs])
            deadline = deadline_of(request, state.settings, parsed.timeout_us)
            names = [one.name for one in wanted]
            # Large arrays are looked through for NaN, which takes longer than the event loop should stand still.
            if len(body) > (1 << 20):
                submitted = await state.convert.run(lambda: graph.submit(_feeds(parsed, graph), names, deadline))
            else:
                submitted = graph.submit(_feeds(parsed, graph), names, deadline)
            answer: Answer = await answer_in_time(request, asyncio.wrap_future(submitted), deadline)
            note.stages_ms.update(queue=answer.queue_s * 1e3, infer=answer.infer_s * 1e3)
            encode = partial(encode_answer, parsed, target.name, wanted, answer.outputs, target.model.labels)
            size = sum(answer.outputs[one.name].nbytes for one in wanted if not one.binary)
            pieces, header_length = await state.convert.run(encode) if size > _IN_A_THREAD else encode()
            return await _response(request, pieces, header_length)


ROUTES = [
    Route("/v2", server_metadata, methods=["GET"]),
    Route("/v2/health/live", live, methods=["GET"]),
    Route("/v2/health/ready", ready, methods=["GET"]),
    Route("/v2/models/stats", all_statistics, methods=["GET"]),
    Route("/v2/repository/index", repository_index, methods=["POST"]),
    *(
        Route(f"/v2/models/{{name}}{version}{tail}", endpoint, methods=[method])
        for version in ("", "/versions/{version}")
        for tail, endpoint, method in (
            ("", model_metadata, "GET"),
            ("/ready", model_ready, "GET"),
            ("/config", model_config, "GET"),
            ("/stats", model_statistics, "GET"),
            ("/infer", infer, "POST"),
        )
    ),
]


@contextmanager
def _target(request: Request, endpoint: str) -> Iterator[_Target]:
    """What an address names, held for as long as the block lasts.

    Raises:
        RequestError: 404.
    """
    note, name, version = note_of(request), request.path_params["name"], request.path_params.get("version", "1")
    note.endpoint = endpoint
    base, is_explain = split_name(name)
    with state_of(request).repository.lease(base) as model:
        if version != "1":
            raise _unknown(name, f"its only version is 1, not {version[:20]!r}")
        note.model = model.name
        yield _Target(name, model, is_explain)


async def _parse(request: Request, body: bytearray) -> InferRequest:
    settings, state = state_of(request).settings, state_of(request)
    encoding, length = request.headers.get("content-encoding", ""), request.headers.get(HEADER_LENGTH)
    json_size = len(body) if length is None or not length.isdecimal() else int(length)
    if not encoding and json_size <= _IN_A_THREAD:
        return parse_request(body, length)
    return await state.convert.run(lambda: parse_request(unpack(body, encoding, settings.max_upload_bytes), length))


def _feeds(parsed: InferRequest, graph: Batcher) -> dict[str, Array]:
    """The request's arrays, as the graph has them.

    ``class_index`` may be left out, which means each row's own top-1, and may have a second axis of 1: Triton's configurations
    describe a number per row so.
    """
    feeds = dict(parsed.inputs)
    takes_class = any(info.name == "class_index" for info in graph.inputs)
    if takes_class and "class_index" in feeds and feeds["class_index"].ndim == 2 and feeds["class_index"].shape[1] == 1:
        feeds["class_index"] = feeds["class_index"][:, 0]
    if takes_class and "class_index" not in feeds and "image" in feeds and feeds["image"].ndim:
        feeds["class_index"] = np.full(len(feeds["image"]), -1, np.int64)
    return feeds


async def _response(request: Request, pieces: list[bytes], header_length: int | None) -> Response:
    headers = {} if header_length is None else {HEADER_LENGTH: str(header_length)}
    body = b"".join(pieces)
    coding = _coding(request.headers.get("accept-encoding", ""))
    if coding is not None:
        pack = gzip.compress if coding == "gzip" else zlib.compress
        body = await state_of(request).convert.run(lambda: pack(body, 1))
        headers["content-encoding"] = coding
    kind = "application/json" if header_length is None else "application/octet-stream"
    return Response(body, media_type=kind, headers=headers)


def _coding(accepted: str) -> str | None:
    """How to pack an answer: only where one coding alone is asked for, as tritonclient does. Browsers and HTTP libraries list
    several with every request, and packed logits save a tenth."""
    wanted = accepted.strip().lower()
    return wanted if wanted in ("gzip", "deflate") else None


def _statistics(name: str, model: ServedModel, *, is_explain: bool) -> list[dict[str, Any]]:
    """One row for each precision; a further one's name says which it is."""
    graphs = {precision: one.explain if is_explain else one.predict for precision, one in model.graphs.items()}
    return [
        graph.statistics.tell(name if precision == model.default else f"{name} ({precision})")
        for precision, graph in graphs.items()
        if graph is not None
    ]


def _all_statistics(model: ServedModel) -> list[dict[str, Any]]:
    return [
        *_statistics(model.name, model, is_explain=False),
        *_statistics(model.name + EXPLAIN_SUFFIX, model, is_explain=True),
    ]


def _unknown(name: str, reason: str) -> RequestError:
    return RequestError(404, f"unknown model {name[:100]!r}: {reason}", kind="unknown_model")
