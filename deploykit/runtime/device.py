"""The seam between a session and a GPU: memory, streams, copies, events, captured graphs; nothing of TensorRT is in it.

`open_device` gives what is installed behind it: pycuda (`device_pycuda`), or NVIDIA's cuda-core (`device_cuda_core`). Both use the
device's primary context, the one that torch and the CUDA runtime use, so memory can be handed from one to the other and any thread
may call. Nothing touches a GPU before `open_device` is called. Tests put a recording stand-in in their place.
"""

import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from deploykit.errors import MissingExtraError, SessionError

Bytes = npt.NDArray[np.uint8]


class DeviceMemory(Protocol):
    """Memory of the GPU, aligned to 256 bytes."""

    @property
    def address(self) -> int:
        """Where it begins, as the device counts."""

    @property
    def size_bytes(self) -> int:
        """How much there is."""

    def free(self) -> None:
        """Give it back. Twice is harmless."""


class PinnedMemory(Protocol):
    """Memory of the host that the GPU can read and write while the processor does something else."""

    @property
    def array(self) -> Bytes:
        """The memory, uint8 [size]; not to be touched after `free`."""

    def free(self) -> None:
        """Give it back. Twice is harmless."""


class Event(Protocol):
    """A moment of a stream."""

    def elapsed_ms(self, start: "Event") -> float:
        """Milliseconds from another moment to this one, by the GPU's clock; both must have passed."""

    def close(self) -> None:
        """Free it. Twice is harmless."""


class Graph(Protocol):
    """Captured work that can be started again at the price of one launch."""

    def launch(self) -> None:
        """Start it on the stream that it was captured on."""

    def close(self) -> None:
        """Free it. Twice is harmless."""


class Stream(Protocol):
    """A queue of the GPU: what is put in runs in that order, while the caller goes on."""

    @property
    def handle(self) -> int:
        """Its ``cudaStream_t`` as a number."""

    def copy_in(self, destination: int, source: Bytes) -> None:
        """Copy pinned host memory to the device."""

    def copy_out(self, destination: Bytes, source: int) -> None:
        """Copy device memory to pinned host memory."""

    def copy_within(self, destination: int, source: int, size_bytes: int) -> None:
        """Copy device memory to device memory."""

    def wait_for(self, stream: int) -> None:
        """Let what is put in from now on wait for what is in somebody else's stream now.

        Args:
            stream: its handle; 1 is the legacy default stream, 2 the calling thread's own.
        """

    def record(self, event: Event) -> None:
        """Let an event be the moment when all that was put in so far is done."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """What a function puts into the stream, kept instead of run.

        Raises:
            SessionError: the work cannot be captured. The stream is as before.
        """

    def synchronize(self) -> None:
        """Wait until all that was put in is done."""

    def is_idle(self) -> bool:
        """Whether it is."""

    def close(self) -> None:
        """Free it. Twice is harmless."""


class Device(Protocol):
    """One GPU. All calls of a device, and of what it has made, belong into `activate`."""

    @property
    def name(self) -> str:
        """What stands behind it, such as ``pycuda 2026.1``."""

    @property
    def ordinal(self) -> int:
        """Its number, as ``CUDA_VISIBLE_DEVICES`` leaves it."""

    def activate(self) -> AbstractContextManager[None]:
        """Make its primary context the calling thread's, and put back what was there before.

        Raises:
            SessionError: the process is a child of the one that opened the device; or, at the end, whatever CUDA refused inside.
        """

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Memory of the GPU, not cleared."""

    def allocate_pinned(self, size_bytes: int) -> PinnedMemory:
        """Pinned memory of the host, not cleared."""

    def open_stream(self) -> Stream:
        """A new stream that does not wait for the default one."""

    def make_event(self) -> Event:
        """A new event that keeps time."""


class HostMemory:
    """Pinned memory as both ways to a GPU give it; see `PinnedMemory`.

    Args:
        array: the memory, uint8 [size].
        free: gives it back; called once.
    """

    def __init__(self, array: Bytes, free: Callable[[], None]) -> None:
        self._array: Bytes | None = array
        self._free = free

    @property
    def array(self) -> Bytes:
        """The memory, uint8 [size]; not to be touched after `free`.

        Raises:
            SessionError: it was freed.
        """
        if self._array is None:
            raise SessionError("pinned memory was freed")
        return self._array

    def free(self) -> None:
        """Give it back. Twice is harmless."""
        if self._array is not None:
            self._array = None
            self._free()


def open_device(ordinal: int = 0) -> Device:
    """A GPU, through pycuda where it is installed, otherwise through cuda-core.

    Raises:
        MissingExtraError: neither is installed.
        SessionError: the driver does not give the device.
    """
    for package, module in _BEHIND.items():
        if _is_installed(package):
            opened: Device = importlib.import_module(module).open_device(ordinal)
            return opened
    raise MissingExtraError(
        "running a plan needs pycuda or cuda-core, and neither is installed",
        hint="pip install cuda-core, which has wheels; or pip install pycuda, which is compiled and needs the CUDA toolkit",
    )


def check_process(opened_in: int) -> None:
    """Refuse a child process: CUDA does not survive ``fork``, and calls there hang or crash.

    Args:
        opened_in: the process that opened the device.

    Raises:
        SessionError: it is another one.
    """
    if os.getpid() != opened_in:
        raise SessionError(
            f"the session was opened in process {opened_in} and is used in its child {os.getpid()}: CUDA does not survive fork",
            hint="open the session after the fork, or start workers with multiprocessing's spawn",
        )


_BEHIND = {"pycuda": "deploykit.runtime.device_pycuda", "cuda.core": "deploykit.runtime.device_cuda_core"}


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a submodule
        return False


def failed(library: str, error: Any) -> SessionError:
    """What CUDA refused, as a session's error."""
    text = " ".join(str(error).split()) or type(error).__name__
    is_full = "OUT_OF_MEMORY" in text.upper().replace(" ", "_")
    return SessionError(
        f"{library}: {text}", hint="lower the batch, or free memory of the GPU (nvidia-smi shows who holds it)" if is_full else None
    )
