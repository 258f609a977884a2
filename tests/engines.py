"""A real engine of a graph, through the door that deploykit builds with; no GPU is needed."""

import onnx

from deploykit.plan import BatchRange
from deploykit.trt import BuildOptions, build_plan, load_flavour


def engine_bytes(graph: onnx.ModelProto) -> int:
    """Build for sm86, strongly typed, with batches of 1 to 4; the size of the plan."""
    options = BuildOptions(BatchRange(1, 2, 4), target="sm86")
    return len(build_plan(load_flavour("tensorrt-rtx"), graph.SerializeToString(), options).data)
