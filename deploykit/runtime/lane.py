"""What one run needs to itself: a stream, execution contexts, device memory and pinned memory. In: rows. Out: rows.

    host rows -> pinned memory -> device -> engine -> device -> pinned memory -> new arrays

Only one run uses a lane at a time (`deploykit.runtime.lane_pool`); an execution context that two threads share mixes up answers
(https://github.com/NVIDIA/TensorRT/issues/2040). A batch size that comes a second time is captured as a CUDA graph, which starts it
at the price of one launch from then on. Each graph has a context of its own, because a captured context may not be changed; all
contexts of a lane share its scratch memory.

Plans of graphs that resize photos are not captured. A graph stands for one size of photo and one place in memory, while photos come
in thousands of sizes, each graph costs a context, and a photo that moves the memory would cost all of them. TensorRT for RTX
captures sizes by its own rule.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from deploykit.errors import SessionError
from deploykit.runtime.device import Device, Event, Graph
from deploykit.runtime.device_arrays import DeviceArray
from deploykit.runtime.lane_memory import ALIGNMENT, LaneMemory, Shape
from deploykit.trt.engine import Context, Engine

Rows = npt.NDArray[Any] | DeviceArray

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
        refused: why it does not happen all the same; None as long as nothing speaks against it and no capture has failed.
    """

    is_wanted: bool
    refused: str | None = None


def plan_capturing(engine: Engine, *, is_wanted: bool) -> Capturing:
    """Whether lanes of an engine capture CUDA graphs, where that is wanted or not: not where its inputs differ in size."""
    varying = [t.name for t in engine.tensors if t.varies]
    if not is_wanted or not varying or engine.captures_itself:
        return Capturing(is_wanted)
    return Capturing(is_wanted, f"{', '.join(varying)} differs in size from run to run, and a CUDA graph stands for one size")


@dataclass
class _Captured:
    """A batch size's graph, and the context that it stands for."""

    graph: Graph
    context: Context

    def close(self) -> None:
        self.graph.close()
        self.context.close()


