"""What people and browsers ask: ``/v1/models`` and below.

GET  /v1/models                    what is served
GET  /v1/models/NAME/labels        the classes' names
POST /v1/models/NAME:predict       a picture -> its likeliest classes
POST /v1/models/NAME:explain       a picture -> them, and what in it speaks for which
GET  /v1/samples, /v1/samples/FILE pictures to try
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from deploykit.errors import RequestError
from deploykit.image.formats import SUFFIXES
from deploykit.runtime.photo_limits import photo_limits
from deploykit.runtime.session import Array
from deploykit.server.batch_queue import Answer
from deploykit.server.gate import json_response
from deploykit.server.pictures import Seen, explain_photo, see, tell_logits
from deploykit.server.questions import Question, read_explain, read_predict
from deploykit.server.served_model import Graphs, ServedModel
from deploykit.server.settings import Settings
from deploykit.server.state import Note, note_of, state_of
from deploykit.server.uploads import find_picture, read_body, unpack
from deploykit.server.waiting import answer_in_time, deadline_of
from deploykit.spec import Precision


async def list_models(request: Request) -> Response:
    """What is served, and what each model can do."""
    state = state_of(request)
    note_of(request).endpoint = "models"
    return json_response({"models": [describe(model) for model in state.repository.models()]})


async def list_labels(request: Request) -> Response:
    """The names of a model's classes, in the order of the logits."""
    note = note_of(request)
    note.endpoint = "labels"
    with state_of(request).repository.lease(request.path_params["name"]) as model:
        note.model = model.name
        if model.labels is None:
            raise RequestError(404, f"{model.name} has no labels, its classes are known by number", kind="no_labels")
        return json_response({"labels": list(model.labels)})


async def predict(request: Request) -> Response:
    """The likeliest classes of a picture."""
    state, note = state_of(request), note_of(request)
    note.endpoint = "predict"
    with state.repository.lease(request.path_params["name"]) as model:
        note.model = model.name
        question = read_predict(request.query_params)
        precision, graphs = model.at(question.precision)
        async with read_body(request, state.settings, state.held) as body:
            note.stages_ms["upload"] = note.elapsed_ms()
            deadline = deadline_of(request, state.settings)
            predictions = await _predict(request, body, model, graphs, question, deadline)
    return json_response({**_about(model, precision, graphs, note), "predictions": predictions, "timing_ms": _timing(note)})


async def explain(request: Request) -> Response:
    """The likeliest classes of a picture, and what in it speaks for which."""
    state, note = state_of(request), note_of(request)
    note.endpoint = "explain"
    with state.repository.lease(request.path_params["name"]) as model:
        note.model = model.name
        question = read_explain(request.query_params, model)
        precision, graphs = model.at(question.precision)
        if graphs.explainer is None or graphs.shared is None:
            raise RequestError(
                400, f"{model.name} explains nothing at {precision}", "export it again without --no-explain", kind="not_in_bundle"
            )
        async with read_body(request, state.settings, state.held) as body:
            note.stages_ms["upload"] = note.elapsed_ms()
            deadline = deadline_of(request, state.settings)
            before = note.elapsed_ms()
            read = partial(_picture, request, body, state.settings)
            work = state.explain.run(partial(explain_photo, read, graphs.explainer, graphs.shared, question, deadline))
            told, stages = await answer_in_time(request, work, deadline)
            note.stages_ms["queue"] = max(0.0, note.elapsed_ms() - before - sum(stages.values()))
            note.stages_ms.update(stages)
    return json_response({**_about(model, precision, graphs, note), **told, "timing_ms": _timing(note)})


async def list_samples(request: Request) -> Response:
    """The pictures that can be tried."""
    note_of(request).endpoint = "samples"
    names = await asyncio.to_thread(_sample_names, state_of(request).settings.samples)
    return json_response({"samples": [{"name": name, "url": f"/v1/samples/{quote(name)}"} for name in names]})


