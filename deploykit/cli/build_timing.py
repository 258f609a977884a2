"""How ``deploykit build --repeat`` times a plan: on this machine's GPU, or not at all and why."""

from deploykit.bundle import Bundle
from deploykit.engine.build import target_sm
from deploykit.engine.repeat import Timing
from deploykit.trt import BuildOptions, Flavour, find_gpu


def plan_timing(bundle: Bundle, flavour: Flavour, options: BuildOptions, graph: str) -> Timing:
    """A timing of plans of a bundle's graph, ``predict`` or ``explain``, at the profile's ``opt``."""
    gpu, sm = find_gpu(), target_sm(options.target)
    if gpu is None:
        return Timing(None, reason="no NVIDIA GPU here that could run the plans")
    if gpu.sm != sm:
        return Timing(None, reason=f"the GPU here is {gpu.sm}, the plans are for {sm}")
    if options.strip:
        return Timing(None, reason="plans without weights do not run")
    raise NotImplementedError
