"""How ``deploykit build --repeat`` times a plan: on this machine's GPU, or not at all and why."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deploykit.bundle import Bundle, sha256_of
from deploykit.cli.bench_cases import PHOTO, call_of
from deploykit.cli.bench_plans import gpu_time_ms
from deploykit.engine.repeat import Timing
from deploykit.plan import PLAN_NAME, PlanFile, PlanRecord
from deploykit.runtime.trt import TrtSession
from deploykit.trt import find_gpu


def plan_timing(bundle: Bundle, record: PlanRecord, graph: str, plugins: tuple[Path, ...] = ()) -> Timing:
    """A timing of plans of a bundle's graph, ``predict`` or ``explain``, at the profile's ``opt``.

    Args:
        record: what the plans are for, without files.
        plugins: the libraries that the plans need.
    """
    gpu = find_gpu()
    if gpu is None:
        return Timing(None, reason="no NVIDIA GPU here that could run the plans")
    if gpu.sm != record.sm:
        return Timing(None, reason=f"the GPU here is {gpu.sm}, the plans are for {record.sm}")
    if record.stripped:
        return Timing(None, reason="plans without weights do not run")
    return Timing(_timer(bundle, record, graph, plugins), batch=record.batch.opt)


def _timer(bundle: Bundle, record: PlanRecord, graph: str, plugins: tuple[Path, ...]) -> Callable[[bytes], float]:
    photo = (record.sides.opt, record.sides.opt) if record.sides else PHOTO
    feeds, outputs = call_of(bundle, graph, record.batch.opt, photo)

    def time_plan(plan: bytes) -> float:
        file = PlanFile(sha256_of(plan), len(plan), f"{record.precision}/{graph}.onnx", "", 0, False, {}, {})
        # A session opens files, and checks a plan against its record.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{graph}.plan"
            path.write_bytes(plan)
            (path.parent / PLAN_NAME).write_text(replace(record, files={path.name: file}).to_text(), encoding="utf-8")
            with TrtSession(path, lanes=1, plugins=plugins) as session:
                return gpu_time_ms(session, feeds, outputs)

    return time_plan
