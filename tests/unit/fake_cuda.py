"""Packages that talk to CUDA, without it: pycuda and cuda-core as far as deploykit uses them, and the driver's own functions.

They follow what those packages do, not what would be handy: pycuda keeps a stack of contexts per thread, frees nothing for a thread
that has not pushed the context an object was made in, and has no stream capture
(https://github.com/inducer/pycuda/blob/main/src/cpp/cuda.hpp); the driver's functions return a code first. Device memory is the
process's own, so copies are real.
"""

import ctypes
import threading
import types
from collections import Counter
from typing import Any

import numpy as np


class Tally:
    """What was made and not freed, and the contexts of each thread."""

    def __init__(self) -> None:
        self.alive: Counter[str] = Counter()
        self.stacks: dict[int, list[Any]] = {}
        self.fail: set[str] = set()

    @property
    def stack(self) -> list[Any]:
        return self.stacks.setdefault(threading.get_ident(), [])

    @property
    def left(self) -> dict[str, int]:
        return {name: count for name, count in self.alive.items() if count}


def fake_pycuda(tally: Tally) -> dict[str, types.ModuleType]:  # noqa: C901 a package stands in it
    """``pycuda`` and ``pycuda.driver``, for ``sys.modules``."""
    driver = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class Owned:
        """What belongs to the context that was current when it was made."""

        def __init__(self, kind: str) -> None:
            if not tally.stack:
                raise Error("explicit_context_dependent failed: invalid device context - no currently active context?")
            self._context, self._kind = tally.stack[-1], kind
            tally.alive[kind] += 1

        def _release(self) -> None:
            if not tally.stack or tally.stack[-1] is not self._context:
                return  # "cannot activate out-of-thread context": pycuda warns and leaks
            tally.alive[self._kind] -= 1

    class Context:
        def push(self) -> None:
            tally.stack.append(self)

        @staticmethod
        def pop() -> None:
            tally.stack.pop()

    class Device:
        def __init__(self, ordinal: int) -> None:
            if ordinal:
                raise Error("cuDeviceGet failed: invalid device ordinal")

        def retain_primary_context(self) -> Context:
            tally.alive["primary context"] += 1
            return Context()

    class Allocation(Owned):
        def __init__(self, size: int) -> None:
            if "mem_alloc" in tally.fail:
                raise Error("cuMemAlloc failed: out of memory")
            super().__init__("device memory")
            self._memory = np.zeros(size + 256, np.uint8)

        def __int__(self) -> int:
            return (self._memory.ctypes.data + 255) // 256 * 256

        def free(self) -> None:
            self._release()

    class PagelockedHostAllocation(Owned):
        def __init__(self, size: int) -> None:
            super().__init__("pinned memory")
            self._memory = (ctypes.c_uint8 * size)()
            self.__array_interface__ = {
                "shape": (size,),
                "typestr": "|u1",
                "data": (ctypes.addressof(self._memory), False),
                "version": 3,
            }

        def free(self) -> None:
            self._release()

    class Stream(Owned):
        def __init__(self, flags: int = 0) -> None:
            super().__init__("stream")
            self.flags, self.handle = flags, 4242

        def synchronize(self) -> None:
            assert tally.stack

        def is_done(self) -> bool:
            return True

        def __del__(self) -> None:
            self._release()

    class Event(Owned):
        def __init__(self, flags: int = 0) -> None:
            super().__init__("event")
            self.time = 0.0

        def record(self, stream: Stream | None = None) -> "Event":
            tally.alive["ticks"] += 1
            self.time = float(tally.alive["ticks"])
            return self

        def time_since(self, start: "Event") -> float:
            return self.time - start.time

        def __del__(self) -> None:
            self._release()

    def pagelocked_empty(shape: int, dtype: str) -> Any:
        assert dtype == "uint8"
        return np.asarray(PagelockedHostAllocation(shape))

    def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
        ctypes.memmove(dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
        ctypes.memmove(dest.ctypes.data, src, dest.nbytes)

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream | None = None) -> None:
        ctypes.memmove(dest, src, size)

    names = {
        "Error": Error, "Device": Device, "Context": Context, "Stream": Stream, "Event": Event, "init": lambda: None,
        "mem_alloc": Allocation, "pagelocked_empty": pagelocked_empty, "memcpy_htod_async": memcpy_htod_async,
        "memcpy_dtoh_async": memcpy_dtoh_async, "memcpy_dtod_async": memcpy_dtod_async,
    }  # fmt: skip
    driver.__dict__.update(names)
    package = types.ModuleType("pycuda")
    package.__dict__.update(VERSION_TEXT="2026.1", driver=driver)
    return {"pycuda": package, "pycuda.driver": driver}


class Code:
    """A CUresult: equal to another of its name."""

    def __init__(self, name: str) -> None:
        self.name = name


