"""Arguments and options that several verbs share, declared once."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deploykit.bundle import Bundle
from deploykit.cli import console
from deploykit.runtime.opening import BACKENDS, Answering, answering_file
from deploykit.spec import Precision

Function = TypeVar("Function", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))

backend_option = click.option(
    "--backend", type=click.Choice(BACKENDS), help="What answers; TensorRT runs the bundle's plans. [default: onnxruntime]"
)
plan_option = click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder of the plans to run. [default: with --backend, the bundle's that fit this GPU]",
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="LIBRARY",
    help="Shared library that the plans need. May be repeated.",
)
provider_option = click.option(
    "--provider", default="cpu", show_default=True, help="ONNX Runtime's: cpu, cuda, tensorrt, openvino, ..."
)
threads_option = click.option(
    "--threads", type=click.IntRange(0), default=0, show_default=True, help="CPU threads per run; 0 takes all."
)


def backend_options(function: Function) -> Function:
    """What answers, as one argument ``answering``: ``--precision``, ``--backend``, ``--plan``, ``--plugin``,
    ``--provider``, ``--threads``."""

    @functools.wraps(function)
    def with_answering(
        precision: str,
        backend: str | None,
        plan: Path | None,
        plugins: tuple[Path, ...],
        provider: str,
        threads: int,
        **arguments: Any,
    ) -> object:
        return function(answering=Answering(precision, backend, provider, threads, plan, plugins), **arguments)

    command: Any = with_answering
    for option in (
        threads_option,
        provider_option,
        plugin_option,
        plan_option,
        backend_option,
        click.option("--precision", type=click.Choice([str(p) for p in Precision]), default=str(Precision.FP32), show_default=True),
    ):
        command = option(command)
    answered: Function = command
    return answered


def say_what_answers(bundle: Bundle, graph: str, answering: Answering) -> None:
    """Name the file that answers where that is not the float graph."""
    if answering.takes_plan or answering.precision != Precision.FP32:
        console.note(f"{answering_file(bundle, graph, answering)} answers")


def warn_if_untrained(bundle: Bundle) -> None:
    """Say once more that random weights answer."""
    weights = bundle.manifest.weights
    if not weights.trained:
        console.warn(f"{bundle.path} is untrained ({weights.source}): its answers mean nothing")
