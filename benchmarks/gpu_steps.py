"""The steps of a GPU check: what is here in, commands in order out. Each is a process of its own with a limit of its own.

The order is by what a reader wants to know first: are the tests green, does the first network build, answer and run fast; then the
others; then what it is compared with. What the time does not suffice for is cut from the end.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODELS = ("resnet50", "efficientnet_b0", "efficientnet_b3")
PRECISIONS = ("fp32", "fp16", "int8")
BATCH, BATCHES = "1:8:32", (1, 8, 32)


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        name: what it does, such as ``build resnet50 fp16 tensorrt-rtx``. kind: its first word.
        command: what is run. limit_s: it is ended after that long.
        needs: names of steps that must have succeeded.
        output: the JSON file that it writes; None reads its stdout as JSON, where that is JSON.
        facts: what it is about, for the report.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float
    needs: tuple[str, ...] = ()
    output: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it does, in a word."""
        return self.name.split()[0]


@dataclass(frozen=True)
class Here:
    """What this machine has.

    Args:
        bundles: the folder of prepared bundles, one for each model. outputs: where files of steps go.
        backends: TensorRT's products, installed.
        tests: files of tests/gpu whose imports are here; none where pytest is not.
        ort_cuda: whether ONNX Runtime's CUDA provider starts. has_torch: whether torch sees the GPU. trtexec: its path.
    """

    bundles: Path
    outputs: Path
    backends: tuple[str, ...]
    tests: tuple[str, ...] = ()
    ort_cuda: bool = False
    has_torch: bool = False
    trtexec: str | None = None


def plan_steps(here: Here, models: Sequence[str] = MODELS, precisions: Sequence[str] = PRECISIONS) -> list[Step]:
    """All steps, the most telling first."""
    steps: list[Step] = []
    if here.tests:
        steps.append(Step("tests tests/gpu", (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *here.tests), 120))
    for model in models:
        steps += _steps_of(here, model, precisions)
    if here.has_torch:
        steps += [_torch(here, model, precision) for precision in precisions if precision != "int8" for model in models]
    if here.trtexec:
        steps += [
            _trtexec(here, here.trtexec, model, precision)
            for model in models
            for precision in precisions
            if "tensorrt" in here.backends
        ]
    return steps


def ort_probe(here: Here, model: str) -> Step:
    """Whether ONNX Runtime's CUDA provider starts at all; where it does not, it is left out of the comparisons and named."""
    options = ("--graph", "predict", "--precision", "fp32", "--provider", "cuda", "--batch", "1", "--seconds", "0.1")
    return Step("probe onnxruntime cuda", _deploykit("bench", here.bundles / model, *options), 40)


def _steps_of(here: Here, model: str, precisions: Sequence[str]) -> list[Step]:
    """Builds, then the proof that they answer, then how fast."""
    bundle = here.bundles / model
    builds, benches = [], []
    for backend in here.backends:
        for precision in precisions:
            facts = {"model": model, "precision": precision, "backend": backend}
            build = ("--backend", backend, "--precision", precision, "--batch", BATCH, "--json")
            # A timing cache is read and written by each build: the explain plan has most of the predict plan's layers.
            cache = ("--timing-cache", str(here.outputs / "timing.cache")) if backend == "tensorrt" else ()
            builds.append(
                Step(f"build {model} {precision} {backend}", _deploykit("build", bundle, *build, *cache), 90, facts=facts)
            )
            output = here.outputs / f"bench-{model}-{precision}-{backend}.json"
            benches.append(
                Step(
                    f"bench {model} {precision} {backend}",
                    _deploykit("bench", bundle, *_bench(here, precision, backend), "--json", str(output)),
                    60,
                    needs=(builds[-1].name,),
                    output=output,
                    facts=facts,
                )
            )
    verify = Step(f"verify {model}", _deploykit("verify", bundle, "--json"), 75, facts={"model": model})
    return [*builds, verify, *benches]


def _bench(here: Here, precision: str, backend: str) -> tuple[str, ...]:
    backends, provider = (f"{backend},onnxruntime", ("--provider", "cuda")) if here.ort_cuda else (backend, ())
    batches = ",".join(map(str, BATCHES))
    return ("--backend", backends, *provider, "--precision", precision, "--batch", batches, "--seconds", "0.5")


def _torch(here: Here, model: str, precision: str) -> Step:
    command = (sys.executable, "-m", "benchmarks.gpu_torch", model, precision, *map(str, BATCHES))
    return Step(f"torch {model} {precision}", command, 75, facts={"model": model, "precision": precision})


def _trtexec(here: Here, trtexec: str, model: str, precision: str) -> Step:
    """trtexec on our own plan, copies left out, at its best batch."""
    output = here.outputs / f"trtexec-{model}-{precision}.json"
    command = (
        sys.executable,
        "-m",
        "benchmarks.gpu_trtexec",
        trtexec,
        str(here.bundles / model),
        precision,
        BATCH.split(":")[1],
        str(output),
    )
    needs = (f"build {model} {precision} tensorrt",)
    return Step(f"trtexec {model} {precision}", command, 25, needs, output, {"model": model, "precision": precision})


def _deploykit(verb: str, bundle: Path, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "deploykit", "--quiet", verb, str(bundle), *options)
