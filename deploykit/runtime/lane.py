"""What one run needs to itself: a stream, execution contexts, device memory and pinned memory. In: rows. Out: rows.

    host rows -> pinned memory -> device -> engine -> device -> pinned memory -> new arrays

Only one run uses a lane at a time (`deploykit.runtime.lane_pool`); an execution context that two threads share mixes up answers
(https://github.com/NVIDIA/TensorRT/issues/2040). A batch size that comes a second time is captured as a CUDA graph, which starts it
at the price of one launch from then on. Each graph has a context of its own, because a captured context may not be changed; all
contexts of a lane share its scratch memory.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from deploykit.errors import SessionError
from deploykit.runtime.device import Bytes, Device, DeviceMemory, Event, Graph, PinnedMemory
from deploykit.runtime.device_arrays import DeviceArray
from deploykit.trt.engine import Context, Engine, PlanTensor

Rows = npt.NDArray[Any] | DeviceArray

_ALIGNMENT = 256  # of what TensorRT reads; all memory of the driver has it
_MOST_GRAPHS = 8
"""Batch sizes that a lane keeps a captured graph of; the one used longest ago goes first."""

_CAPTURED_AT = 2
"""At which run of a batch size it is captured. A size that comes once is answered sooner without."""

SPANS = ("h2d", "gpu", "d2h")
"""The parts of a run that events can time: the way in, the engine, the way back."""


@dataclass
class Capturing:
    """Whether a session's lanes capture CUDA graphs; they share it.

    Args:
        is_wanted: what was asked for.
        refused: why it does not happen all the same; None as long as no capture has failed.
    """

    is_wanted: bool
    refused: str | None = None


@dataclass
class _Captured:
    """A batch size's graph, and the context that it stands for."""

    graph: Graph
    context: Context

    def close(self) -> None:
        self.graph.close()
        self.context.close()


@dataclass(frozen=True)
class _Rows:
    """Rows in pinned memory: as bytes and as what they are. The same memory."""

    raw: Bytes
    values: npt.NDArray[Any]


