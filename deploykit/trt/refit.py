"""Weights of a graph into a plan that was built without them. It needs a GPU.

In: a stripped plan and the graph that it was built from. Out: the plan with its weights. deploykit strips for an identical refit:
a plan takes the very weights of its own build and no others. A free refit can drop a bias in TensorRT 11.3
(https://docs.nvidia.com/deeplearning/tensorrt/11.3.0/inference-library/refitting-engines.html).
"""

from pathlib import Path
from typing import Any

from deploykit.errors import EngineError
from deploykit.trt.flavour import Flavour, load_plugins
from deploykit.trt.load import load_plan
from deploykit.trt.log import find_log, plain

_SHOWN = 5


def refit_plan(
    flavour: Flavour, plan: bytes, graph: Path, *, plugins: tuple[Path, ...] = (), version_compatible: bool = False
) -> bytes:
    """Put a graph's weights into a stripped plan.

    Args:
        graph: an ONNX file, with its side file, if any, beside it.
        plugins: shared libraries that the plan needs.
        version_compatible: whether the plan was built so.

    Raises:
        EngineError: the plan does not load, the graph does not fit it, or weights are missing; with TensorRT's own reason.
    """
    api, log = flavour.api, find_log(flavour.api)
    load_plugins(flavour, plugins)
    runtime, engine = load_plan(flavour, plan, version_compatible=version_compatible)
    refitter = api.Refitter(engine, log)
    parser = api.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(graph)):
        raise EngineError(f"{flavour} does not take the weights of {graph}: {_reasons(parser, log)}")
    if missing := refitter.get_missing_weights():
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise EngineError(f"{graph} lacks weights that the plan needs: {', '.join(missing[:_SHOWN])}{more}")
    if not refitter.refit_cuda_engine():
        raise EngineError(f"{flavour} does not put the weights of {graph} in: {'; '.join(log.errors) or 'no reason given'}")
    config = engine.create_serialization_config()
    # Set by default on an engine that came from a stripped plan.
    config.clear_flag(api.SerializationFlag.EXCLUDE_WEIGHTS)
    memory = engine.serialize_with_config(config)
    if memory is None:
        raise EngineError(f"{flavour} does not write the plan with its weights: {'; '.join(log.errors) or 'no reason given'}")
    data = bytes(memory)
    # What a runtime made must go before it.
    del memory, config, parser, refitter, engine, runtime
    return data


def _reasons(parser: Any, log: Any) -> str:
    found = [plain(parser.get_error(i).desc()) for i in range(parser.num_errors)] or log.errors
    return "; ".join(dict.fromkeys(found)) or "no reason given"
