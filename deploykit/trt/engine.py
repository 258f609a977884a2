"""A plan loaded and ready to run: bytes in, an engine that describes its tensors and makes execution contexts out.

The thin part of the runtime that knows TensorRT's objects; memory, streams and their order belong to `deploykit.runtime`. Every
call wants the GPU's context to be current in the calling thread. Contexts get their scratch memory from the caller, so that several
contexts of one stream can share it: a captured CUDA graph stands for the context that it was captured from, and none may be changed
afterwards (https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html, CUDA graphs).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from deploykit.errors import EngineError, SessionError
from deploykit.plan import BatchRange
from deploykit.trt.flavour import Flavour
from deploykit.trt.load import load_plan
from deploykit.trt.log import find_log

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's types and numpy's. BF16, FP8, INT4 and FP4 have none in numpy."""


@dataclass(frozen=True)
class PlanTensor:
    """An input or output of a plan.

    Args:
        name: as the graph calls it.
        is_input: or an output.
        dtype: numpy's name, such as ``uint8``.
        row_shape: the dimensions behind the batch; the greatest that the plan takes, where they are dynamic, as a photo's are.
        least_shape: the least that it takes; None where all are fixed.
    """

    name: str
    is_input: bool
    dtype: str
    row_shape: tuple[int, ...]
    least_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        least, greatest = self.least_shape, self.row_shape
        if least is None:
            return
        is_range = len(least) == len(greatest) and all(0 < low <= high for low, high in zip(least, greatest, strict=True))
        if not self.is_input or not is_range:
            kind = "input" if self.is_input else "output"
            raise EngineError(
                f"{kind} {self.name} has rows of {list(least)} to {list(greatest)}, expected those of an input, from small to large"
            )

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row; of the greatest one."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @property
    def varies(self) -> bool:
        """Whether rows of one run differ in size from those of the next."""
        return self.least_shape is not None


class Context(Protocol):
    """One execution context: whoever holds it is the only one to use it."""

    def bind(self, shapes: Sequence[tuple[str, tuple[int, ...]]], addresses: Sequence[tuple[str, int]]) -> None:
        """Say what the inputs' shapes are and where every tensor stands on the device.

        Raises:
            SessionError: TensorRT does not take one.
        """

    def enqueue(self, stream: int) -> None:
        """Start a run on a stream; its results are there once the stream has been synchronized.

        Raises:
            SessionError: TensorRT refuses to start it.
        """

    def close(self) -> None:
        """Free it. Closing twice is harmless."""


class Engine(Protocol):
    """What a plan holds, and contexts to run it. Threads may share an engine, but not a context."""

    @property
    def name(self) -> str:
        """What runs it, with its version, such as ``tensorrt 11.4.0.106``."""

    @property
    def tensors(self) -> tuple[PlanTensor, ...]:
        """Inputs and outputs, in the plan's order."""

    @property
    def batch(self) -> BatchRange:
        """The batch sizes it takes."""

    @property
    def scratch_bytes(self) -> int:
        """Device memory that a context needs while it runs."""

    @property
    def captures_itself(self) -> bool:
        """Whether its contexts capture CUDA graphs on their own, so that nobody else should."""

    def make_context(self, scratch: int, scratch_bytes: int, *, cuda_graphs: bool) -> Context:
        """A context whose scratch memory is at an address, aligned to 256 bytes, and outlives it.

        Raises:
            SessionError: TensorRT makes none, mostly for want of memory.
        """

    def close(self) -> None:
        """Free it, after its contexts. Closing twice is harmless."""


def load_engine(flavour: Flavour, plan: bytes, *, version_compatible: bool = False) -> Engine:
    """Load a plan that `deploykit.plan.read_plan` has let through.

    Args:
        version_compatible: whether it was built so; such a plan brings code for the host, which TensorRT loads only when told to.

    Raises:
        EngineError: it does not load, or its tensors are not what deploykit can run.
    """
    runtime, engine = load_plan(flavour, plan, version_compatible=version_compatible)
    return _LoadedEngine(flavour, runtime, engine)


