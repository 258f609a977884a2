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
from tests.triton_server import labels_request, read_labels, triton_command, unpack_server

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


@dataclass(frozen=True)
class Side:
    """How a server is started and asked.

    Args:
        command: from the bundle, a folder of its own and a port: the command line, and the environment; an empty one
            is ours.
        request: the bytes of a request with the photo.
        label: what an answer's body calls the photo.
    """

    command: Callable[[Path, Path, int], tuple[list[str], Mapping[str, str]]]
    request: Callable[[], bytes]
    label: Callable[[bytes], str]


def _ours(bundle: Path, _folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    return [sys.executable, "-m", "deploykit", "--quiet", "serve", str(bundle), "--port", str(port)], {}


def _fastapi(bundle: Path, _folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    return [sys.executable, "-m", "benchmarks.serving_fastapi", str(bundle), str(port)], {}


def _litserve(bundle: Path, _folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    return [sys.executable, "-m", "benchmarks.serving_litserve", str(bundle), str(port)], {}


def _triton(bundle: Path, folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    """Triton's Python backend with deploykit's runtime: the ensemble from the bytes of a picture to names, as `deploykit triton`
    writes it, with as many instances of one thread as `deploykit serve` has."""
    quiet, cores = [sys.executable, "-m", "deploykit", "--quiet"], str(os.cpu_count() or 1)
    plain, repository = folder / "plain" / MODEL, folder / "repository"  # without an explain graph, so that it explains nothing
    plain.parent.mkdir()
    options = ["--no-explain", "-o", str(plain)]
    subprocess.run([*quiet, "export", MODEL, "--pretrained", *options], check=True, stdout=subprocess.DEVNULL)
    options = ["-o", str(repository), "--instances", cores, "--decoders", cores, "--threads", "1"]
    subprocess.run([*quiet, "triton", str(plain), *options], check=True, stdout=subprocess.DEVNULL)
    server = folder / "triton"
    server.mkdir()
    return triton_command(unpack_server(server), [repository], port, memory=_shared_memory(port))


def _shared_memory(port: int) -> str:
    return f"deploykit_serving_{port}"


def _form(path: str) -> bytes:
    body, content_type = multipart("image", "coffee.jpg", photo(), "image/jpeg")
    return post(path, body, content_type)


def _first_label(body: bytes) -> str:
    return str(json.loads(body)["predictions"][0]["label"])


OUR_PATH = f"/v1/models/{MODEL}:predict"
SERVERS: Mapping[str, Side] = {
    OURS: Side(_ours, lambda: _form(OUR_PATH), _first_label),
    "FastAPI": Side(_fastapi, lambda: _form("/predict"), _first_label),
    "LitServe": Side(_litserve, lambda: _form("/predict"), _first_label),
    "Triton with deploykit": Side(_triton, lambda: labels_request(f"{MODEL}_pipeline", photo()), lambda body: read_labels(body)[0]),
}
PEERS = ("FastAPI", "LitServe")
"""Those that somebody would take instead; Triton runs deploykit's own models."""


@dataclass(frozen=True)
class Server:
    """A server's process group, and the request that it is asked."""

    process: "subprocess.Popen[bytes]"
    port: int
    request: bytes
    label: Callable[[bytes], str]

    @contextlib.contextmanager
    def awake(self) -> "Iterator[Server]":
        """Let it run, and stop it afterwards: an idle server polls its queues, and two of them take a tenth of a core."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield self
        finally:
            with contextlib.suppress(ProcessLookupError):  # it may have been told to end
                os.killpg(self.process.pid, signal.SIGSTOP)

    def is_right(self, body: bytes) -> bool:
        """Whether an answer names the picture."""
        return self.label(body) == EXPECTED

    def close(self) -> None:
        """End it and its children."""
        for which in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, which)
        self.process.wait()
        for left in Path("/dev/shm").glob(f"{_shared_memory(self.port)}*"):  # noqa: S108 Triton's, which only a clean exit removes
            left.unlink(missing_ok=True)


def start_server(name: str, bundle: Path, folder: Path, *options: str) -> Server:
    """Start a server and wait for its first right answer; then it is stopped until it is asked.

    Raises:
        RuntimeError: it ended, or did not answer in time, with the end of what it said.
    """
    side = SERVERS[name]
    log = folder / f"{name.replace(' ', '-')}.log"
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command, variables = side.command(bundle, folder, port)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], stdout=output, stderr=output, start_new_session=True, env=dict(variables) or None
        )
    server = Server(process, port, side.request(), side.label)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=START_S) as connection:
            status, answer, _ = exchange(connection, server.request)
            if status == "200" and server.is_right(answer):
                os.killpg(process.pid, signal.SIGSTOP)
                return server
        time.sleep(0.2)
    server.close()
    raise RuntimeError(f"{name} gave no right answer in {START_S:.0f} s; the end of what it said: {log.read_text()[-1000:]}")


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
