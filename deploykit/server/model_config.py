"""How a graph is described to clients: the Open Inference Protocol's metadata, and Triton's model configuration.

Source of the words: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from typing import Any

from deploykit.runtime.opening import ONNXRUNTIME
from deploykit.runtime.session import TensorInfo
from deploykit.server.batcher import Batcher
from deploykit.server.settings import Settings
from deploykit.server.tensors import NAMES

_ONNX, _PLAN = ("onnxruntime_onnx", "onnxruntime"), ("tensorrt_plan", "tensorrt")
"""Platform and backend, as Triton names them."""


def describe_model(name: str, graph: Batcher, settings: Settings) -> dict[str, Any]:
    """The metadata: tensors with their shapes, -1 where a dimension is free."""
    return {
        "name": name,
        "versions": ["1"],
        "platform": _platform(settings)[0],
        "inputs": [_metadata(one) for one in graph.inputs],
        "outputs": [_metadata(one) for one in graph.outputs],
    }


def describe_config(name: str, graph: Batcher, settings: Settings, *, has_labels: bool) -> dict[str, Any]:
    """The configuration: ``dims`` are without the rows; how requests are put together stands in ``dynamic_batching``."""
    batch = settings.batch
    platform, backend = _platform(settings)
    on_cpu = platform == _ONNX[0] and settings.provider == "cpu"
    return {
        "name": name,
        "platform": platform,
        "backend": backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": graph.max_batch_size,
        "input": [_config(one) for one in graph.inputs],
        "output": [
            _config(one) | ({"label_filename": "labels.txt"} if has_labels and one.name == "logits" else {})
            for one in graph.outputs
        ],
        "instance_group": [{"name": name, "kind": "KIND_CPU" if on_cpu else "KIND_GPU", "count": batch.instances}],
        "dynamic_batching": {
            "max_queue_delay_microseconds": batch.max_queue_delay_us,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(settings.timeout_s * 1e6),
                "allow_timeout_override": True,
                "max_queue_size": batch.max_queue_size,
            },
        },
    }


def _platform(settings: Settings) -> tuple[str, str]:
    return _ONNX if settings.backend in (None, ONNXRUNTIME) else _PLAN


def _metadata(tensor: TensorInfo) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
    return {"name": tensor.name, "datatype": NAMES[tensor.dtype], "shape": shape}


def _config(tensor: TensorInfo) -> dict[str, Any]:
    dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape[1:]]
    datatype = NAMES[tensor.dtype]
    told: dict[str, Any] = {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": dims or [1]}
    if not dims:  # one number per row: Triton has no empty dims, and says so
        told["reshape"] = {"shape": []}
    return told
