"""From a bundle to measured cases: opens the sessions, makes the calls, interleaves them. Needs neither torch nor onnx."""

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploykit.benchmark.energy import Metered, ReadMillijoules, gpu_meter, processor_meter
from deploykit.benchmark.machine import describe_machine, processor_state
from deploykit.benchmark.nvml import open_nvml, read_gpus
from deploykit.benchmark.report import Case, CaseResult, Report
from deploykit.benchmark.rounds import measure_sides
from deploykit.benchmark.timing import Burst, Side, Synchronous, in_process, time_callers
from deploykit.bundle import Bundle
from deploykit.cli.bench_plans import TRTEXEC, add_spans, open_plan, plan_side
from deploykit.errors import UsageError
from deploykit.image import load_pixels
from deploykit.parity import sample_pictures
from deploykit.runtime.classifier import image_feed
from deploykit.runtime.opening import Answering, open_session
from deploykit.runtime.session import Session

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "cuda-core")
EXPLAIN_OUTPUTS = ("logits", "explained_class", "cam")
"""What an explanation is served from; activations and gradients stay inside."""

PHOTO = (866, 1155)
"""Height and width of the photo of a megapixel that is decoded, or that graphs which resize photos are given."""

SETTLE_MS = 20
"""A rest before each burst: the threads of the session before spin for some milliseconds, and would slow this one."""


@dataclass(frozen=True)
class Like:
    """A way to measure, named after the tool whose figures it can be held against.

    Args:
        warm_up_ms: at least; it also goes on until two bursts in a row agree.
        callers: whether several callers are allowed.
        devices: whether ONNX Runtime's providers for devices can be measured in this way; TensorRT's plans always can.
    """

    warm_up_ms: float = 0
    callers: bool = True
    devices: bool = True


# trtexec's defaults: --warmUp=200, one stream, one inference in flight. 10 times the copies and the run, as a session on a device
# does; 11 leaves the copies out and replays a CUDA graph, which plans do (`deploykit.cli.bench_plans`) and ONNX Runtime's providers
# are not asked to do here. On a CPU nothing is copied and no graph is captured, so there both are the run alone.
LIKES: Mapping[str, Like] = {
    "deploykit": Like(),
    "trtexec10": Like(200, callers=False),
    "trtexec11": Like(200, callers=False, devices=False),
}


@dataclass(frozen=True)
class Wanted:
    """What the user wants measured: every combination.

    Args:
        graphs: of `ANSWERING_GRAPHS`. answers: what answers, at which precision.
        batches: images of a call. concurrencies: callers at once.
        like: a key of `LIKES`. seconds: per case.
    """

    graphs: tuple[str, ...]
    answers: tuple[Answering, ...]
    batches: tuple[int, ...]
    concurrencies: tuple[int, ...]
    like: str
    seconds: float

    def __post_init__(self) -> None:
        like = LIKES[self.like]
        if not like.callers and self.concurrencies != (1,):
            raise UsageError(f"--like {self.like} has one call in flight, and --concurrency asks for {max(self.concurrencies)}")
        devices = sorted({answer.provider for answer in self.answers} - {"cpu"})
        if not like.devices and devices:
            raise UsageError(
                f"--like {self.like} leaves copies out and replays a CUDA graph, and {', '.join(devices)} does neither here",
                hint="--like trtexec10 counts copies; or measure with --provider cpu",
            )

    @property
    def cases(self) -> int:
        """How many there are, preprocessing included."""
        return 1 + math.prod(map(len, (self.graphs, self.answers, self.batches, self.concurrencies)))

    @property
    def rounds(self) -> int:
        """Of about 0.3 s each, and at least ten, so that a difference can be told from noise."""
        return max(10, round(self.seconds / 0.3))

    @property
    def includes(self) -> str:
        """What stands between the two looks at the clock, in words."""
        plans = any(answer.takes_plan for answer in self.answers)
        if plans and self.like in TRTEXEC:
            return f"of plans, {' + '.join(TRTEXEC[self.like])} by the GPU's events; of graphs, the whole call"
        copies = "copies to and from the device, " if plans or {answer.provider for answer in self.answers} != {"cpu"} else ""
        return f"checks of the arrays, {copies}the run, results in host memory; no decoding"


