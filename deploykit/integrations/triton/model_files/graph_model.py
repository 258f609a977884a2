"""A bundle's predict or explain graph behind Triton's Python backend: the graph's own tensors in and out.

Runs in Triton's process, on deploykit's runtime, with the graph beside this file. Parameters in config.pbtxt: ``graph`` (the file),
``provider`` and ``threads`` (of ONNX Runtime), ``merge_requests``.

Triton hands over several requests at a time. On a CPU each is answered by a run of its own, so no answer depends, in its last bits,
on who else was asking, and nothing is lost: a picture of EfficientNet-Lite0 or ResNet-18 costs as much CPU time alone as in a batch
of 8, within 6 %. With ``merge_requests`` they are put into one batch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it

from deploykit.errors import DeploykitError, SessionError
from deploykit.integrations.triton.answers import check_numpy, refusal, requested, response
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import Array, Session


class TritonPythonModel:
    """What Triton calls; its name and methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session."""
        check_numpy(pb_utils)
        parameters = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        threads = int(parameters["threads"])
        self._session: Session = OrtSession(folder / parameters["graph"], provider=parameters["provider"], threads=threads)
        self._merges = parameters["merge_requests"] == "true"

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request, or say what is wrong with it."""
        asked = [requested(request) for request in requests]
        if self._merges and len(asked) > 1:
            try:
                merged = run_merged(self._session, asked)
                return [response(pb_utils, found, wanted) for found, (_, wanted) in zip(merged, asked, strict=True)]
            except DeploykitError:
                pass  # One bad request must not cost the others their answers; below each is told for itself.
        return [self._answer(feeds, wanted) for feeds, wanted in asked]

    def finalize(self) -> None:
        """Close the session."""
        self._session.close()

    def _answer(self, feeds: Mapping[str, Array], wanted: list[str]) -> Any:
        try:
            return response(pb_utils, run_one(self._session, feeds, wanted), wanted)
        except DeploykitError as error:
            return refusal(pb_utils, error)


def run_one(session: Session, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """One run.

    Raises:
        SessionError: the network answers with NaN or infinity.
        InputError: an array that the graph does not take.
    """
    found = session.run(feeds, outputs)
    if "logits" in found and not np.isfinite(found["logits"]).all():
        raise SessionError("the network answers with NaN or infinity", hint="write the repository with --precision fp32")
    return found


def run_merged(session: Session, asked: Sequence[tuple[Mapping[str, Array], Sequence[str]]]) -> list[dict[str, Array]]:
    """The answers of several requests from one run, each request's rows and outputs for itself."""
    names = sorted({name for _, outputs in asked for name in outputs})
    merged = {name: np.concatenate([feeds[name] for feeds, _ in asked]) for name in asked[0][0]}
    found = run_one(session, merged, names)
    ends = np.cumsum([len(next(iter(feeds.values()))) for feeds, _ in asked])[:-1]
    parts = {name: np.split(found[name], ends) for name in names}
    return [{name: parts[name][row] for name in outputs} for row, (_, outputs) in enumerate(asked)]
