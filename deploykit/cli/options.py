"""Arguments and options that several verbs share, declared once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.runtime.classifier import graph_name
from deploykit.spec import Precision

Function = TypeVar("Function", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))


def backend_options(function: Function) -> Function:
    """What answers: ``--precision``, ``--provider``, ``--threads``."""
    for option in (
        click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="CPU threads per run; 0 takes all."),
        click.option("--provider", default="cpu", show_default=True, help="ONNX Runtime's: cpu, cuda, tensorrt, openvino, ..."),
        click.option("--precision", type=click.Choice([str(p) for p in Precision]), default=str(Precision.FP32), show_default=True),
    ):
        function = option(function)
    return function


def say_what_answers(bundle: Bundle, precision: str, graph: str, provider: str) -> None:
    """Name the file that answers where that is not the float graph."""
    if precision != Precision.FP32:
        console.note(f"{graph_name(bundle, precision, graph, provider=provider)} answers")


def warn_if_untrained(bundle: Bundle) -> None:
    """Say once more that random weights answer."""
    weights = bundle.manifest.weights
    if not weights.trained:
        console.warn(f"{bundle.path} is untrained ({weights.source}): its answers mean nothing")
