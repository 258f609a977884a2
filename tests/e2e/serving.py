"""A real ``deploykit serve`` for tests: started on a free port, watched, and always ended."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy.typing as npt
import tritonclient.http as triton
from PIL import Image

START_S = 60
END_S = 30


@dataclass(eq=False)
class Server:
    """A server that answers.

    Args:
        process: of the server; with ``--workers`` of their parent.
        address: such as ``http://127.0.0.1:41234``.
        lines: what it has written to stderr so far.
    """

    process: "subprocess.Popen[str]"
    address: str
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_S)

    def memory_kib(self, field_name: str = "VmRSS") -> int:
        """Resident memory now, or at its highest (``VmHWM``), in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(f"{field_name}:")).split()[1])


@contextlib.contextmanager
def serving(*arguments: str | Path, **environment: str) -> Iterator[Server]:
    """Start ``deploykit serve ARGUMENT... --port 0``, wait until it takes requests, and end it with the block."""
    command = [sys.executable, "-m", "deploykit", "serve", *map(str, arguments), "--port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    lines: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    reader.start()
    try:
        address = process.stdout.readline().strip()
        watchdog.cancel()
        assert address.startswith("http://"), "".join(lines)
        yield Server(process, address, lines)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(END_S)
        process.stdout.close()
        process.stderr.close()


def grey(level: int, size: tuple[int, int] = (60, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, "PNG")
    return file.getvalue()


def bright_logit(level: int) -> float:
    """What the bright bundle says of a grey picture."""
    return max(0.0, level / 127.5 - 1)


def ask(address: str, data: bytes, path: str = "bright:predict?top=3", **options: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/models/{path}", content=data, headers={"content-type": "image/png"}, timeout=30, **options)


def logit_of(answer: httpx.Response, label: str = "bright") -> float:
    assert answer.status_code == 200, answer.text
    return float(next(p["logit"] for p in answer.json()["predictions"] if p["label"] == label))


def tensor(name: str, values: npt.NDArray[Any], datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values)
    return made


def count(server: Server, metric: str) -> float:
    """A counter's value at /metrics; 0 where it has not begun to count."""
    text = httpx.get(f"{server.address}/metrics").text
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(metric)), 0.0)


def until(is_true: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.05)
    return False


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


HEAD = b"POST /v1/models/bright:predict HTTP/1.1\r\nhost: test\r\ncontent-type: image/png\r\n"
