"""config.pbtxt as values that check themselves, and as text.

In: what a model is called, its tensors, how it is batched, run and warmed up. Out: a config that Triton takes; what it would refuse
is refused here, with the reason. Fields and rules: triton-inference-server/common, protobuf/model_config.proto, and
triton-inference-server/server, docs/user_guide/model_configuration.md.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploykit.errors import UsageError
from deploykit.integrations.triton.pbtxt import Word, map_entries, write_message

DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bytes": "TYPE_STRING",
}
"""numpy's names, and Triton's; ``bytes`` are text or a file's content."""

KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}


@dataclass(frozen=True)
class ModelTensor:
    """One input or output.

    Args:
        name: as the graph calls it.
        dtype: a key of `DATA_TYPES`.
        dims: without the batch axis where the model batches; -1 is any length.
        reshape: the dims that the model itself has, where they differ. A tensor [N] is ``dims`` (1), ``reshape`` ().
        label_filename: of an output [K]: the file with the K names.
        is_optional: of an input: a request may leave it out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    label_filename: str | None = None
    is_optional: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DATA_TYPES:
            raise UsageError(f"{self.name} has dtype {self.dtype}, Triton takes {', '.join(DATA_TYPES)}")
        if not self.dims or not all(dim == -1 or dim > 0 for dim in self.dims):
            raise UsageError(f"{self.name} has dims {list(self.dims)}, Triton takes at least one, each -1 or 1 and more")
        if self.reshape is not None and math.prod(self.reshape) != math.prod(self.dims):
            raise UsageError(f"{self.name} has dims {list(self.dims)}, which do not become {list(self.reshape)}")

    def to_fields(self) -> dict[str, Any]:
        """The message ``ModelInput`` or ``ModelOutput``."""
        return {
            "name": self.name,
            "data_type": Word(DATA_TYPES[self.dtype]),
            "dims": list(self.dims),
            "reshape": None if self.reshape is None else {"shape": list(self.reshape)},
            "label_filename": self.label_filename,
            "optional": True if self.is_optional else None,
        }


@dataclass(frozen=True)
class Batcher:
    """Triton's dynamic batcher: requests that wait are put together.

    Args:
        preferred: batch sizes that leave at once; Triton takes ``max_batch_size`` where there is none, so it is always written.
        delay_us: microseconds for which the first request waits for others; 0 takes what waits already.
    """

    preferred: tuple[int, ...]
    delay_us: int = 0


@dataclass(frozen=True)
class Warmup:
    """One request that each instance answers before the model counts as ready.

    Args:
        name: of the sample. batch: its batch size.
        dims: each input's, without the batch axis where the model batches. Its values, of one row, stand in the file of its name in
            the model's folder ``warmup``.
    """

    name: str
    batch: int
    dims: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Step:
    """One model of an ensemble.

    Args:
        model: its name.
        inputs, outputs: the model's tensor -> the ensemble's.
    """

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """One model's config.pbtxt.

    Args:
        name: also of its folder.
        backend: ``tensorrt``, ``onnxruntime``, ``python`` or ``ensemble``.
        inputs, outputs: its tensors.
        max_batch: 0 where the model does not batch.
        device: ``cpu`` or ``gpu``. instances: how many run side by side, on each GPU or on the CPU.
        file: the name of the model's file in its version folder.
        batcher, warmups, steps: see their types. parameters: what the backend or model.py is told.
    """

    name: str
    backend: str
    inputs: tuple[ModelTensor, ...]
    outputs: tuple[ModelTensor, ...]
    max_batch: int
    device: str = "cpu"
    instances: int = 1
    file: str | None = None
    batcher: Batcher | None = None
    warmups: tuple[Warmup, ...] = ()
    steps: tuple[Step, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if self.batcher is not None:
            self._check_batcher(self.batcher)
        known = {tensor.name: tensor for tensor in self.inputs}
        for warmup in self.warmups:
            sizes = range(1, self.max_batch + 1) if self.max_batch else (0,)
            if set(warmup.dims) != set(known) or warmup.batch not in sizes:
                raise UsageError(
                    f"{self.name}: warm-up {warmup} does not fit inputs {', '.join(known)}, max batch {self.max_batch}"
                )
        if (self.backend == "ensemble") != bool(self.steps):
            raise UsageError(f"{self.name}: an ensemble has steps, and nothing else has any")

    def _check_batcher(self, batcher: Batcher) -> None:
        if self.max_batch < 2:
            raise UsageError(f"{self.name}: the dynamic batcher needs batches of 2 or more, max_batch_size is {self.max_batch}")
        if not all(1 <= size <= self.max_batch for size in batcher.preferred) or batcher.delay_us < 0:
            raise UsageError(f"{self.name}: {batcher} does not fit max_batch_size {self.max_batch}")

    def to_text(self) -> str:
        """config.pbtxt."""
        is_ensemble = self.backend == "ensemble"
        return write_message(
            {
                "name": self.name,
                "platform": "ensemble" if is_ensemble else None,
                "backend": None if is_ensemble else self.backend,
                "max_batch_size": self.max_batch,
                "default_model_filename": self.file,
                "input": [tensor.to_fields() for tensor in self.inputs],
                "output": [tensor.to_fields() for tensor in self.outputs],
                "version_policy": {"latest": {"num_versions": 1}},
                "instance_group": [] if is_ensemble else [{"count": self.instances, "kind": Word(KINDS[self.device])}],
                "dynamic_batching": None if self.batcher is None else _batcher_fields(self.batcher),
                "ensemble_scheduling": {"step": [_step_fields(step) for step in self.steps]} if is_ensemble else None,
                "model_warmup": [self._warmup_fields(warmup) for warmup in self.warmups],
                "parameters": map_entries({key: {"string_value": value} for key, value in self.parameters.items()}),
                "response_cache": {"enable": False},
                "model_transaction_policy": {"decoupled": False},
            }
        )

    def _warmup_fields(self, warmup: Warmup) -> dict[str, Any]:
        inputs = {
            tensor.name: {
                "data_type": Word(DATA_TYPES[tensor.dtype]),
                "dims": list(warmup.dims[tensor.name]),
                "input_data_file": tensor.name,
            }
            for tensor in self.inputs
        }
        return {"name": warmup.name, "batch_size": warmup.batch, "inputs": map_entries(inputs), "count": 1}


def check_model_name(name: str) -> None:
    """Refuse a name that is not also a folder's, a URL's and Kubernetes' part.

    Raises:
        UsageError: anything but letters, digits, ``_``, ``-`` and ``.``, beginning with a letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}", name):
        raise UsageError(f"model name is {name!r}, expected letters, digits, '_', '-' and '.'", hint="choose one with --name")


def _batcher_fields(batcher: Batcher) -> dict[str, Any]:
    return {"preferred_batch_size": list(batcher.preferred), "max_queue_delay_microseconds": batcher.delay_us}


def _step_fields(step: Step) -> dict[str, Any]:
    return {
        "model_name": step.model,
        "model_version": -1,
        "input_map": map_entries(step.inputs),
        "output_map": map_entries(step.outputs),
    }
