"""LitServe round the same classifier, with its dynamic batching. ``python -m benchmarks.serving_litserve BUNDLE PORT``.

Pictures are decoded, resized and ranked by deploykit's own functions, as in the other sides: what differs is the serving alone.
"""

import sys
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt
from fastapi import Request

from deploykit.image import load_pixels
from deploykit.runtime import Classifier, Prediction

BATCH, TIMEOUT_S = 8, 0.002


class Api(litserve.LitAPI):  # type: ignore[misc]  # untyped
    """Decode, stack, run, rank."""

    def setup(self, device: str) -> None:
        """Open the bundle, in the worker's process."""
        self.classifier = Classifier.open(sys.argv[1])

    def decode_request(self, request: Request) -> npt.NDArray[np.uint8]:
        """A form's file as pixels of the network's size. LitServe gives the form where the annotation asks for a request."""
        return load_pixels(request["image"].file.read(), self.classifier.manifest.image)

    def batch(self, inputs: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """One array of all."""
        return np.stack(inputs)

    def predict(self, pixels: npt.NDArray[np.uint8]) -> list[list[Prediction]]:
        """One run, ranked."""
        return self.classifier.rank(self.classifier.logits(pixels), 5)

    def unbatch(self, output: list[list[Prediction]]) -> list[list[Prediction]]:
        """They are apart already."""
        return output

    def encode_response(self, output: list[Prediction]) -> dict[str, Any]:
        """The same answer as the others give."""
        return {"predictions": [{"class_index": p.class_index, "label": p.label, "probability": p.probability} for p in output]}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, track_requests=False)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
