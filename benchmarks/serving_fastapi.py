"""The peer that most people write: one FastAPI endpoint round a session. ``python -m benchmarks.serving_fastapi BUNDLE PORT``.

Pictures are decoded, resized and ranked by deploykit's own functions, as in the other sides: what differs is the serving alone.
"""

import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File

from deploykit.runtime import Classifier

app = FastAPI()
bundle, port = sys.argv[1:]
classifier = Classifier.open(bundle)


@app.post("/predict")
def predict(image: Annotated[bytes, File()]) -> dict[str, Any]:
    """Not async, so FastAPI runs it in a thread: an async one would keep the loop from reading while the network runs."""
    found = classifier.classify(image, top=5)
    return {"predictions": [{"class_index": p.class_index, "label": p.label, "probability": p.probability} for p in found]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
