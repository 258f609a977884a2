"""The one way to a session of a bundle's graph: which file answers, and on what. In: a bundle, a graph's name, `Answering`. Out: a
session on ONNX Runtime or TensorRT.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle
from deploykit.errors import BundleError, UsageError
from deploykit.runtime.ort import OrtSession
from deploykit.runtime.plans import find_plan
from deploykit.runtime.session import Session
from deploykit.runtime.trt import TrtSession
from deploykit.spec import Precision
from deploykit.trt import BACKENDS as TENSORRT

ONNXRUNTIME = "onnxruntime"
BACKENDS = (ONNXRUNTIME, *TENSORRT)
"""What can answer: ONNX Runtime with a bundle's graphs, or one of TensorRT's products with its plans."""

TWIN_SUFFIX = "_cpu"
"""Behind the name of a graph whose integers stand in the shape that a CPU computes fast."""


@dataclass(frozen=True)
class Answering:
    """What answers.

    Args:
        precision: of the graph or plan.
        backend: one of `BACKENDS`; None is the plan's where one is named, otherwise ONNX Runtime.
        provider, threads: of ONNX Runtime; see `OrtSession`.
        plan: a folder of plans, in the bundle or elsewhere; None takes the bundle's plan that fits this machine.
        plugins: shared libraries that the plan needs.

    Raises:
        UsageError: an unknown backend, or options that have no meaning together.
    """

    precision: Precision | str = Precision.FP32
    backend: str | None = None
    provider: str = "cpu"
    threads: int = 0
    plan: Path | None = None
    plugins: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in (None, *BACKENDS):
            raise UsageError(f"backend is {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if self.plan is not None and self.backend == ONNXRUNTIME:
            raise UsageError(f"a plan is named, which {ONNXRUNTIME} does not run", hint=f"take --backend {' or '.join(TENSORRT)}")
        if self.plugins and not self.takes_plan:
            raise UsageError(
                f"plugins are named, which {ONNXRUNTIME} does not load", hint=f"take --backend {' or '.join(TENSORRT)}"
            )
        if self.takes_plan and (self.provider != "cpu" or self.threads):
            answers = self.backend or "a plan"
            raise UsageError(
                f"provider {self.provider} and threads {self.threads} are for {ONNXRUNTIME}, and {answers} is to answer",
                hint="leave --provider and --threads out",
            )

    @property
    def takes_plan(self) -> bool:
        """Whether a plan answers instead of a graph."""
        return self.plan is not None or self.backend in TENSORRT


def open_session(bundle: Bundle, graph: str, answering: Answering, *, hint: str | None = None) -> Session:
    """A session of one of the bundle's graphs.

    Args:
        graph: ``predict``, ``explain``, ``explain_tail`` or ``input_gradients``. There are plans of the first two.
        hint: how to get the graph, where the bundle lacks it.

    Raises:
        UsageError: not a precision, or a plan of another one.
        BundleError: the bundle does not have the graph at this precision.
        EngineError: it has no plan that fits this machine; each is named with the reason.
        MissingExtraError, SessionError: see `TrtSession` and `OrtSession`.
    """
    if not answering.takes_plan:
        file = graph_file(bundle, answering.precision, graph, hint, provider=answering.provider)
        return OrtSession(file, provider=answering.provider, threads=answering.threads)
    return open_plan(bundle, _plan_file(bundle, graph, answering), plugins=answering.plugins)


def open_plan(bundle: Bundle, path: Path, **options: Any) -> TrtSession:
    """A session of a plan of the bundle's, which knows what its pictures can be.

    Args:
        options: further ones of `TrtSession`.

    Raises:
        EngineError, MissingExtraError, SessionError: see `TrtSession`.
    """
    manifest = bundle.manifest
    ranges = {"image": manifest.image.normalized_range} if manifest.input == "float" else None
    return TrtSession(path, value_ranges=ranges, **options)


def answering_file(bundle: Bundle, graph: str, answering: Answering) -> str:
    """The name of the file that `open_session` opens: in the bundle, or where a plan stands elsewhere.

    Raises:
        UsageError, BundleError, EngineError: see `open_session`.
    """
    if not answering.takes_plan:
        return graph_name(bundle, answering.precision, graph, provider=answering.provider)
    file = _plan_file(bundle, graph, answering)
    return file.relative_to(bundle.path).as_posix() if file.is_relative_to(bundle.path) else str(file)


def graph_file(bundle: Bundle, precision: Precision | str, graph: str, hint: str | None = None, *, provider: str = "cpu") -> Path:
    """The file of one of the bundle's graphs at a precision; see `graph_name`."""
    return bundle.file(graph_name(bundle, precision, graph, hint, provider=provider))


def graph_name(bundle: Bundle, precision: Precision | str, graph: str, hint: str | None = None, *, provider: str = "cpu") -> str:
    """The name of one of the bundle's graphs at a precision, such as ``fp32/predict.onnx``.

    On a CPU the twin is taken where there is one (``int8/predict_cpu.onnx``): the same integers in the shape that ONNX Runtime
    computes in integers on x86; the other is TensorRT's.

    Args:
        hint: how to get the graph, where the bundle lacks it.
        provider: ONNX Runtime's, which decides between the two.

    Raises:
        UsageError: not a precision.
        BundleError: the bundle does not have the graph, or not at this precision.
    """
    precision = parse_precision(precision)
    here = [p for p in Precision if f"{p}/{graph}.onnx" in bundle.manifest.files]
    if precision not in here:
        raise BundleError(f"{bundle.path} has no {precision} {graph} graph; it has {', '.join(here) or 'none'}", hint=hint)
    twin = f"{precision}/{graph}{TWIN_SUFFIX}.onnx"
    return twin if provider == "cpu" and twin in bundle.manifest.files else f"{precision}/{graph}.onnx"


def parse_precision(precision: Precision | str) -> Precision:
    """A precision by its name.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return Precision(precision)
    except ValueError:
        raise UsageError(f"precision is {precision!r}, expected one of {', '.join(Precision)}") from None


def _plan_file(bundle: Bundle, graph: str, answering: Answering) -> Path:
    return find_plan(
        bundle,
        graph,
        parse_precision(answering.precision),
        backend=answering.backend,
        folder=answering.plan,
        plugins=tuple(library.name for library in answering.plugins),
    )
