"""Run in a process of its own whose CUDA driver is ``stand_in_driver.c``: a whole session through the real cuda-core or pycuda.

The engine adds up the bytes of "device" memory, which here is the process's own. Prints one line of JSON.
"""

import ctypes
import importlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from deploykit.errors import SessionError
from deploykit.plan import BatchRange, Gpu
from deploykit.runtime import TrtSession
from deploykit.runtime.device import Device
from deploykit.runtime.trt import LoadedPlan
from deploykit.trt.engine import PlanTensor

LIBRARY = ctypes.CDLL("libcuda.so.1")


class SumEngine:
    """Logits are sums of bytes."""

    name, batch, scratch_bytes, captures_itself = "sums 1.0", BatchRange(1, 2, 4), 64, True
    tensors = (PlanTensor("image", True, "uint8", (100,)), PlanTensor("logits", False, "int64", ()))

    def make_context(self, scratch: int, scratch_bytes: int, *, cuda_graphs: bool) -> "SumContext":
        return SumContext()

    def close(self) -> None:
        pass


class SumContext:
    def bind(self, shapes: Sequence[tuple[str, tuple[int, ...]]], addresses: Sequence[tuple[str, int]]) -> None:
        self.rows, self.places = shapes[0][1][0], dict(addresses)

    def enqueue(self, stream: int) -> None:
        image = np.ctypeslib.as_array((ctypes.c_uint8 * (self.rows * 100)).from_address(self.places["image"]))
        sums = image.reshape(self.rows, 100).sum(1, dtype=np.int64)
        ctypes.memmove(self.places["logits"], sums.ctypes.data, sums.nbytes)

    def close(self) -> None:
        pass


def error_of(call: Any) -> str:
    try:
        call()
    except SessionError as error:
        return str(error)
    return "no error"


def hammer(session: TrtSession, threads: int, rounds: int) -> int:
    """How many answers are wrong."""
    wrong: list[int] = []

    def work(owner: int) -> None:
        feeds = {"image": np.full((owner % 6 + 1, 100), owner, np.uint8)}
        for _ in range(rounds):
            wrong.extend(n for n in session.run(feeds)["logits"] if n != 100 * owner)

    running = [threading.Thread(target=work, args=(owner,)) for owner in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(wrong)


def capture(device: Device) -> int:
    """Capture nothing, launch it, free it; how often a capture began."""
    with device.activate():
        stream = device.open_stream()
        graph = stream.capture(lambda: None)
        graph.launch()
        graph.close()
        stream.wait_for(1)
        stream.close()
    return int(LIBRARY.stand_in_captured())


def current_context() -> int:
    context = ctypes.c_void_p()
    LIBRARY.cuCtxGetCurrent(ctypes.byref(context))
    return context.value or 0


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    device = module.open_device(0)
    session = TrtSession("plan", lanes=3, load=lambda *_: LoadedPlan(SumEngine(), device, Gpu("stand-in", "sm86", "CUDA 13.0")))
    found: dict[str, Any] = {"device": device.name, "wrong": hammer(session, 12, 30)}
    with session.prepare({"image": np.ones((3, 100), np.uint8)}) as call:
        call.enqueue()
        call.synchronize()
        found |= {"spans": call.spans_ms(), "idle": call.is_idle(), "sums": call.results()["logits"].tolist()}
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, error_of(lambda: session.run({"image": np.ones((1, 100), np.uint8)})).encode())
        os._exit(0)
    os.wait()
    found["child"] = os.read(reader, 1000).decode()
    found["alive"] = LIBRARY.stand_in_alive() > 0
    session.close()
    found |= {"left": LIBRARY.stand_in_alive(), "captures": capture(device), "left_after_capture": LIBRARY.stand_in_alive()}

    def ask_too_much() -> None:
        with device.activate():
            device.allocate(1 << 40)

    found |= {"too_much": error_of(ask_too_much), "no_gpu": error_of(lambda: module.open_device(3)), "context": current_context()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
