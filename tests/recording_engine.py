"""TensorRT that is not there: an engine whose arithmetic is a function of numpy arrays, on the memory of tests/recording_device.py.

What TensorRT answers with garbage or a crash raises `MisuseError`: a context that two runs use at once or that is changed after it
was captured, memory that a run reads beyond its end, an engine that goes before its contexts.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import SessionError
from deploykit.plan import BatchRange
from deploykit.runtime.trt import LoadedPlan, TrtSession
from deploykit.trt.engine import PlanTensor
from tests.recording_device import GPU, MisuseError, RecordingDevice

Arrays = dict[str, npt.NDArray[Any]]
Function = Callable[[Arrays], Arrays]
Open = Callable[..., TrtSession]


class RecordingContext:
    """See `deploykit.trt.engine.Context`."""

    def __init__(self, engine: "RecordingEngine", scratch: int, scratch_bytes: int) -> None:
        self._engine, self._scratch, self._scratch_bytes = engine, scratch, scratch_bytes
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._pending = 0
        self._is_captured = self._is_closed = False

    def bind(self, shapes: Sequence[tuple[str, tuple[int, ...]]], addresses: Sequence[tuple[str, int]]) -> None:
        self._engine.device.enter("bind")
        if self._is_captured:
            raise MisuseError("a context is changed after it was captured")
        if self._pending:
            raise MisuseError("a context is changed while it works")
        self._shapes, self._addresses = dict(shapes), dict(addresses)
        if missing := {t.name for t in self._engine.tensors} - set(self._addresses):
            raise MisuseError(f"no address for {missing}")
        if wrong := [f"{name} at {address}" for name, address in addresses if address % 256]:
            raise MisuseError(f"misaligned: {', '.join(wrong)}")
        rows = {shape[0] for shape in self._shapes.values()}
        if len(rows) != 1 or not self._engine.batch.min <= min(rows) <= self._engine.batch.max:
            raise SessionError(f"recording does not take a batch of {rows}")
        for tensor in self._engine.tensors:
            if tensor.is_input and not _fits(tensor, self._shapes[tensor.name][1:]):
                raise SessionError(f"recording does not take {tensor.name} {list(self._shapes[tensor.name])}")

    def enqueue(self, stream: int) -> None:
        engine, queue = self._engine, self._engine.device.streams[stream]
        engine.device.enter("enqueue")
        if self._is_closed:
            raise MisuseError("a closed context runs")
        self._is_captured = self._is_captured or queue._captured is not None
        shapes, addresses = self._shapes, self._addresses
        engine.shapes.append(shapes)

        def compute() -> None:
            if self._is_closed:
                raise MisuseError("a context is closed while it works")
            self._pending += 1
            if self._pending > 1:
                raise MisuseError("a context is used by two runs at once")
            engine.compute(shapes, addresses, (self._scratch, self._scratch_bytes))
            self._pending -= 1

        queue.put("enqueue", next(iter(shapes.values()))[0], compute)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._engine.count_context(-1)


@dataclass
class RecordingEngine:
    """See `deploykit.trt.engine.Engine`: a function of arrays, as an engine.

    ``shapes`` has what the inputs of each run were said to be, and ``cuda_graphs`` what each context was told about capturing.
    """

    device: RecordingDevice
    tensors: tuple[PlanTensor, ...]
    batch: BatchRange
    function: Function
    name: str = "recording-rt 1.0"
    scratch_bytes: int = 64
    captures_itself: bool = False
    cuda_graphs: list[bool] = field(default_factory=list)
    shapes: list[Mapping[str, tuple[int, ...]]] = field(default_factory=list)
    contexts: int = 0
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.device.count("engine", 1)

    def make_context(self, scratch: int, scratch_bytes: int, *, cuda_graphs: bool) -> RecordingContext:
        self.device.enter("make_context")
        if scratch_bytes < self.scratch_bytes or scratch % 256:
            raise MisuseError(f"scratch of {scratch_bytes} bytes at {scratch}")
        self.count_context(1)
        self.cuda_graphs.append(cuda_graphs)
        return RecordingContext(self, scratch, scratch_bytes)

    def close(self) -> None:
        if not self.is_closed:
            if self.contexts:
                raise MisuseError("an engine is freed before its contexts")
            self.is_closed = True
            self.device.count("engine", -1)

    def count_context(self, change: int) -> None:
        """Note that one was made or closed."""
        self.contexts += change
        self.device.count("context", change)

    def compute(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int], scratch: tuple[int, int]) -> None:
        """Read inputs from device memory, write outputs there, and use the scratch memory as kernels do."""
        rows = next(iter(shapes.values()))[0]
        mark = self.device.bytes_at(*scratch)
        mark[:] = owner = threading.get_ident() % 251
        found = self.function({t.name: self._view(t, addresses[t.name], shapes[t.name]).copy() for t in self.tensors if t.is_input})
        time.sleep(0)
        if (mark != owner).any():
            raise MisuseError("two runs use one scratch memory at once")
        for tensor in self.tensors:
            if not tensor.is_input:
                self._view(tensor, addresses[tensor.name], (rows, *tensor.row_shape))[...] = found[tensor.name]

    def _view(self, tensor: PlanTensor, address: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        memory = self.device.bytes_at(address, math.prod(shape) * np.dtype(tensor.dtype).itemsize)
        return memory.view(tensor.dtype).reshape(shape)


def _fits(tensor: PlanTensor, row_shape: tuple[int, ...]) -> bool:
    least = tensor.least_shape or tensor.row_shape
    return len(row_shape) == len(least) and all(
        low <= size <= high for low, size, high in zip(least, row_shape, tensor.row_shape, strict=True)
    )


def loaded(engine: RecordingEngine) -> Callable[[Path, int, tuple[Path, ...]], LoadedPlan]:
    """What to give `TrtSession` as ``load``."""
    return lambda path, ordinal, plugins: LoadedPlan(engine, engine.device, GPU)
