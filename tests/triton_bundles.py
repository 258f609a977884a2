"""What turns small bundles into those that model repositories are made from: golden pictures, plans, and no explain graph."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.bundle import Bundle, extend_bundle, sha256_of
from deploykit.plan import BatchRange, PlanFile, PlanRecord
from deploykit.spec import Precision

PLAN = b"ftrt" + bytes(20) + bytes((10, 13, 3, 9)) + b"an engine"
"""A plan as far as its header goes: TensorRT 10.13.3.9. Nothing loads it."""


def with_golden(path: Path) -> Path:
    """Add golden pictures, 32 x 32, to a bundle of three classes."""
    data = io.BytesIO()
    image = np.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).astype(np.uint8)
    np.savez(data, image=image, logits=np.zeros((2, 3), np.float32))
    with extend_bundle(path) as stage:
        stage.add("golden.npz", data.getvalue())
    return path


def without_explain(path: Path) -> Path:
    """Leave the predict graph alone in a bundle, as ``export --no-explain`` does."""
    with extend_bundle(path) as stage:
        kept = {name: record for name, record in stage.manifest.files.items() if "explain" not in name}
        stage.manifest = replace(stage.manifest, files=kept, layers=())
    return path


def add_plans(bundle: Path, backend: str = "tensorrt", batch: BatchRange | None = None, **changes: Any) -> PlanRecord:
    """Add plans of both graphs, as ``deploykit build`` does on a machine with a GPU."""
    graphs = {f"{name}.plan": f"fp32/{name}.onnx" for name in ("predict", "explain")}
    opened = Bundle.open(bundle).manifest.files
    files = {
        plan: PlanFile(sha256_of(PLAN), len(PLAN), graph, opened[graph].sha256, 1.0, False, {}, {})
        for plan, graph in graphs.items()
    }
    values: dict[str, Any] = {"version": "10.13.3.9", "sm": "sm86", "gpu": None, "precision": Precision.FP32, **changes}
    record = PlanRecord(backend=backend, batch=batch or BatchRange(1, 4, 16), files=files, **values)
    with extend_bundle(bundle) as stage:
        for plan, graph in graphs.items():
            stage.add(f"{record.folder}/{plan}", PLAN, made_from={graph: opened[graph].sha256})
        stage.add(f"{record.folder}/plan.json", record.to_text().encode())
    return record
