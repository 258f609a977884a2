"""What the peers of serving.py have round their endpoint: onnxruntime and Pillow by hand, as their authors would; no deploykit.

In: a picture's bytes. Out: the five likeliest classes. The graph, the labels and the image spec are the bundle's, so all sides
answer alike.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

Array = npt.NDArray[Any]


class Bare:
    """A session with its labels."""

    def __init__(self, bundle: str) -> None:
        folder = Path(bundle)
        self.session = onnxruntime.InferenceSession(str(folder / "fp32" / "predict.onnx"), providers=["CPUExecutionProvider"])
        self.labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.spec = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["image"]

    def pixels(self, data: bytes) -> Array:
        """The shorter side to its size, then the centre: uint8 [H, W, 3]."""
        spec = self.spec
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = spec["resize_size"] / min(image.size)
        size = (int(image.width * scale), int(image.height * scale))
        image = image.resize(size, Image.Resampling[spec["interpolation"].upper()])
        x, y = round((image.width - spec["width"]) / 2), round((image.height - spec["height"]) / 2)
        return np.asarray(image.crop((x, y, x + spec["width"], y + spec["height"])))

    def predict(self, pixels: Array) -> Array:
        """Probabilities [N, K] of pixels [N, H, W, 3]."""
        logits = self.session.run(["logits"], {"image": pixels})[0]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def answer(self, probabilities: Array) -> dict[str, Any]:
        """The five likeliest classes of one row."""
        best = np.argsort(-probabilities)[:5]
        found = [{"class_index": int(i), "label": self.labels[i], "probability": float(probabilities[i])} for i in best]
        return {"predictions": found}
