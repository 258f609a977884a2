"""From a bundle to measured cases: opens the sessions, makes the calls, interleaves them. Needs neither torch nor onnx."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploykit.benchmark.energy import Metered, gpu_meter, processor_meter
from deploykit.benchmark.machine import describe_machine, processor_state
from deploykit.benchmark.nvml import open_nvml, read_gpus
from deploykit.benchmark.report import Case, CaseResult, Report
from deploykit.benchmark.rounds import measure_sides
from deploykit.benchmark.timing import Burst, Side, Synchronous, in_process, time_callers
from deploykit.bundle import Bundle
from deploykit.errors import UsageError
from deploykit.image import load_pixels
from deploykit.parity import sample_pictures
from deploykit.runtime.classifier import graph_file, image_feed, open_predict
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.session import Session
from deploykit.spec import Precision

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "tensorrt", "tensorrt-rtx-cu13")
GRAPHS = ("predict", "explain")
EXPLAIN_OUTPUTS = ("logits", "explained_class", "cam")
"""What an explanation is served from; activations and gradients stay inside."""

SETTLE_MS = 20
"""A rest before each burst: the threads of the session before spin for some milliseconds, and would slow this one."""


@dataclass(frozen=True)
class Like:
    """A way to measure, named after the tool whose figures it can be held against.

    Args:
        includes: what stands between the two looks at the clock.
        warm_up_ms: at least; it also goes on until two bursts in a row agree.
        seconds: per case, unless told otherwise.
        callers: whether several callers are allowed.
    """

    includes: str
    warm_up_ms: float
    seconds: float
    callers: bool = True


# trtexec's defaults: --warmUp=200 --duration=3, one stream, one inference in flight. On a CPU nothing is copied to a device, no
# graph is captured and nobody waits for one, so there the two versions of trtexec measure the same.
LIKES: Mapping[str, Like] = {
    "deploykit": Like("checks of the arrays, copies, the run, results in host memory; no decoding", 0, 3),
    "trtexec10": Like("copies and the run, one call in flight, no CUDA graph, no spin-wait; no decoding", 200, 3, callers=False),
    "trtexec11": Like("the run without copies, one call in flight, CUDA graph, spin-wait; no decoding", 200, 3, callers=False),
}


@dataclass(frozen=True)
class Wanted:
    """What the user wants measured: every combination.

    Args:
        graphs: of `GRAPHS`. precisions: of the bundle's. batches: images of a call. concurrencies: callers at once.
        provider: ONNX Runtime's. threads: of one run; 0 for every core.
        like: a key of `LIKES`. seconds: per case.
    """

    graphs: tuple[str, ...]
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    concurrencies: tuple[int, ...]
    provider: str
    threads: int
    like: str
    seconds: float

    def __post_init__(self) -> None:
        if not LIKES[self.like].callers and self.concurrencies != (1,):
            raise UsageError(f"--like {self.like} has one call in flight, and --concurrency asks for {max(self.concurrencies)}")

    @property
    def cases(self) -> int:
        """How many there are, preprocessing included."""
        return 1 + len(self.graphs) * len(self.precisions) * len(self.batches) * len(self.concurrencies)

    @property
    def rounds(self) -> int:
        """Of about 0.3 s each, and at least ten, so that a difference can be told from noise."""
        return max(10, round(self.seconds / 0.3))


def run_benchmark(bundle: Bundle, wanted: Wanted, on_step: Callable[[], object]) -> Report:
    """Measure everything in one run, the rounds of all cases interleaved.

    Args:
        on_step: called `Wanted.cases` x (`Wanted.rounds` + 1) times.

    Raises:
        SessionError, MeasurementError: a session does not open, a call fails, or a device cannot be timed.
    """
    like = LIKES[wanted.like]
    with open_nvml() as nvml, _open_sides(bundle, wanted) as sides:
        before = [gpu.to_json() for gpu in read_gpus(nvml)]
        meter = gpu_meter(nvml) if wanted.provider in ("cuda", "tensorrt") else processor_meter()
        metered = {case: Metered(side, case.batch, meter) for case, side in sides.items()}
        measured = measure_sides(
            {case.title: side for case, side in metered.items()},
            rounds=wanted.rounds,
            burst_ms=wanted.seconds * 1e3 / wanted.rounds,
            settle_ms=SETTLE_MS,
            warm_up_ms=like.warm_up_ms,
            on_step=on_step,
        )
        machine = describe_machine(*PACKAGES) | {"processor": processor_state(), "gpu": [gpu["name"] for gpu in before] or None}
        machine["gpus_before"], machine["gpus_after"] = before, [gpu.to_json() for gpu in read_gpus(nvml)]
        results = tuple(
            CaseResult(
                case,
                measured.bursts[case.title],
                measured.other_cores,
                measured.kept,
                measured.is_quiet,
                case.title not in measured.unstable,
                metered[case].images_per_joule,
            )
            for case in metered
        )
    method = {"like": wanted.like, "includes": like.includes, "seconds": wanted.seconds, "rounds": wanted.rounds}
    method |= {"settle_ms": SETTLE_MS, "warm_up_ms": like.warm_up_ms, "clock": "perf_counter"}
    return Report(_subject(bundle), machine, method, results)


@contextlib.contextmanager
def _open_sides(bundle: Bundle, wanted: Wanted) -> Iterator[dict[Case, Side]]:
    """A side for each case; cases of one graph and precision share a session."""
    sides: dict[Case, Side] = {Case("preprocess", "pillow", ""): _preprocess(bundle)}
    with contextlib.ExitStack() as stack:
        for graph in wanted.graphs:
            for precision in wanted.precisions:
                session = stack.enter_context(_open(bundle, graph, precision, wanted))
                for batch in wanted.batches:
                    call = partial(_call, session, _feeds(bundle, graph, batch), _outputs(graph))
                    for callers in wanted.concurrencies:
                        case = Case(graph, session.backend, str(precision), batch, wanted.threads, callers)
                        sides[case] = partial(_burst, call, callers)
        yield sides


def _open(bundle: Bundle, graph: str, precision: Precision, wanted: Wanted) -> OrtSession:
    if graph == "predict":
        return open_predict(bundle, precision, provider=wanted.provider, threads=wanted.threads)
    return OrtSession(
        graph_file(bundle, precision, graph, provider=wanted.provider), provider=wanted.provider, threads=wanted.threads
    )


def _feeds(bundle: Bundle, graph: str, batch: int) -> dict[str, Any]:
    image = bundle.manifest.image
    feeds: dict[str, Any] = {"image": image_feed(image, bundle.manifest.input, sample_pictures(batch, image.height, image.width))}
    return feeds if graph == "predict" else feeds | {"class_index": np.full(batch, -1, np.int64)}


def _outputs(graph: str) -> Sequence[str]:
    return ("logits",) if graph == "predict" else EXPLAIN_OUTPUTS


def _call(session: Session, feeds: Mapping[str, Any], outputs: Sequence[str]) -> object:
    return session.run(feeds, outputs)


def _burst(call: Callable[[], object], callers: int, calls: int) -> Burst:
    return time_callers([Synchronous(call)] * callers, max(calls, callers))


def _preprocess(bundle: Bundle) -> Side:
    """Decode, resize and crop one photo of a megapixel, as a JPEG in memory."""
    data = io.BytesIO()
    Image.fromarray(sample_pictures(1, 866, 1155)[0]).save(data, "JPEG", quality=90)
    return in_process(partial(load_pixels, data.getvalue(), bundle.manifest.image))


def _subject(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    graphs = {name: record.sha256 for name, record in manifest.files.items() if Path(name).suffix == ".onnx"}
    return {
        "bundle": str(bundle.path),
        "model": manifest.model.name,
        "trained": manifest.weights.trained,
        "weights_sha256": manifest.weights.sha256,
        "image": [manifest.image.height, manifest.image.width],
        "input": manifest.input,
        "graphs": graphs,
    }
