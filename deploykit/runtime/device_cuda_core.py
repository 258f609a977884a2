"""A GPU through NVIDIA's cuda-core 1.x, on the device's primary context: what stands in where pycuda is not installed.

https://nvidia.github.io/cuda-python/cuda-core/. Memory and copies go through ``cuda.bindings.driver``, which cuda-core needs
itself: its own buffers come from a pool that keeps what is freed, and copy only whole buffers of one size.
"""

import contextlib
import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from deploykit.errors import SessionError
from deploykit.runtime.cuda_driver import DriverGraph, capture, order_behind
from deploykit.runtime.device import Bytes, Device, Event, HostMemory, check_process, failed


def open_device(ordinal: int) -> Device:
    """See `deploykit.runtime.device.open_device`.

    Raises:
        SessionError: cuda-core does not import, or CUDA does not give the device.
    """
    try:
        core: Any = importlib.import_module("cuda.core")
        driver: Any = importlib.import_module("cuda.bindings.driver")
        api = _Api(f"cuda-core {core.__version__}", core.Device, core.EventOptions(timing_enabled=True), driver)
    except (ImportError, AttributeError, TypeError) as error:  # before 1.0 its names were others
        raise SessionError(f"cuda-core does not import: {error}", hint="pip install 'cuda-core>=1'") from error
    with _translated(api.name):
        api.call("cuInit", 0)
        try:
            api.device(ordinal)
        except ValueError as error:  # what cuda-core raises for an ordinal beyond the last GPU's
            raise failed(api.name, error) from error
    device = _Device(api, ordinal)
    with device.activate():
        return device


class _Api:
    """What is used of the packages: cuda-core's ``Device``, options of an event that keeps time, and the driver's functions."""

    def __init__(self, name: str, device: Any, event_options: Any, driver: Any) -> None:
        self.name, self.device, self.event_options, self._driver = name, device, event_options, driver

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the driver; its functions return a code and, behind it, what they give."""
        code, *values = getattr(self._driver, function)(*arguments)
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise failed(self.name, f"{function}: {code.name}")
        return values[0] if values else None

    def is_done(self, stream: int) -> bool:
        """Whether a stream has nothing left to do."""
        (code,) = self._driver.cuStreamQuery(stream)
        if code == self._driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise failed(self.name, f"cuStreamQuery: {code.name}")
        return True


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """cuda-core's and the bindings' own errors as a session's; they have no common class, so their modules tell them."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("cuda."):
            raise
        raise failed(name, error) from error


class _Device:
    """See `deploykit.runtime.device.Device`."""

    def __init__(self, api: _Api, ordinal: int) -> None:
        self.name, self.ordinal = api.name, ordinal
        self._api, self._process = api, os.getpid()

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        check_process(self._process)
        with _translated(self.name):
            before = self._api.call("cuCtxGetCurrent")
            # cuda-core has one Device object for every thread, so this thread's is asked for each time.
            self._api.device(self.ordinal).set_current()
            try:
                yield
            finally:
                self._api.call("cuCtxSetCurrent", before)

    def allocate(self, size_bytes: int) -> "_DeviceMemory":
        return _DeviceMemory(self._api, int(self._api.call("cuMemAlloc", size_bytes)), size_bytes)

    def allocate_pinned(self, size_bytes: int) -> HostMemory:
        address = int(self._api.call("cuMemHostAlloc", size_bytes, 0))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
        return HostMemory(array, lambda: self._api.call("cuMemFreeHost", address))

    def open_stream(self) -> "_Stream":
        return _Stream(self._api, self._api.device(self.ordinal).create_stream())

    def make_event(self) -> "_Event":
        return _Event(self._api.device(self.ordinal).create_event(self._api.event_options))


class _DeviceMemory:
    def __init__(self, api: _Api, address: int, size_bytes: int) -> None:
        self._api, self.address, self.size_bytes = api, address, size_bytes
        self._is_freed = False

    def free(self) -> None:
        if not self._is_freed:
            self._is_freed = True
            self._api.call("cuMemFree", self.address)


class _Stream:
    def __init__(self, api: _Api, stream: Any) -> None:
        self._api, self._stream, self.handle = api, stream, int(stream.handle)

    def copy_in(self, destination: int, source: Bytes) -> None:
        self._api.call("cuMemcpyHtoDAsync", destination, source.ctypes.data, source.nbytes, self.handle)

    def copy_out(self, destination: Bytes, source: int) -> None:
        self._api.call("cuMemcpyDtoHAsync", destination.ctypes.data, source, destination.nbytes, self.handle)

    def copy_within(self, destination: int, source: int, size_bytes: int) -> None:
        self._api.call("cuMemcpyDtoDAsync", destination, source, size_bytes, self.handle)

    def record(self, event: Event) -> None:
        own: Any = event
        self._stream.record(own.event)

    def wait_for(self, stream: int) -> None:
        order_behind(self.handle, stream)

    def capture(self, work: Callable[[], None]) -> DriverGraph:
        return capture(self.handle, work)

    def synchronize(self) -> None:
        self._stream.sync()

    def is_idle(self) -> bool:
        return self._api.is_done(self.handle)

    def close(self) -> None:
        self._stream.close()


class _Event:
    def __init__(self, event: Any) -> None:
        self.event = event

    def elapsed_ms(self, start: Event) -> float:
        own: Any = start
        return float(self.event - own.event)

    def close(self) -> None:
        self.event.close()
