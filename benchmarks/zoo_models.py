"""Some models of somebody else's through ``deploykit export``, for zoo.py: names in, a line of JSON for each out.

python -m benchmarks.zoo_models NAME...
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle
from deploykit.cli.main import run

SIZE = 96


def main() -> None:
    for name in sys.argv[1:]:
        print(json.dumps(try_model(name)), flush=True)


def try_model(name: str) -> dict[str, Any]:
    """Export at a small size; at the model's own where it does not take the small one."""
    start = time.perf_counter()
    row: dict[str, Any] = {"name": name}
    for size in (["--image-size", str(SIZE)], []):
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            path = Path(folder) / "bundle"
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = _export([name, "-o", str(path), *size])
            errors = [line.removeprefix("error: ") for line in said.getvalue().splitlines() if line.startswith("error: ")]
            row |= {"passed": code == 0, "reason": "" if code == 0 else (errors or [f"exit code {code}"])[-1]}
            if code == 0:
                manifest = Bundle.open(path).manifest
                explain = manifest.files["fp32/explain.onnx"].parity or {}
                predict = manifest.files["fp32/predict.onnx"].parity or {}
                row |= {
                    "size": manifest.image.height,
                    "parameters": manifest.model.parameters,
                    "layer": manifest.layers[0].name,
                    "parity": predict["relative_difference"],
                    "explain_parity": explain["relative_difference"],
                    "explain_reference": explain["reference"],
                }
                break
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def _export(arguments: list[str]) -> int:
    try:
        return run(["--quiet", "export", *arguments])
    except Exception as error:  # a defect of deploykit's: it is counted, with its class, and the next model is tried
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 70


if __name__ == "__main__":
    main()
