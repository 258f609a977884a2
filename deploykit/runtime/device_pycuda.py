"""A GPU through pycuda, on the device's primary context. Names and rules: pycuda 2026.1, https://documen.tician.de/pycuda/driver.html.

pycuda keeps a stack of contexts for every thread, and aborts the process when a thread ends with one left on it. So each entry
pushes the primary context and pops it again, in whichever thread it runs. Objects are freed inside such an entry: elsewhere pycuda
refuses to free what another thread has made, and leaks it.
"""

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from deploykit.errors import SessionError
from deploykit.runtime.cuda_driver import DriverGraph, capture, order_behind
from deploykit.runtime.device import Bytes, Device, Event, HostMemory, check_process, failed

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; pycuda has no name for it

_lock = threading.Lock()
_contexts: dict[int, Any] = {}


def open_device(ordinal: int) -> Device:
    """See `deploykit.runtime.device.open_device`. A device's primary context is retained once, for as long as the process lives.

    Raises:
        SessionError: pycuda does not import, or CUDA does not give the device.
    """
    try:
        driver: Any = importlib.import_module("pycuda.driver")
        name = f"pycuda {importlib.import_module('pycuda').VERSION_TEXT}"
    except Exception as error:  # compiled against another driver or numpy, it raises what it likes
        raise SessionError(f"pycuda does not import: {error}", hint="pip uninstall pycuda && pip install cuda-core") from error
    try:
        with _lock:
            if ordinal not in _contexts:
                driver.init()
                _contexts[ordinal] = driver.Device(ordinal).retain_primary_context()
            return _Device(name, ordinal, driver, _contexts[ordinal])
    except driver.Error as error:
        raise failed(name, error) from error


class _Device:
    """See `deploykit.runtime.device.Device`."""

    def __init__(self, name: str, ordinal: int, driver: Any, context: Any) -> None:
        self.name, self.ordinal = name, ordinal
        self._driver, self._context, self._process = driver, context, os.getpid()

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        check_process(self._process)
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self._driver.Error as error:
            raise failed(self.name, error) from error

    def allocate(self, size_bytes: int) -> "_DeviceMemory":
        return _DeviceMemory(self._driver.mem_alloc(size_bytes), size_bytes)

    def allocate_pinned(self, size_bytes: int) -> HostMemory:
        array: Any = self._driver.pagelocked_empty(size_bytes, "uint8")
        return HostMemory(array, array.base.free)

    def open_stream(self) -> "_Stream":
        return _Stream(self._driver, self._driver.Stream(_NON_BLOCKING))

    def make_event(self) -> "_Event":
        return _Event(self._driver.Event())


class _DeviceMemory:
    def __init__(self, allocation: Any, size_bytes: int) -> None:
        self._allocation, self.address, self.size_bytes = allocation, int(allocation), size_bytes

    def free(self) -> None:
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.free()


class _Stream:
    def __init__(self, driver: Any, stream: Any) -> None:
        self._driver, self._stream, self.handle = driver, stream, int(stream.handle)

    def copy_in(self, destination: int, source: Bytes) -> None:
        self._driver.memcpy_htod_async(destination, source, self._stream)

    def copy_out(self, destination: Bytes, source: int) -> None:
        self._driver.memcpy_dtoh_async(destination, source, self._stream)

    def copy_within(self, destination: int, source: int, size_bytes: int) -> None:
        self._driver.memcpy_dtod_async(destination, source, size_bytes, self._stream)

    def record(self, event: Event) -> None:
        own: Any = event
        own.event.record(self._stream)

    def wait_for(self, stream: int) -> None:
        order_behind(self.handle, stream)

    def capture(self, work: Callable[[], None]) -> DriverGraph:
        return capture(self.handle, work)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def is_idle(self) -> bool:
        return bool(self._stream.is_done())

    def close(self) -> None:
        # pycuda destroys a stream with its last reference.
        self._stream = None


class _Event:
    def __init__(self, event: Any) -> None:
        self.event = event

    def elapsed_ms(self, start: Event) -> float:
        own: Any = start
        return float(self.event.time_since(own.event))

    def close(self) -> None:
        self.event = None
