"""From a float32 graph to a typed FP16 graph that keeps float32 where FP16 cannot hold the values.

`ranges` sees what values the tensors take, `keep` decides which nodes stay in float32 and why, `convert` writes the graph.
"""

from deploykit.graph.half.convert import HalfGraph, convert_to_half
from deploykit.graph.half.keep import HalfReport, KeptNode, RangeProblem
from deploykit.graph.half.ranges import TensorRange, expose_floats, float_tensors, measure_ranges, require_finite

__all__ = [
    "HalfGraph",
    "HalfReport",
    "KeptNode",
    "RangeProblem",
    "TensorRange",
    "convert_to_half",
    "expose_floats",
    "float_tensors",
    "measure_ranges",
    "require_finite",
]
