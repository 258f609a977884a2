"""A GPU that is not there: the seam of `deploykit.runtime.device`, with "device" memory of numpy's, and everything that is asked of
it written down. An engine for it stands in tests/recording_engine.py.

Nothing runs when it is put into a stream, only when the stream is synchronized, as late as a GPU may. So a buffer that is read or
overwritten too early gives wrong numbers here too. What a GPU answers with garbage or a crash raises `MisuseError`: a call outside
of `activate`, an address that nobody has allocated.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import SessionError
from deploykit.plan import Gpu
from deploykit.runtime.device import Bytes, check_process

GPU = Gpu("NVIDIA A10", "sm86", "CUDA 13.0")


class MisuseError(AssertionError):
    """What a real GPU would answer with garbage or a crash."""


class RecordingDevice:
    """See `deploykit.runtime.device.Device`.

    ``calls`` has what was put into streams, in order, as (stream, what, detail). ``alive`` counts what was made and not freed.
    ``fail`` maps a call's name to how many of its next calls are refused, as CUDA does for want of memory.
    """

    name = "recording 1.0"

    def __init__(self, ordinal: int = 0) -> None:
        self.ordinal = ordinal
        self.calls: list[tuple[int, str, Any]] = []
        self.alive: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.fail: Counter[str] = Counter()
        self.streams: dict[int, RecordingStream] = {}
        self.captures = 0
        self._heap: dict[int, Bytes] = {}
        self._next = 1 << 20
        self._lock = threading.Lock()
        self._here = threading.local()
        self._process = os.getpid()

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        check_process(self._process)
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            yield
        finally:
            self._here.depth -= 1

    def allocate(self, size_bytes: int) -> "Memory":
        self.enter("allocate")
        with self._lock:
            address, self._next = self._next, self._next + (size_bytes + 511) // 256 * 256
            self._heap[address] = np.full(size_bytes, 0xAB, np.uint8)  # never cleared, as on a GPU
        self.count("device memory", 1)
        return Memory(self, address, size_bytes)

    def allocate_pinned(self, size_bytes: int) -> "Pinned":
        self.enter("allocate_pinned")
        self.count("pinned memory", 1)
        return Pinned(self, np.full(size_bytes, 0xCD, np.uint8))

    def open_stream(self) -> "RecordingStream":
        self.enter("open_stream")
        self.count("stream", 1)
        with self._lock:
            stream = RecordingStream(self, 100 + len(self.streams))
            self.streams[stream.handle] = stream
        return stream

    def make_event(self) -> "RecordingEvent":
        self.enter("make_event")
        self.count("event", 1)
        return RecordingEvent(self)

    def enter(self, call: str) -> None:
        """Every call passes here: it must stand in `activate`, and may be one that is to fail."""
        if not getattr(self._here, "depth", 0):
            raise MisuseError(f"{call}: no currently active context?")
        with self._lock:
            if self.fail[call]:
                self.fail[call] -= 1
                raise SessionError(f"{self.name}: {call} failed: CUDA_ERROR_OUT_OF_MEMORY")

    def count(self, what: str, change: int) -> None:
        """Note that something was made or freed."""
        with self._lock:
            self.alive[what] += change
            self.most[what] = max(self.most[what], self.alive[what])

    def note(self, stream: int, what: str, detail: Any = None) -> None:
        """Write a call down."""
        with self._lock:
            self.calls.append((stream, what, detail))

    def bytes_at(self, address: int, size_bytes: int) -> Bytes:
        """Device memory, which must be inside of one allocation."""
        with self._lock:
            for start, memory in self._heap.items():
                if start <= address and address + size_bytes <= start + memory.size:
                    return memory[address - start : address - start + size_bytes]
        raise MisuseError(f"{size_bytes} bytes at {address} were never allocated, or are free again")

    @property
    def held_bytes(self) -> int:
        """Of device memory, at this moment."""
        with self._lock:
            return sum(memory.size for memory in self._heap.values())

    def release(self, address: int) -> None:
        """Take memory out of the heap."""
        with self._lock:
            if self._heap.pop(address, None) is None:
                raise MisuseError(f"memory at {address} is freed twice")

    def array_on_device(self, array: npt.NDArray[Any]) -> "ArrayOnDevice":
        """Put an array on the GPU, as torch would."""
        with self.activate():
            memory = self.allocate(array.nbytes)
        self.bytes_at(memory.address, array.nbytes)[:] = np.ascontiguousarray(array).view(np.uint8).ravel()
        return ArrayOnDevice(memory, array.shape, array.dtype)

    @property
    def left(self) -> dict[str, int]:
        """What was made and not freed."""
        return {what: count for what, count in self.alive.items() if count}


@dataclass
class Memory:
    device: RecordingDevice
    address: int
    size_bytes: int
    is_freed: bool = False

    def free(self) -> None:
        self.device.enter("free")
        if not self.is_freed:
            self.is_freed = True
            self.device.release(self.address)
            self.device.count("device memory", -1)


class Pinned:
    def __init__(self, device: RecordingDevice, array: Bytes) -> None:
        self._device, self._array, self._is_freed = device, array, False

    @property
    def array(self) -> Bytes:
        if self._is_freed:
            raise MisuseError("pinned memory is used after it was freed")
        return self._array

    def free(self) -> None:
        self._device.enter("free")
        if not self._is_freed:
            self._is_freed = True
            self._array[:] = 0xEE
            self._device.count("pinned memory", -1)


class RecordingEvent:
    """Its time is the number of the step at which it passed."""

    def __init__(self, device: RecordingDevice) -> None:
        self._device, self._is_freed = device, False
        self.passed: int | None = None

    def elapsed_ms(self, start: Any) -> float:
        if self.passed is None or start.passed is None:
            raise MisuseError("the time of an event that has not passed")
        return float(self.passed - start.passed)

    def close(self) -> None:
        if not self._is_freed:
            self._is_freed = True
            self._device.count("event", -1)


@dataclass
class RecordingGraph:
    stream: "RecordingStream"
    steps: list[Callable[[], None]]
    is_closed: bool = False

    def launch(self) -> None:
        if self.is_closed:
            raise MisuseError("a closed graph is launched")
        self.stream.put("launch", None, *self.steps)

    def close(self) -> None:
        if not self.is_closed:
            if self.stream.queue:
                raise MisuseError("a graph is freed while its stream works")
            self.is_closed = True
            self.stream.device.count("graph", -1)


class RecordingStream:
    """See `deploykit.runtime.device.Stream`. What is put in waits for `synchronize`."""

    def __init__(self, device: RecordingDevice, handle: int) -> None:
        self.device, self.handle = device, handle
        self.queue: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._steps = 0
        self._is_closed = False

    def put(self, what: str, detail: Any, *steps: Callable[[], None]) -> None:
        """Put steps in, or into the graph that is being captured."""
        self.device.enter(what)
        if self._is_closed:
            raise MisuseError(f"{what} into a stream that is closed")
        if self._captured is not None:
            self._captured.extend(steps)
            return
        self.device.note(self.handle, what, detail)
        self.queue.extend(steps)

    def copy_in(self, destination: int, source: Bytes) -> None:
        def copy() -> None:
            self.device.bytes_at(destination, source.size)[:] = source

        self.put("copy_in", source.size, copy)

    def copy_out(self, destination: Bytes, source: int) -> None:
        def copy() -> None:
            destination[:] = self.device.bytes_at(source, destination.size)

        self.put("copy_out", destination.size, copy)

    def copy_within(self, destination: int, source: int, size_bytes: int) -> None:
        def copy() -> None:
            self.device.bytes_at(destination, size_bytes)[:] = self.device.bytes_at(source, size_bytes)

        self.put("copy_within", size_bytes, copy)

    def wait_for(self, stream: int) -> None:
        self.put("wait_for", stream)

    def record(self, event: Any) -> None:
        def pass_by() -> None:
            event.passed = self._steps

        self.put("record", None, pass_by)

    def capture(self, work: Callable[[], None]) -> RecordingGraph:
        self.device.enter("capture")
        steps: list[Callable[[], None]] = []
        self._captured = steps
        try:
            work()
        finally:
            self._captured = None
        self.device.captures += 1
        self.device.count("graph", 1)
        return RecordingGraph(self, steps)

    def synchronize(self) -> None:
        try:
            self.device.enter("synchronize")
        except SessionError:
            self.queue.clear()  # after an error of its work a stream does no more of it
            raise
        if self._is_closed:
            raise MisuseError("a closed stream is synchronized")
        self.device.note(self.handle, "synchronize")
        steps, self.queue = self.queue, []
        for step in steps:
            time.sleep(0)  # let other threads in between
            self._steps += 1
            step()

    def is_idle(self) -> bool:
        return not self.queue

    def close(self) -> None:
        self.device.enter("close")
        if not self._is_closed:
            if self.queue:
                raise MisuseError("a stream is closed while it works")
            self._is_closed = True
            self.device.count("stream", -1)


class ArrayOnDevice:
    """An array that only the GPU can read, as CuPy or numba give one."""

    def __init__(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any], **interface: Any) -> None:
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (memory.address, False),
            "version": 3,
            "stream": 7,
            **interface,
        }