class Results:
    """CUresult's members that are looked at."""

    CUDA_SUCCESS, CUDA_ERROR_NOT_READY = Code("CUDA_SUCCESS"), Code("CUDA_ERROR_NOT_READY")
    OUT_OF_MEMORY, INVALID_CONTEXT = Code("CUDA_ERROR_OUT_OF_MEMORY"), Code("CUDA_ERROR_INVALID_CONTEXT")


def fake_cuda_core(tally: Tally) -> dict[str, types.ModuleType]:  # noqa: C901 likewise
    """``cuda.core`` and ``cuda.bindings.driver``, for ``sys.modules``."""
    ok, driver, core = Results.CUDA_SUCCESS, types.ModuleType("cuda.bindings.driver"), types.ModuleType("cuda.core")
    memory: dict[int, Any] = {}

    class CUDAError(Exception):
        __module__ = "cuda.core._utils.cuda_utils"

    class DevicePointer(int):
        """CUdeviceptr."""

    def alloc(kind: str, size: int) -> tuple[Any, ...]:
        if not tally.stack or tally.stack[-1] is None:
            return (Results.INVALID_CONTEXT,)
        if "mem_alloc" in tally.fail:
            return (Results.OUT_OF_MEMORY,)
        block = np.zeros(size + 256, np.uint8)
        address = (block.ctypes.data + 255) // 256 * 256
        memory[address] = block
        tally.alive[kind] += 1
        return ok, DevicePointer(address)

    def free(kind: str, address: int) -> tuple[Any, ...]:
        if not tally.stack or tally.stack[-1] is None:
            return (Results.INVALID_CONTEXT,)
        del memory[address]
        tally.alive[kind] -= 1
        return (ok,)

    def copy(destination: int, source: int, size: int, stream: int) -> tuple[Any, ...]:
        ctypes.memmove(destination, source, size)
        return (ok,)

    def set_current(context: Any) -> tuple[Any, ...]:
        tally.stack[:] = [context] if context is not None else []
        return (ok,)

    names: dict[str, Any] = {
        "CUresult": Results,
        "cuInit": lambda flags: (ok,),
        "cuCtxGetCurrent": lambda: (ok, tally.stack[-1] if tally.stack else None),
        "cuCtxSetCurrent": set_current,
        "cuMemAlloc": lambda size: alloc("device memory", size),
        "cuMemFree": lambda address: free("device memory", address),
        "cuMemHostAlloc": lambda size, flags: alloc("pinned memory", size),
        "cuMemFreeHost": lambda address: free("pinned memory", address),
        "cuMemcpyHtoDAsync": copy,
        "cuMemcpyDtoHAsync": copy,
        "cuMemcpyDtoDAsync": copy,
        "cuStreamQuery": lambda stream: (ok,),
    }
    driver.__dict__.update(names)

    class Event:
        def __init__(self) -> None:
            tally.alive["event"] += 1
            self.time = 0.0

        def __sub__(self, start: "Event") -> float:
            return self.time - start.time

        def close(self) -> None:
            tally.alive["event"] -= 1

    class Stream:
        handle = 4242

        def __init__(self) -> None:
            tally.alive["stream"] += 1

        def record(self, event: Event) -> Event:
            tally.alive["ticks"] += 1
            event.time = float(tally.alive["ticks"])
            return event

        def sync(self) -> None:
            assert tally.stack

        def close(self) -> None:
            tally.alive["stream"] -= 1

    class Device:
        def __init__(self, ordinal: int) -> None:
            self.ordinal = ordinal

        def set_current(self) -> None:
            if self.ordinal:
                raise CUDAError("CUDA_ERROR_INVALID_DEVICE: the device ordinal is not valid")
            tally.stack[:] = ["primary"]

        def create_stream(self) -> Stream:
            return Stream()

        def create_event(self, options: Any) -> Event:
            assert options == {"timing_enabled": True}
            return Event()

    core.__dict__.update(__version__="1.2.2", Device=Device, EventOptions=dict)
    return {"cuda.core": core, "cuda.bindings.driver": driver}


class FakeDriver:
    """libcuda's functions for graphs and for streams that wait, as ctypes calls them. ``calls`` has their names in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.graphs = self.executables = self.events = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            if name == "cuGetErrorName":
                arguments[1]._obj.value = b"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
                return 0
            self.calls.append(name)
            made = {
                "cuStreamEndCapture": (1, "graphs"),
                "cuGraphInstantiateWithFlags": (0, "executables"),
                "cuEventCreate": (0, "events"),
            }
            freed = {"cuGraphDestroy": "graphs", "cuGraphExecDestroy": "executables", "cuEventDestroy_v2": "events"}
            if self.fail.get(name):
                return self.fail[name]
            if name in made:
                position, kind = made[name]
                arguments[position]._obj.value = 77
                setattr(self, kind, getattr(self, kind) + 1)
            if name in freed:
                setattr(self, freed[name], getattr(self, freed[name]) - 1)
            return 0

        return call
