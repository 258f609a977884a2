"""One calibration in a process of its own, so that its peak of memory is its own. In: a job as JSON. Out: a line of JSON.

    python -m benchmarks.calibration_sides '{"side": "deploykit", "graph": ..., "pictures": ..., "count": 64, "limit_bytes": ...}'

What is timed: from a graph file to thresholds, session included; imports are not. Pictures stand decoded in a file and are read one
after the other, so that neither side holds them all.
"""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Thresholds = Mapping[str, Mapping[str, float]]
"""By method and tensor."""

PERCENTILE = 99.99


@dataclass(frozen=True)
class Job:
    """What a process is to do.

    Args:
        side: a key of `SIDES`.
        graph: a predict graph that takes pixels.
        pictures: a file of uint8 [N, H, W, 3].
        height, width: of the pictures.
        count: how many of them.
        limit_bytes: of address space.
    """

    side: str
    graph: str
    pictures: str
    height: int
    width: int
    count: int
    limit_bytes: int

    def picture(self, index: int, count: int = 1) -> Array:
        """Some pictures, read from the file, uint8 [count, H, W, 3]."""
        size = self.height * self.width * 3
        flat = np.fromfile(self.pictures, np.uint8, count * size, offset=index * size)
        return flat.reshape(count, self.height, self.width, 3)


def run_deploykit(job: Job, *, placed: bool) -> Thresholds:
    """All methods of deploykit at once, on every float tensor, or on those that `deploykit quantize` asks for."""
    from deploykit.graph.exposure import batch_size_for
    from deploykit.graph.files import read_graph
    from deploykit.quantization.calibrate import Batch, collect, expose
    from deploykit.quantization.methods import METHODS, thresholds
    from deploykit.quantization.placement import place
    from deploykit.runtime.ort import OrtSession

    graph = read_graph(Path(job.graph))
    names = list(place(graph).calibrated) if placed else float_tensors(graph)
    size = batch_size_for(graph, names)
    exposed = expose(graph, names).SerializeToString()

    def batches() -> Iterator[Batch]:
        for start in range(0, job.count, size):
            rows = job.picture(start, min(size, job.count - start))
            yield Batch(tuple(map(str, range(start, start + len(rows)))), {"image": rows})

    with OrtSession(exposed) as session:
        histograms = collect(lambda feeds: session.run(feeds, names), names, batches())
    return {method: thresholds(histograms, method, PERCENTILE) for method in METHODS}


def float_tensors(graph: Any) -> list[str]:
    """Every float32 tensor that a node makes: what onnxruntime's calibrators take where nothing else is said."""
    from onnx import TensorProto

    from deploykit.graph.tensors import describe_tensors

    tensors = describe_tensors(graph)
    return [name for name in tensors.producers if name not in tensors.constants and tensors.types.get(name) == TensorProto.FLOAT]


def run_onnxruntime(job: Job, *, method: str, at_a_time: int | None = None) -> Thresholds:
    """One calibrator of onnxruntime.quantization, symmetric, its other options as `quantize_static` leaves them.

    Args:
        method: ``MinMax``, ``Percentile`` or ``Entropy``.
        at_a_time: give it so many pictures per call of ``collect_data``, which `quantize_static` does not do; None for all.
    """
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, indices: range) -> None:
            self._indices = iter(indices)

        def get_next(self) -> dict[str, Array] | None:
            index = next(self._indices, None)
            return None if index is None else {"image": job.picture(index)}

    options: dict[str, Any] = {"symmetric": True} | ({"percentile": PERCENTILE} if method == "Percentile" else {})
    augmented = Path(job.pictures).with_suffix(f".{method}.onnx")
    with contextlib.redirect_stdout(sys.stderr):
        calibrator = create_calibrator(job.graph, None, str(augmented), CalibrationMethod[method], extra_options=options)
        step = at_a_time or job.count
        for start in range(0, job.count, step):
            calibrator.collect_data(Reader(range(start, min(start + step, job.count))))
        found = calibrator.compute_data()
    return {method.lower(): {name: max(float(np.abs(bound).max()) for bound in data.range_value) for name, data in found.items()}}


SIDES: Mapping[str, Callable[[Job], Thresholds]] = {
    "deploykit": partial(run_deploykit, placed=False),
    "deploykit, placed tensors": partial(run_deploykit, placed=True),
    "onnxruntime minmax": partial(run_onnxruntime, method="MinMax"),
    "onnxruntime percentile": partial(run_onnxruntime, method="Percentile"),
    "onnxruntime percentile, 8 at a time": partial(run_onnxruntime, method="Percentile", at_a_time=8),
    "onnxruntime entropy": partial(run_onnxruntime, method="Entropy"),
}


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    import_packages(job)
    resource.setrlimit(resource.RLIMIT_AS, (job.limit_bytes, job.limit_bytes))
    start = time.perf_counter()
    try:
        thresholds = SIDES[job.side](job)
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        said = " ".join(str(error).split())
        said = said[max(said.find("Failed to allocate"), 0) :][:120]  # onnxruntime names its source file first
        print(json.dumps({"out_of_memory": f"{type(error).__name__}: {said}"}))
        return
    wall_ms = (time.perf_counter() - start) * 1e3
    print(json.dumps({"wall_ms": wall_ms, "peak_mb": peak_mb(), "thresholds": thresholds}))


def import_packages(job: Job) -> None:
    """Import what the side needs before its clock starts."""
    import onnxruntime

    if job.side.startswith("deploykit"):
        from deploykit.quantization import calibrate, methods, placement
        from deploykit.runtime import ort

        _ = calibrate, methods, placement, ort
    else:
        from onnxruntime.quantization import calibrate as theirs

        _ = theirs
    _ = onnxruntime


def peak_mb() -> float | None:
    """The process's own peak of resident memory; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
