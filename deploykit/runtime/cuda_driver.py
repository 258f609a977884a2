"""The few calls of the CUDA driver that pycuda lacks, by ctypes: CUDA graphs, and one stream waiting for somebody else's.

pycuda 2026.1 has no stream capture at all. cuda-core has its own, but one way for both is one way to test. Signatures and numbers:
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__STREAM.html, group__CUDA__EVENT.html, group__CUDA__GRAPH.html.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from deploykit.errors import SessionError

# Calls of other threads may allocate meanwhile; this one only starts work. trtexec captures in the same mode.
_CAPTURE_MODE_THREAD_LOCAL = 1
_EVENT_DISABLE_TIMING = 2

_pointer = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (_pointer, ctypes.c_int),
    "cuStreamEndCapture": (_pointer, ctypes.POINTER(_pointer)),
    "cuEventCreate": (ctypes.POINTER(_pointer), ctypes.c_uint),
    "cuEventRecord": (_pointer, _pointer),
    "cuStreamWaitEvent": (_pointer, _pointer, ctypes.c_uint),
    "cuEventDestroy_v2": (_pointer,),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_pointer), _pointer, ctypes.c_ulonglong),
    "cuGraphDestroy": (_pointer,),
    "cuGraphLaunch": (_pointer, _pointer),
    "cuGraphExecDestroy": (_pointer,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class DriverGraph:
    """A captured graph, ready to launch; see `deploykit.runtime.device.Graph`."""

    def __init__(self, executable: int, stream: int) -> None:
        self._executable, self._stream = executable, stream

    def launch(self) -> None:
        """Start it on the stream that it was captured on."""
        _call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free it; a launch that still runs ends first."""
        executable, self._executable = self._executable, 0
        if executable:
            _call("cuGraphExecDestroy", executable)


def capture(stream: int, work: Callable[[], None]) -> DriverGraph:
    """What a function puts into a stream, as a graph.

    Raises:
        SessionError: the work cannot be captured. Whatever the function raises comes out, too; the stream captures no longer.
    """
    graph, executable = _pointer(), _pointer()
    _call("cuStreamBeginCapture_v2", stream, _CAPTURE_MODE_THREAD_LOCAL)
    try:
        work()
    except BaseException:
        # What was captured so far, or nothing where the capture is broken: both end it.
        load_driver().cuStreamEndCapture(stream, ctypes.byref(graph))
        if graph.value:
            _call("cuGraphDestroy", graph)
        raise
    _call("cuStreamEndCapture", stream, ctypes.byref(graph))
    if not graph.value:
        raise SessionError("CUDA captured nothing from the stream")
    try:
        _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
    finally:
        _call("cuGraphDestroy", graph)
    return DriverGraph(executable.value or 0, stream)


def order_behind(stream: int, other: int) -> None:
    """Let a stream wait for what is in another one now, whoever owns that; the calling thread does not wait."""
    event = _pointer()
    _call("cuEventCreate", ctypes.byref(event), _EVENT_DISABLE_TIMING)
    try:
        _call("cuEventRecord", event, other)
        _call("cuStreamWaitEvent", stream, event, 0)
    finally:
        # The driver keeps it for as long as a stream waits.
        _call("cuEventDestroy_v2", event)


@cache
def load_driver() -> ctypes.CDLL:
    """The driver's library.

    Raises:
        SessionError: there is none.
    """
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise SessionError(f"the CUDA driver does not load: {error}") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise SessionError(f"the CUDA driver has no {name}", hint="it is older than CUDA 11.4; install a newer one")
        function.argtypes, function.restype = arguments, ctypes.c_int
    return library


def _call(name: str, *arguments: Any) -> None:
    library = load_driver()
    if code := getattr(library, name)(*arguments):
        text = ctypes.c_char_p()
        library.cuGetErrorName(code, ctypes.byref(text))
        raise SessionError(f"{name} failed: {(text.value or b'CUDA error %d' % code).decode()}")
