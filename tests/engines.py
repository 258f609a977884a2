"""Real engines of a graph and of a bundle, through the doors that deploykit builds with; no GPU is needed."""

from pathlib import Path

import onnx
import pytest

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.plan import BatchRange
from deploykit.trt import BuildOptions, build_plan, load_flavour


def engine_bytes(graph: onnx.ModelProto) -> int:
    """Build for sm86, strongly typed, with batches of 1 to 4; the size of the plan."""
    options = BuildOptions(BatchRange(1, 2, 4), target="sm86")
    return len(build_plan(load_flavour("tensorrt-rtx"), graph.SerializeToString(), options).data)


def with_plans(bundle: Bundle, *options: str, cache: Path) -> Bundle:
    """The bundle after ``deploykit build BUNDLE OPTION...``, with an engine cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_CACHE", str(cache))
        assert run(["build", str(bundle.path), *options]) == 0
    return Bundle.open(bundle.path)
