"""From a float32 graph to a typed FP16 graph that keeps float32 where FP16 cannot hold the values.

`ranges` sees what values the tensors take, `keep` decides which nodes stay in float32 and why, `convert` writes the graph,
`rounding` says what it computes on a device, `readers` lets others look into it.
"""

from deploykit.graph.half.convert import HalfGraph, convert_to_half
from deploykit.graph.half.keep import HalfReport, KeptNode, RangeProblem
from deploykit.graph.half.ranges import TensorRange, expose_floats, float_tensors, measure_ranges, require_finite
from deploykit.graph.half.readers import read_apart
from deploykit.graph.half.rounding import make_rounding_graph

__all__ = [
    "HalfGraph",
    "HalfReport",
    "KeptNode",
    "RangeProblem",
    "TensorRange",
    "convert_to_half",
    "expose_floats",
    "float_tensors",
    "make_rounding_graph",
    "measure_ranges",
    "read_apart",
    "require_finite",
]
