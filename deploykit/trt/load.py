"""A plan's bytes become TensorRT's own engine object: what looking into an engine and putting weights in begin with."""

from typing import Any

from deploykit.errors import EngineError
from deploykit.trt.flavour import Flavour
from deploykit.trt.log import find_log


def load_plan(flavour: Flavour, plan: bytes, *, version_compatible: bool = False) -> tuple[Any, Any]:
    """TensorRT's runtime and engine; the engine must go before the runtime.

    Args:
        plan: as `deploykit.plan.read_plan` has let it through.
        version_compatible: whether it was built so; such a plan brings code for the host, which TensorRT loads only when told to.

    Raises:
        EngineError: it does not load.
    """
    log = find_log(flavour.api)
    log.errors.clear()
    runtime = flavour.api.Runtime(log)
    if runtime is not None and version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan) if runtime is not None else None
    if engine is None:
        reason = "; ".join(dict.fromkeys(log.errors)) or "no reason given"
        raise EngineError(f"{flavour} does not load the plan: {reason}", hint="build it again with: deploykit build")
    return runtime, engine