def run_benchmark(bundle: Bundle, wanted: Wanted, on_step: Callable[[], object]) -> Report:
    """Measure everything in one run, the rounds of all cases interleaved.

    Args:
        on_step: called `Wanted.cases` x (`Wanted.rounds` + 1) times.

    Raises:
        SessionError, MeasurementError: a session does not open, a call fails, or a device cannot be timed.
    """
    like = LIKES[wanted.like]
    with contextlib.ExitStack() as stack:
        nvml = stack.enter_context(open_nvml())
        before = [gpu.to_json() for gpu in read_gpus(nvml)]
        # One counter for all cases: a figure of the processor beside one of the GPU would invite to compare them.
        meter = gpu_meter(nvml) if before else processor_meter()
        sides = stack.enter_context(_open_sides(bundle, wanted, meter))
        measured = measure_sides(
            {case.title: weighed.side for case, weighed in sides.items()},
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
                weighed.metered.images_per_joule,
            )
            for case, weighed in sides.items()
        )
    method = {"like": wanted.like, "includes": wanted.includes, "seconds": wanted.seconds, "rounds": wanted.rounds}
    method |= {"settle_ms": SETTLE_MS, "warm_up_ms": like.warm_up_ms, "clock": "perf_counter"}
    return Report(_subject(bundle), machine, method, results)


@dataclass(frozen=True)
class _Weighed:
    """A side, and the part of it whose energy is counted."""

    side: Side
    metered: Metered


@contextlib.contextmanager
def _open_sides(bundle: Bundle, wanted: Wanted, meter: ReadMillijoules) -> Iterator[dict[Case, _Weighed]]:
    """A side for each case; cases of one graph and what answers share a session."""
    preprocess = Metered(_preprocess(bundle), 1, meter)
    sides = {Case("preprocess", "pillow", ""): _Weighed(preprocess, preprocess)}
    callers = max(wanted.concurrencies)
    with contextlib.ExitStack() as stack:
        for graph, answer in itertools.product(wanted.graphs, wanted.answers):
            precision, plan = str(answer.precision), None
            if answer.takes_plan:
                plan = stack.enter_context(open_plan(bundle, graph, precision, str(answer.backend), wanted.like, callers))
            session: Session = plan or stack.enter_context(contextlib.closing(open_session(bundle, graph, answer)))
            for batch, concurrency in itertools.product(wanted.batches, wanted.concurrencies):
                feeds, outputs = call_of(bundle, graph, batch)
                case = Case(graph, session.backend, precision, batch, answer.threads, concurrency)
                if plan is None:
                    metered = Metered(partial(_burst, partial(_call, session, feeds, outputs), concurrency), batch, meter)
                    sides[case] = _Weighed(metered, metered)
                    continue
                metered = Metered(plan_side(plan, feeds, outputs, concurrency, wanted.like), batch, meter)
                whole = wanted.like not in TRTEXEC
                sides[case] = _Weighed(add_spans(plan, feeds, outputs, metered) if whole else metered, metered)
        yield sides


def call_of(bundle: Bundle, graph: str, batch: int, photo: tuple[int, int] = PHOTO) -> tuple[dict[str, Any], Sequence[str]]:
    """What a graph is given and asked for: made-up pictures, each row's own top-1, and what an answer is served from.

    Args:
        photo: height and width of pictures for graphs that resize them.
    """
    manifest = bundle.manifest
    feeds: dict[str, Any] = {
        "image": image_feed(manifest.image, manifest.input, sample_pictures(batch, *_input_size(bundle, photo)))
    }
    if graph == "predict":
        return feeds, ("logits",)
    return feeds | {"class_index": np.full(batch, -1, np.int64)}, EXPLAIN_OUTPUTS


def _input_size(bundle: Bundle, photo: tuple[int, int] = PHOTO) -> tuple[int, int]:
    """Height and width of what the graphs are given."""
    image = bundle.manifest.image
    return photo if bundle.manifest.input == "photo" else (image.height, image.width)


def _call(session: Session, feeds: Mapping[str, Any], outputs: Sequence[str]) -> object:
    return session.run(feeds, outputs)


def _burst(call: Callable[[], object], callers: int, calls: int) -> Burst:
    return time_callers([Synchronous(call)] * callers, max(calls, callers))


def _preprocess(bundle: Bundle) -> Side:
    """Decode, resize and crop one photo of a megapixel, as a JPEG in memory; decode it only, where the graphs do the rest."""
    data = io.BytesIO()
    Image.fromarray(sample_pictures(1, *PHOTO)[0]).save(data, "JPEG", quality=90)
    return in_process(partial(load_pixels, data.getvalue(), bundle.manifest.image, input_kind=bundle.manifest.input))


def _subject(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    graphs = {name: record.sha256 for name, record in manifest.files.items() if Path(name).suffix == ".onnx"}
    return {
        "bundle": str(bundle.path),
        "model": manifest.model.name,
        "trained": manifest.weights.trained,
        "weights_sha256": manifest.weights.sha256,
        "image": list(_input_size(bundle)),
        "input": manifest.input,
        "graphs": graphs,
    }
