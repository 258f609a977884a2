"""The graph's answers in; names, probabilities and the heat map out, as `deploykit predict` and `explain` give them.

Runs in Triton's process, on deploykit's runtime; the bundle's manifest.json and, where it has one, labels.txt stand beside this
file. ``top`` in config.pbtxt says how many classes are named.

    logits             float32 [N, K]
 -> labels             bytes [N, top], class_indices int64 [N, top], probabilities float32 [N, top]: best first

and from the explain graph:

    explained_class    int64 [N, 1], cam float32 [N, h, w]
 -> explained_label    bytes [N, 1], explained_probability float32 [N, 1]
    map                float32 [N, H, W], 0 to 1, at the network's size; zeros where has_evidence (bool [N, 1]) is false

What it is given is an output too, unchanged.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it

from deploykit.bundle import Manifest
from deploykit.errors import DeploykitError
from deploykit.integrations.triton.answers import check_numpy, refusal, requested, response
from deploykit.runtime.classifier import predictions_of, rank_logits
from deploykit.runtime.maps import has_evidence, normalize_map
from deploykit.runtime.session import Array


class TritonPythonModel:
    """What Triton calls; its name and methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the manifest and the labels."""
        check_numpy(pb_utils)
        folder = Path(args["model_repository"]) / args["model_version"]
        self._manifest = Manifest.from_text((folder / "manifest.json").read_text(encoding="utf-8"), folder / "manifest.json")
        labels = folder / "labels.txt"
        self._labels = labels.read_text(encoding="utf-8").split("\n")[:-1] if labels.exists() else None
        self._top = int(json.loads(args["model_config"])["parameters"]["top"]["string_value"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request, or say what is wrong with it."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given, wanted = requested(request)
        try:
            found = given | name_classes(given["logits"], self._labels, self._top)
            if "cam" in given:
                found |= show_evidence(given, self._labels, self._manifest)
            return response(pb_utils, found, wanted)
        except DeploykitError as error:
            return refusal(pb_utils, error)


def name_classes(logits: Array, labels: Sequence[str] | None, top: int) -> dict[str, Array]:
    """The likeliest classes.

    Raises:
        SessionError: NaN or infinity.
    """
    rows = rank_logits(logits, labels, top)
    return {
        "labels": np.array([[p.label.encode() for p in row] for row in rows], np.object_),
        "class_indices": np.array([[p.class_index for p in row] for row in rows], np.int64),
        "probabilities": np.array([[p.probability for p in row] for row in rows], np.float32),
    }


def show_evidence(given: Mapping[str, Array], labels: Sequence[str] | None, manifest: Manifest) -> dict[str, Array]:
    """The explained class, and its map.

    Raises:
        InputError: a map with NaN or infinity.
    """
    explained = [
        predictions_of(row, index, labels)[0] for row, index in zip(given["logits"], given["explained_class"], strict=True)
    ]
    return {
        "explained_label": np.array([[p.label.encode()] for p in explained], np.object_),
        "explained_probability": np.array([[p.probability] for p in explained], np.float32),
        "map": normalize_map(given["cam"], manifest.image.height, manifest.image.width),
        "has_evidence": has_evidence(given["cam"])[:, None],
    }