class Lane:
    """See above. Every method wants the device to be active. After an error a lane is closed and another one made.

    Args:
        engine: shared with the other lanes.
        device: whose memory it takes.
        capturing: whether to capture any graph; a lane that fails at it says so there.
    """

    def __init__(self, engine: Engine, device: Device, capturing: Capturing) -> None:
        self._engine, self._device, self._capturing = engine, device, capturing
        self._graphs: OrderedDict[int, _Captured] = OrderedDict()
        self._runs: Counter[int] = Counter()
        self._tensors = {t.name: t for t in engine.tensors}
        self._inputs = [t for t in engine.tensors if t.is_input]
        self._memory: dict[str, DeviceMemory] = {}
        self._pinned: dict[str, PinnedMemory] = {}
        self._views: dict[tuple[str, int], _Rows] = {}
        self._events: tuple[Event, ...] = ()
        self._capacity = 0
        with ExitStack() as made:
            self._stream = device.open_stream()
            made.callback(self._stream.close)
            self._scratch = device.allocate(max(engine.scratch_bytes, _ALIGNMENT))
            made.callback(self._scratch.free)
            self._context = self._make_context()
            made.pop_all()

    def load(self, feeds: Mapping[str, Rows], rows: int) -> dict[str, int]:
        """Make room, and put host rows into pinned memory, from where `start` copies them.

        Args:
            feeds: for every input its rows, at most ``rows``; missing ones are filled up with the first.

        Returns:
            The address of every input: the lane's own memory, or the caller's, where a device array can be read as it is.
        """
        self._reserve(rows)
        addresses = {}
        for tensor in self._inputs:
            own, given = self._memory[tensor.name].address, feeds[tensor.name]
            if isinstance(given, DeviceArray):
                is_readable = given.shape[0] == rows and given.address % _ALIGNMENT == 0
                addresses[tensor.name] = given.address if is_readable else own
            else:
                target = self._rows(tensor, rows).values
                target[: len(given)] = given
                target[len(given) :] = given[:1]
                addresses[tensor.name] = own
        return addresses

    def start(
        self, feeds: Mapping[str, Rows], addresses: Mapping[str, int], rows: int, outputs: Sequence[str], *, timed: bool = False
    ) -> None:
        """Queue one run: copies in, the engine, copies of the outputs that are asked for. It is done once `synchronize` returns."""
        for given in feeds.values():
            if isinstance(given, DeviceArray) and given.producer_stream is not None:
                self._stream.wait_for(given.producer_stream)
        self._mark(0, timed=timed)
        for tensor in self._inputs:
            self._copy_in(tensor, feeds[tensor.name], addresses[tensor.name], rows)
        self._mark(1, timed=timed)
        self._compute(addresses, rows)
        self._mark(2, timed=timed)
        for name in outputs:
            self._stream.copy_out(self._rows(self._tensors[name], rows).raw, self._memory[name].address)
        self._mark(3, timed=timed)

    def synchronize(self) -> None:
        """Wait for what `start` has queued."""
        self._stream.synchronize()

    def is_idle(self) -> bool:
        """Whether nothing queued is left."""
        return self._stream.is_idle()

    def read(self, outputs: Sequence[str], rows: int) -> dict[str, npt.NDArray[Any]]:
        """New arrays of the outputs' first rows, after `synchronize`."""
        return {name: self._rows(self._tensors[name], rows).values.copy() for name in outputs}

    def spans_ms(self) -> dict[str, float]:
        """What the GPU's clock says of the last run that was started ``timed``; see `SPANS`."""
        pairs = zip(self._events[:-1], self._events[1:], strict=True)
        return {name: end.elapsed_ms(start) for name, (start, end) in zip(SPANS, pairs, strict=False)}

    def close(self) -> None:
        """Free everything, after what runs has ended. Nothing is left even where CUDA refuses some of it."""
        with ExitStack() as freeing:
            freeing.callback(self._stream.close)
            freeing.callback(self._scratch.free)
            freeing.callback(self._context.close)
            for event in self._events:
                freeing.callback(event.close)
            freeing.callback(self._drop_buffers)
            freeing.callback(self._stream.synchronize)
        self._events = ()

    def _make_context(self) -> Context:
        return self._engine.make_context(self._scratch.address, self._scratch.size_bytes, cuda_graphs=self._capturing.is_wanted)

    def _reserve(self, rows: int) -> None:
        """Device memory for so many rows of every tensor. It grows to powers of two, so that it is moved a few times at most."""
        if rows <= self._capacity:
            return
        self._drop_buffers()
        capacity = min(1 << (rows - 1).bit_length(), self._engine.batch.max)
        for tensor in self._engine.tensors:
            self._memory[tensor.name] = self._device.allocate(max(capacity * tensor.row_bytes, _ALIGNMENT))
        self._capacity = capacity

    def _drop_buffers(self) -> None:
        """Free the buffers, and the graphs that have their addresses in them."""
        owned: list[Callable[[], None]] = [captured.close for captured in self._graphs.values()]
        owned += [memory.free for memory in self._memory.values()]
        owned += [memory.free for memory in self._pinned.values()]
        self._graphs.clear()
        self._memory.clear()
        self._pinned.clear()
        self._views.clear()
        self._capacity = 0
        with ExitStack() as freeing:
            for free in reversed(owned):
                freeing.callback(free)

    def _rows(self, tensor: PlanTensor, rows: int) -> "_Rows":
        """The first rows of a tensor's pinned memory, which is made when it is first asked for, as large as its device memory."""
        found = self._views.get((tensor.name, rows))
        if found is None:
            if tensor.name not in self._pinned:
                self._pinned[tensor.name] = self._device.allocate_pinned(self._memory[tensor.name].size_bytes)
            raw = self._pinned[tensor.name].array[: rows * tensor.row_bytes]
            found = _Rows(raw, raw.view(tensor.dtype).reshape(rows, *tensor.row_shape))
            self._views[tensor.name, rows] = found
        return found

    def _copy_in(self, tensor: PlanTensor, given: Rows, address: int, rows: int) -> None:
        if not isinstance(given, DeviceArray):
            self._stream.copy_in(address, self._rows(tensor, rows).raw)
        elif address != given.address:
            size = tensor.row_bytes
            self._stream.copy_within(address, given.address, given.shape[0] * size)
            for row in range(given.shape[0], rows):
                self._stream.copy_within(address + row * size, given.address, size)

    def _compute(self, addresses: Mapping[str, int], rows: int) -> None:
        """Start the engine: by its graph where there is one for this size and the inputs stand in the lane's own memory."""
        is_own = all(address == self._memory[name].address for name, address in addresses.items())
        captures = self._capturing.is_wanted and self._capturing.refused is None and not self._engine.captures_itself
        if not captures or not is_own:
            self._enqueue(self._context, addresses, rows)
            return
        self._runs[rows] += 1
        if rows in self._graphs:
            self._graphs.move_to_end(rows)
            self._graphs[rows].graph.launch()
        elif self._runs[rows] < _CAPTURED_AT:
            self._enqueue(self._context, addresses, rows)
        else:
            self._enqueue_and_capture(addresses, rows)

    def _enqueue(self, context: Context, addresses: Mapping[str, int], rows: int) -> None:
        self._bind(context, addresses, rows)
        context.enqueue(self._stream.handle)

    def _bind(self, context: Context, addresses: Mapping[str, int], rows: int) -> None:
        shapes = [(t.name, (rows, *t.row_shape)) for t in self._inputs]
        context.bind(shapes, [(t.name, addresses.get(t.name, self._memory[t.name].address)) for t in self._engine.tensors])

    def _enqueue_and_capture(self, addresses: Mapping[str, int], rows: int) -> None:
        """Answer in a new context, whose state that first run settles, and capture the next run of it.

        Some engines cannot be captured, such as those with loops, and memory may be short: then the run is answered all the same,
        and the session says why nothing is captured any more.
        """
        try:
            context = self._make_context()
        except SessionError as error:
            self._capturing.refused = str(error)
            self._enqueue(self._context, addresses, rows)
            return
        with ExitStack() as unless_kept:
            unless_kept.callback(context.close)
            unless_kept.callback(self._stream.synchronize)
            self._enqueue(context, addresses, rows)
            try:
                graph = self._stream.capture(lambda: context.enqueue(self._stream.handle))
            except SessionError as error:
                self._capturing.refused = str(error)
                return
            self._graphs[rows] = _Captured(graph, context)
            unless_kept.pop_all()
        if len(self._graphs) > _MOST_GRAPHS:
            self._stream.synchronize()
            oldest, captured = self._graphs.popitem(last=False)
            del self._runs[oldest]
            captured.close()

    def _mark(self, index: int, *, timed: bool) -> None:
        if timed:
            if not self._events:
                self._events = tuple(self._device.make_event() for _ in range(len(SPANS) + 1))
            self._stream.record(self._events[index])
