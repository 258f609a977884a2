"""The peer that most people write: one FastAPI endpoint round onnxruntime. ``python -m benchmarks.serving_fastapi BUNDLE PORT``."""

import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File

from benchmarks.serving_bare import Bare

app = FastAPI()
bundle, port = sys.argv[1:]
bare = Bare(bundle)


@app.post("/predict")
def predict(image: Annotated[bytes, File()]) -> dict[str, Any]:
    """Not async, so FastAPI runs it in a thread: an async one would keep the loop from reading while the network runs."""
    return bare.answer(bare.predict(bare.pixels(image)[None])[0])


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
