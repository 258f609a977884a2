"""The one door to TensorRT: two flavours behind one value, strongly typed builds, the log.

`flavour` finds what is installed and what it can do, `log` bridges TensorRT's messages to Python's logging, `network` reads what a
parsed network computes in, `monitor` hears how far a build is, `build` makes a plan, `inspect` looks into an engine, `device` asks
the driver for the GPU. Nothing is imported until a flavour is asked for.
"""

from deploykit.trt.build import BuildOptions, BuiltPlan, build_plan
from deploykit.trt.device import find_gpu
from deploykit.trt.flavour import BACKENDS, Flavour, load_flavour
from deploykit.trt.inspect import EngineLayer, count_precisions, inspect_plan
from deploykit.trt.network import NetworkSummary
from deploykit.trt.refit import refit_plan

__all__ = [
    "BACKENDS",
    "BuildOptions",
    "BuiltPlan",
    "EngineLayer",
    "Flavour",
    "NetworkSummary",
    "build_plan",
    "count_precisions",
    "find_gpu",
    "inspect_plan",
    "load_flavour",
    "refit_plan",
]