class _LoadedEngine:
    """See `Engine`."""

    def __init__(self, flavour: Flavour, runtime: Any, engine: Any) -> None:
        self._flavour, self._runtime, self._engine = flavour, runtime, engine
        self.tensors = tuple(_describe(flavour, engine, engine.get_tensor_name(i)) for i in range(engine.num_io_tensors))
        self.batch = _batch_of(engine, self.tensors)
        self.scratch_bytes = int(engine.device_memory_size_v2)

    @property
    def name(self) -> str:
        return str(self._flavour)

    @property
    def captures_itself(self) -> bool:
        return self._flavour.captures_itself

    def make_context(self, scratch: int, scratch_bytes: int, *, cuda_graphs: bool) -> Context:
        api, engine, log = self._flavour.api, self._engine, find_log(self._flavour.api)
        if engine is None:
            raise SessionError("the engine is closed", hint="open the session again")
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(api.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._flavour.captures_itself:
            whole, none = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE, api.CudaGraphStrategy.DISABLED
            config.cuda_graph_strategy = whole if cuda_graphs else none
        context = engine.create_execution_context(config)
        if context is None:
            raise SessionError(f"{self._flavour} makes no execution context: {_reason(log)}")
        context.set_device_memory(scratch, scratch_bytes)
        return _LoadedContext(self._flavour, context)

    def close(self) -> None:
        # An engine must go before the runtime that made it.
        self._engine = None
        self._runtime = None


class _LoadedContext:
    """See `Context`."""

    def __init__(self, flavour: Flavour, context: Any) -> None:
        self._flavour, self._context = flavour, context

    def bind(self, shapes: Sequence[tuple[str, tuple[int, ...]]], addresses: Sequence[tuple[str, int]]) -> None:
        context = self._context
        for name, shape in shapes:
            if not context.set_input_shape(name, shape):
                raise self._failed(f"does not take {name} {list(shape)}")
        for name, address in addresses:
            if not context.set_tensor_address(name, address):
                raise self._failed(f"does not take an address for {name}")

    def enqueue(self, stream: int) -> None:
        context = self._context
        if not context.execute_async_v3(stream):
            raise self._failed("did not start the run")

    def close(self) -> None:
        self._context = None

    def _failed(self, what: str) -> SessionError:
        return SessionError(f"{self._flavour} {what}: {_reason(find_log(self._flavour.api))}")


def _describe(flavour: Flavour, engine: Any, name: str) -> PlanTensor:
    """One tensor, which must be laid out row by row on the device; behind the batch nothing but an input's size may be dynamic."""
    api = flavour.api
    dtype, shape = str(engine.get_tensor_dtype(name).name), tuple(int(d) for d in engine.get_tensor_shape(name))
    shown = f"{name} {DTYPES.get(dtype, dtype)} [{', '.join('?' if d < 0 else str(d) for d in shape)}]"
    if dtype not in DTYPES:
        raise EngineError(f"{shown} has a type that numpy lacks; expected one of {', '.join(DTYPES.values())}")
    is_input = engine.get_tensor_mode(name) == api.TensorIOMode.INPUT
    varies = any(d < 0 for d in shape[1:])
    if not shape or (varies and not is_input):
        raise EngineError(f"{shown}: expected a tensor whose first dimension is the batch, and no other that is dynamic")
    if engine.get_tensor_location(name) != api.TensorLocation.DEVICE or engine.get_tensor_format(name) != api.TensorFormat.LINEAR:
        raise EngineError(
            f"{shown} is packed, or stands in host memory; expected linear on the device",
            hint="build the plan with: deploykit build",
        )
    if not varies:
        return PlanTensor(name, is_input, DTYPES[dtype], shape[1:])
    least, _, greatest = (tuple(int(d) for d in dims) for dims in engine.get_tensor_profile_shape(name, 0))
    return PlanTensor(name, is_input, DTYPES[dtype], greatest[1:], least[1:])


def _batch_of(engine: Any, tensors: Sequence[PlanTensor]) -> BatchRange:
    """The batch sizes of the first profile, which all inputs must share; a fixed batch is a range of one size."""
    ranges: dict[BatchRange, str] = {}
    for name in (t.name for t in tensors if t.is_input):
        size = int(engine.get_tensor_shape(name)[0])
        sizes = [size] * 3 if size >= 0 else [int(dims[0]) for dims in engine.get_tensor_profile_shape(name, 0)]
        ranges.setdefault(BatchRange(*sizes), name)
    if len(ranges) != 1:
        seen = ", ".join(f"{name} {batch}" for batch, name in ranges.items()) or "no input"
        raise EngineError(f"the plan's inputs disagree about the batch: {seen}", hint="build the plan with: deploykit build")
    return next(iter(ranges))


def _reason(log: Any) -> str:
    return "; ".join(dict.fromkeys(log.errors[-3:])) or "it gives no reason"
