"""Bundles behind HTTP: the Open Inference Protocol for programs, ``/v1`` for people, and a page. Starlette and uvicorn.

    settings.py      what a server is told: limits, times, batching
    batch_queue.py   which waiting requests share a run; batcher.py decodes and runs them; pool.py draws and converts
    served_model.py  one generation of a bundle, opened and checked; repository.py replaces it while requests go on
    cores.py, rows.py, large_pages.py                         what makes a run quick on a CPU
    tensors.py, protocol.py, model_config.py, inference.py    /v2
    uploads.py, questions.py, pictures.py, people.py          /v1
    site.py, openapi.py, page/, docs/                         the page and the description
    gate.py, failures.py, waiting.py, state.py                what every request passes
    metrics.py, logs.py                                       what is told about requests
    app.py, run.py, connections.py, stopping.py               the application, and the process that serves it

A request's way: gate -> route -> lease of a model -> bounded body -> batcher (decoding, a run) -> answer.
"""
