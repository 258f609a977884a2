"""The servers of serving.py, each a process of its own, and the runtime without one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import skimage.data
from PIL import Image

from benchmarks.clients import HOST, exchange, multipart, post
from deploykit.runtime import Classifier

MODEL = "efficientnet_lite0"
OURS = "deploykit serve"
START_S = 60.0
EXPECTED = "espresso"


def photo() -> bytes:
    """scikit-image's cup of coffee as a JPEG of 600 x 400 pixels, as a phone's preview would be: 60 kB."""
    file = BytesIO()
    coffee = skimage.data.coffee()  # type: ignore[no-untyped-call]
    Image.fromarray(coffee).save(file, "JPEG", quality=90)
    return file.getvalue()


def export_bundle(folder: Path) -> Path:
    """The bundle that all sides serve."""
    bundle = folder / MODEL
    command = [sys.executable, "-m", "deploykit", "--quiet", "export", MODEL, "--pretrained", "-o", str(bundle)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return bundle


def _ours(bundle: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "deploykit", "--quiet", "serve", str(bundle), "--port", str(port)]


def _fastapi(bundle: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.serving_fastapi", str(bundle), str(port)]


def _litserve(bundle: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.serving_litserve", str(bundle), str(port)]


SERVERS: Mapping[str, tuple[Callable[[Path, int], list[str]], str]] = {
    OURS: (_ours, f"/v1/models/{MODEL}:predict"),
    "FastAPI": (_fastapi, "/predict"),
    "LitServe": (_litserve, "/predict"),
}
"""How each is started, and where it takes a form with the file ``image``."""


@dataclass(frozen=True)
class Server:
    """A server's process group, and the request that it is asked."""

    process: "subprocess.Popen[bytes]"
    port: int
    request: bytes

    @contextlib.contextmanager
    def awake(self) -> "Iterator[Server]":
        """Let it run, and stop it afterwards: an idle server polls its queues, and two of them take a tenth of a core."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield self
        finally:
            with contextlib.suppress(ProcessLookupError):  # it may have been told to end
                os.killpg(self.process.pid, signal.SIGSTOP)

    @staticmethod
    def is_right(body: bytes) -> bool:
        """Whether an answer names the picture."""
        return bool(json.loads(body)["predictions"][0]["label"] == EXPECTED)

    def close(self) -> None:
        """End it and its children."""
        for which in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, which)
        self.process.wait()


def start_server(side: str, bundle: Path, folder: Path, *options: str) -> Server:
    """Start a server and wait for its first right answer; then it is stopped until it is asked.

    Raises:
        RuntimeError: it ended, or did not answer in time, with the end of what it said.
    """
    command, path = SERVERS[side]
    body, content_type = multipart("image", "coffee.jpg", photo(), "image/jpeg")
    log = folder / f"{side.replace(' ', '-')}.log"
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen([*command(bundle, port), *options], stdout=output, stderr=output, start_new_session=True)
    server = Server(process, port, post(path, body, content_type))
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=START_S) as connection:
            status, answer, _ = exchange(connection, server.request)
            if status == "200" and server.is_right(answer):
                os.killpg(process.pid, signal.SIGSTOP)
                return server
        time.sleep(0.2)
    server.close()
    raise RuntimeError(f"{side} gave no right answer in {START_S:.0f} s; the end of what it said: {log.read_text()[-1000:]}")


class InProcess:
    """The runtime without a server: the same picture from memory to ranked predictions, the quickest way that two cores have.

    As many threads as cores classify one picture after the other, each run on one core: no run waits for the slower of two threads.
    """

    def __init__(self, bundle: Path) -> None:
        self._classifier = Classifier.open(bundle, threads=1)
        self._photo = photo()

    def pictures_per_second(self, seconds: float) -> float:
        """Classify for so long."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        start = time.perf_counter()

        def work(_: int) -> int:
            count = 0
            while time.perf_counter() - start < seconds:
                assert self._classifier.classify(self._photo)[0].label == EXPECTED
                count += 1
            return count

        with ThreadPoolExecutor(cores) as pool:
            done = sum(pool.map(work, range(cores)))
        return done / (time.perf_counter() - start)
