"""Plans as far as a model repository looks at them: what ``deploykit build`` would add to a bundle on a machine with a GPU."""

from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle, extend_bundle, sha256_of
from deploykit.plan import BatchRange, PlanFile, PlanRecord
from deploykit.spec import Precision

PLAN = b"ftrt" + bytes(20) + bytes((10, 13, 3, 9)) + b"an engine"
"""A plan as far as its header goes: TensorRT 10.13.3.9. Nothing here loads it."""


def add_plans(bundle: Path, backend: str = "tensorrt", batch: BatchRange | None = None, **changes: Any) -> PlanRecord:
    """Plans of both graphs, as ``deploykit build`` adds them."""
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