class Lane:
    """See above. Every method wants the device to be active. After an error a lane is closed and another one made.

    Args:
        engine: shared with the other lanes.
        device: whose memory it takes.
        capturing: as `plan_capturing` makes it; a lane that fails to capture says so there.
    """

    def __init__(self, engine: Engine, device: Device, capturing: Capturing) -> None:
        self._engine, self._device, self._capturing = engine, device, capturing
        self._graphs: OrderedDict[int, _Captured] = OrderedDict()
        self._runs: Counter[int] = Counter()
        self._inputs = [t for t in engine.tensors if t.is_input]
        self._memory = LaneMemory(engine, device)
        self._events: tuple[Event, ...] = ()
        with ExitStack() as made:
            self._stream = device.open_stream()
            made.callback(self._stream.close)
            self._scratch = device.allocate(max(engine.scratch_bytes, ALIGNMENT))
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
        self._reserve(feeds, rows)
        addresses = {}
        for name in (t.name for t in self._inputs):
            given = feeds[name]
            if isinstance(given, DeviceArray):
                addresses[name] = given.address if _is_readable(given, rows) else self._memory.address(name)
            else:
                target = self._memory.pinned(name, rows, given.shape[1:]).values
                target[: len(given)] = given
                target[len(given) :] = given[:1]
                addresses[name] = self._memory.address(name)
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
            self._copy_in(tensor.name, feeds[tensor.name], addresses[tensor.name], rows)
        self._mark(1, timed=timed)
        self._compute(feeds, addresses, rows)
        self._mark(2, timed=timed)
        for name in outputs:
            self._stream.copy_out(self._memory.pinned(name, rows).raw, self._memory.address(name))
        self._mark(3, timed=timed)

    def synchronize(self) -> None:
        """Wait for what `start` has queued."""
        self._stream.synchronize()

    def is_idle(self) -> bool:
        """Whether nothing queued is left."""
        return self._stream.is_idle()

    def read(self, outputs: Sequence[str], rows: int) -> dict[str, npt.NDArray[Any]]:
        """New arrays of the outputs' first rows, after `synchronize`."""
        return {name: self._memory.pinned(name, rows).values.copy() for name in outputs}

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
            freeing.callback(self._memory.free)
            freeing.callback(self._drop_graphs)
            freeing.callback(self._stream.synchronize)
        self._events = ()

    def _make_context(self) -> Context:
        return self._engine.make_context(self._scratch.address, self._scratch.size_bytes, cuda_graphs=self._capturing.is_wanted)

    def _reserve(self, feeds: Mapping[str, Rows], rows: int) -> None:
        """Room for so many rows of every tensor. Where memory moves, the graphs go that have its addresses in them."""
        if not self._memory.holds(rows):
            self._drop_graphs()
        own = {t.name: feeds[t.name] for t in self._inputs if t.varies}
        self._memory.reserve(rows, {n: given.shape[1:] for n, given in own.items() if not _is_readable(given, rows)})

    def _drop_graphs(self) -> None:
        captured = list(self._graphs.values())
        self._graphs.clear()
        with ExitStack() as freeing:
            for one in reversed(captured):
                freeing.callback(one.close)

    def _copy_in(self, name: str, given: Rows, address: int, rows: int) -> None:
        if not isinstance(given, DeviceArray):
            self._stream.copy_in(address, self._memory.pinned(name, rows, given.shape[1:]).raw)
        elif address != given.address:
            size = given.row_bytes
            self._stream.copy_within(address, given.address, given.shape[0] * size)
            for row in range(given.shape[0], rows):
                self._stream.copy_within(address + row * size, given.address, size)

    def _compute(self, feeds: Mapping[str, Rows], addresses: Mapping[str, int], rows: int) -> None:
        """Start the engine: by its graph where there is one for this size and the inputs stand in the lane's own memory."""
        is_own = all(address == self._memory.address(name) for name, address in addresses.items())
        captures = self._capturing.is_wanted and self._capturing.refused is None and not self._engine.captures_itself
        shapes = [(t.name, (rows, *feeds[t.name].shape[1:])) for t in self._inputs]
        if not captures or not is_own:
            self._enqueue(self._context, shapes, addresses)
            return
        self._runs[rows] += 1
        if rows in self._graphs:
            self._graphs.move_to_end(rows)
            self._graphs[rows].graph.launch()
        elif self._runs[rows] < _CAPTURED_AT:
            self._enqueue(self._context, shapes, addresses)
        else:
            self._enqueue_and_capture(shapes, addresses, rows)

    def _enqueue(self, context: Context, shapes: Sequence[tuple[str, Shape]], addresses: Mapping[str, int]) -> None:
        places = [(t.name, addresses[t.name] if t.is_input else self._memory.address(t.name)) for t in self._engine.tensors]
        context.bind(shapes, places)
        context.enqueue(self._stream.handle)

    def _enqueue_and_capture(self, shapes: Sequence[tuple[str, Shape]], addresses: Mapping[str, int], rows: int) -> None:
        """Answer in a new context, whose state that first run settles, and capture the next run of it.

        Some engines cannot be captured, such as those with loops, and memory may be short: then the run is answered all the same,
        and the session says why nothing is captured any more.
        """
        try:
            context = self._make_context()
        except SessionError as error:
            self._capturing.refused = str(error)
            self._enqueue(self._context, shapes, addresses)
            return
        with ExitStack() as unless_kept:
            unless_kept.callback(context.close)
            unless_kept.callback(self._stream.synchronize)
            self._enqueue(context, shapes, addresses)
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


def _is_readable(given: Rows, rows: int) -> bool:
    """Whether TensorRT can read rows where they stand: on the device, aligned, and none missing."""
    return isinstance(given, DeviceArray) and given.shape[0] == rows and given.address % ALIGNMENT == 0
