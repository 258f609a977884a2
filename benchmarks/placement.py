"""Where deploykit, onnxruntime.quantization and NVIDIA Model Optimizer put Q/DQ pairs, counted on the same three graphs.

    python benchmarks/placement.py [--modelopt PYTHON]

Writes benchmarks/results/placement.json; deploykit/quantization/PLACEMENT.md says why the figures differ. Model Optimizer does not
share an environment with deploykit's versions: make one (``python -m venv mo && mo/bin/pip install 'nvidia-modelopt[onnx]'``) and
name its interpreter. Without it the figures of an earlier run stay in the file. Nothing is timed here, so a busy machine does no
harm.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.placement_counts import count_placement
from benchmarks.report import RESULTS, describe_machine, format_table, say, write_results

MODELS = ("resnet50", "densenet121", "efficientnet_b0")
PICTURES = 2
_MODELOPT = """
import sys, numpy as np, onnx
from importlib.metadata import version
from modelopt.onnx.quantization import quantize
path, pictures, output = sys.argv[1:]
quantize(path, quantize_mode="int8", calibration_data={"image": np.load(pictures)}, calibration_method="max",
         calibration_eps=["cpu"], output_path=output, high_precision_dtype="fp32")
print("modelopt " + version("nvidia-modelopt"))
"""
"""What runs in Model Optimizer's interpreter."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modelopt", type=Path, metavar="PYTHON", help="an interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this model; writes no result")
    options = parser.parse_args()
    target = RESULTS / "placement.json"
    earlier = json.loads(target.read_text()) if target.exists() else {"placement": {}}
    record: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        for model in options.model or MODELS:
            record[model] = _count_model(Path(name), model, options.modelopt)
            before = earlier["placement"].get(model, {})
            record[model] = {tool: before[tool] for tool in ("modelopt",) if tool in before} | record[model]
            print(f"{model}\n{_table(record[model])}\n")
    if not options.model:
        write_results(target, {"machine": describe_machine("onnxruntime", "onnx"), "placement": record})


def _count_model(folder: Path, model: str, modelopt: Path | None) -> dict[str, Any]:
    from deploykit.models.export import export_graph
    from deploykit.models.registry import load_model
    from deploykit.parity import sample_pictures

    say(f"{model}: exporting")
    loaded = load_model(model)
    graph = export_graph(loaded.model, loaded.image)
    path, pictures = folder / f"{model}.onnx", sample_pictures(PICTURES, loaded.image.height, loaded.image.width, seed=1)
    onnx.save(graph, path)
    np.save(folder / "pictures.npy", pictures)
    found = {"deploykit": count_placement(_quantize_here(graph))}
    say(f"{model}: onnxruntime.quantization")
    found["onnxruntime"] = count_placement(_quantize_onnxruntime(path, pictures))
    if modelopt is not None:
        say(f"{model}: NVIDIA Model Optimizer")
        output = folder / f"{model}-modelopt.onnx"
        command = [str(modelopt), "-c", _MODELOPT, str(path), str(folder / "pictures.npy"), str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not output.exists():
            raise RuntimeError(f"Model Optimizer failed: {done.stderr[-2000:]}")
        found["modelopt"] = count_placement(onnx.load(output)) | {"version": done.stdout.strip().splitlines()[-1]}
    return found


def _quantize_here(graph: onnx.ModelProto) -> onnx.ModelProto:
    """deploykit's; the scales differ from tensor to tensor, so that shared ones can be told."""
    from deploykit.quantization.placement import place
    from deploykit.quantization.qdq import quantize_graph

    placement = place(graph)
    thresholds = {name: 1 + i / 1000 for i, name in enumerate(placement.calibrated)}
    return quantize_graph(graph, placement, thresholds).graph


def _quantize_onnxruntime(path: Path, pictures: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """quantize_static with Q/DQ pairs, symmetric INT8 and scales per channel, all else as it comes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows: Iterator[dict[str, Any]] = iter([{"image": row[None]} for row in pictures])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rows, None)

    output = path.with_name(f"{path.stem}-ort.onnx")
    options = {"ActivationSymmetric": True, "WeightSymmetric": True}
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantize_static(path, output, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, extra_options=options, **kinds)
    return onnx.load(output)


def _table(found: dict[str, Any]) -> str:
    rows = []
    for key in next(iter(found.values())):
        cells = [found[tool].get(key, "") for tool in found]
        if key == "readers":
            names = sorted({name for cell in cells for name in cell})
            rows += [[f"  read by {name}", *(str(cell.get(name, 0)) for cell in cells)] for name in names]
        else:
            rows.append([key, *(json.dumps(cell) for cell in cells)])
    return format_table(["", *found], rows)


if __name__ == "__main__":
    main()