async def sample(request: Request) -> Response:
    """One of them: only a file that the list has, so that no name leads out of the folder."""
    note_of(request).endpoint = "files"
    folder, name = state_of(request).settings.samples, request.path_params["file"]
    if folder is None or name not in await asyncio.to_thread(_sample_names, folder):
        raise RequestError(404, f"there is no sample {name[:100]!r}", kind="no_route")
    return FileResponse(folder / name, headers={"cache-control": "max-age=300"})


ROUTES = [
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{name}/labels", list_labels, methods=["GET"]),
    Route("/v1/models/{name}:predict", predict, methods=["POST"]),
    Route("/v1/models/{name}:explain", explain, methods=["POST"]),
    Route("/v1/samples", list_samples, methods=["GET"]),
    Route("/v1/samples/{file}", sample, methods=["GET"]),
]


def describe(model: ServedModel) -> dict[str, Any]:
    """A model as the list has it."""
    manifest = model.manifest
    return {
        "name": model.name,
        "task": manifest.model.task,
        "trained": manifest.weights.trained,
        "default_precision": str(model.default),
        "precisions": [str(precision) for precision in model.graphs],
        "explain_precisions": [str(precision) for precision, graphs in model.graphs.items() if graphs.explainer is not None],
        "classes": manifest.model.num_classes,
        "has_labels": model.labels is not None,
        "layers": [layer.name for layer in manifest.layers],
        "methods": list(model.methods),
        "image": {"height": manifest.image.height, "width": manifest.image.width},
        "bundle_digest": model.digest,
    }


def _picture(request: Request, body: bytearray, settings: Settings) -> bytes | bytearray:
    """The picture in a body; call it in a thread, since large bodies take time."""
    encoding, kind = request.headers.get("content-encoding", ""), request.headers.get("content-type", "")
    return find_picture(unpack(body, encoding, settings.max_upload_bytes), kind)


async def _predict(
    request: Request, body: bytearray, model: ServedModel, graphs: Graphs, question: Question, deadline: float
) -> list[dict[str, Any]]:
    state, note, manifest = state_of(request), note_of(request), model.manifest
    before = note.elapsed_ms()
    limits = photo_limits(graphs.predict, manifest.input, state.settings.limits)
    decoded: list[Seen] = []

    def decode() -> dict[str, Array]:
        seen = see(partial(_picture, request, body, state.settings), limits, manifest)
        decoded.append(seen)
        return {"image": seen.image}

    submitted = graphs.predict.submit_undecoded(decode, ["logits"], deadline)
    answer: Answer = await answer_in_time(request, asyncio.wrap_future(submitted), deadline)
    (seen,), infer_ms = decoded, answer.infer_s * 1e3
    waited_ms = max(0.0, note.elapsed_ms() - before - seen.decode_ms - infer_ms)
    note.stages_ms.update(decode=seen.decode_ms, queue=waited_ms, infer=infer_ms)
    logits = answer.outputs["logits"][0]
    if logits.ndim > 1:  # a class for every pixel: too long for the event loop
        work = state.convert.run(partial(tell_logits, logits, seen, model, question.top))
        return await answer_in_time(request, work, deadline)
    return tell_logits(logits, seen, model, question.top)


def _about(model: ServedModel, precision: Precision, graphs: Graphs, note: Note) -> dict[str, Any]:
    return {"model": model.name, "precision": str(precision), "backend": graphs.backend, "request_id": note.request_id}


def _timing(note: Note) -> dict[str, float]:
    return {stage: round(spent, 3) for stage, spent in {**note.stages_ms, "total": note.elapsed_ms()}.items()}


def _sample_names(folder: Path | None) -> list[str]:
    """The pictures right in the folder, by name; links to elsewhere are none."""
    if folder is None:
        return []
    files = (entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file() and not entry.is_symlink())
    return sorted(entry.name for entry in files if not entry.name.startswith("."))
