"""LitServe round onnxruntime, with its dynamic batching. ``python -m benchmarks.serving_litserve BUNDLE PORT``."""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from benchmarks.serving_bare import Array, Bare

BATCH, TIMEOUT_S = 8, 0.002


class Api(litserve.LitAPI):  # type: ignore[misc]  # untyped
    """Decode, stack, run, rank."""

    def setup(self, device: str) -> None:
        """Open the session, in the worker's process."""
        self.bare = Bare(sys.argv[1])

    def decode_request(self, request: Request) -> Array:
        """A form's file as pixels of the network's size. LitServe gives the form where the annotation asks for a request."""
        return self.bare.pixels(request["image"].file.read())

    def batch(self, inputs: list[Array]) -> Array:
        """One array of all."""
        return np.stack(inputs)

    def predict(self, pixels: Array) -> Array:
        """One run."""
        return self.bare.predict(pixels)

    def unbatch(self, output: Array) -> list[Array]:
        """A row for each."""
        return list(output)

    def encode_response(self, output: Array) -> dict[str, Any]:
        """The same answer as the others give."""
        return self.bare.answer(output)


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=TIMEOUT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, track_requests=False)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
