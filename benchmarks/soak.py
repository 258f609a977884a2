"""`deploykit serve` under load while things go wrong: no wrong answer, no accepted request lost, memory that stays.

    python -m benchmarks.soak [--requests 20000] [--quick]

Good callers ask all the time and check each answer. Meanwhile: malformed, huge, slow and cut-off uploads and wrong tensors; a
bundle that is replaced; a worker that is killed; a signal to stop. A full run writes results/soak.json. Exit code 1 where a promise
is broken.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.clients import HOST, Load, drive, exchange, multipart, post
from benchmarks.report import RESULTS, describe_machine, format_table, say, write_results
from benchmarks.serving_sides import OUR_PATH, OURS, Server, export_bundle, photo, start_server

CLIENTS = 8
LARGEST_GROWTH_MB = 10.0
"""Between the first tenth of the requests and the end; arenas and caches fill in the first seconds."""
PACKAGES = ("onnxruntime", "starlette", "uvicorn", "numpy", "pillow")
_NEVER_ACCEPTED = {"ConnectionRefusedError"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, metavar="N", help="of the steady part [default: 20000]")
    parser.add_argument("--quick", action="store_true", help="a few seconds of each part; writes no result")
    options = parser.parse_args()
    requests, seconds = (200, 3.0) if options.quick else (options.requests, 20.0)
    start = time.perf_counter()
    parts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        folder = Path(name)
        bundle = export_bundle(folder)
        plan: dict[str, Callable[[], dict[str, Any]]] = {
            "steady": lambda: steady(bundle, folder, requests),
            "bad uploads": lambda: bad_uploads(bundle, folder, seconds),
            "replaced bundle": lambda: replaced_bundle(bundle, folder),
            "killed worker": lambda: killed_worker(bundle, folder, seconds),
            "told to stop": lambda: told_to_stop(bundle, folder, seconds),
        }
        for title, part in plan.items():
            parts[title] = part()
            say(f"{title}: {'kept' if parts[title]['is_kept'] else 'BROKEN'}: {json.dumps(parts[title])}")
    rows = [
        [title, str(found["answers"]), str(found["broken"]), "kept" if found["is_kept"] else "BROKEN"]
        for title, found in parts.items()
    ]
    print(format_table(["part", "right answers", "wrong, lost or failed", "promise"], rows))
    if not options.quick:
        took = round(time.perf_counter() - start)
        write_results(RESULTS / "soak.json", {"machine": describe_machine(*PACKAGES), "took_seconds": took, "soak": parts})
    if not all(found["is_kept"] for found in parts.values()):
        sys.exit(1)


def steady(bundle: Path, folder: Path, requests: int) -> dict[str, Any]:
    """So many requests; resident memory after a tenth of them and at the end."""
    with _started(bundle, folder) as server:
        memory, answers, broken = [], 0, Counter[str]()
        while answers < requests:
            load = _ask(server, seconds=1.0)
            answers, broken = answers + len(load.latencies_ms), broken + Counter(load.failures)
            memory.append((answers, _resident_mb(server.process.pid)))
    early = next(mb for count, mb in memory if count >= requests / 10)
    growth = memory[-1][1] - early
    found = _found(answers, broken)
    found["is_kept"] = found["is_kept"] and growth <= LARGEST_GROWTH_MB
    return found | {"early_mb": round(early, 1), "late_mb": round(memory[-1][1], 1), "growth_mb": round(growth, 1)}


def bad_uploads(bundle: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Good callers beside bad ones; each bad one must get the status that says what was wrong."""
    with _started(bundle, folder, "--max-upload-bytes", str(4 << 20), "--upload-timeout", "1") as server:
        path = OUR_PATH
        wrong: list[str] = []
        seen: Counter[str] = Counter()
        stop = threading.Event()

        def annoy() -> None:
            while not stop.is_set():
                for title, (request, wanted) in _bad_requests(path).items():
                    status = _status(server.port, request)
                    seen[f"{title}: {status}"] += 1
                    if status != wanted:
                        wrong.append(f"{title} got {status}, expected {wanted}")

        thread = threading.Thread(target=annoy)
        thread.start()
        load = _ask(server, seconds=seconds)
        stop.set()
        thread.join()
    found = _found(len(load.latencies_ms), Counter(load.failures))
    found["is_kept"] = found["is_kept"] and not wrong
    return found | {"bad": dict(sorted(seen.items())), "wrong_statuses": sorted(set(wrong))}


def replaced_bundle(bundle: Path, folder: Path) -> dict[str, Any]:
    """`deploykit convert` replaces the bundle while callers ask; they go on until the new one is served."""
    with _started(bundle, folder) as server:
        before = _models(server.port)
        converting = subprocess.Popen(
            [sys.executable, "-m", "deploykit", "--quiet", "convert", str(bundle), "--precision", "fp16"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        answers, broken, deadline = 0, Counter[str](), time.monotonic() + 120
        while _models(server.port) == before and time.monotonic() < deadline:
            load = _ask(server, seconds=1.0)
            answers, broken = answers + len(load.latencies_ms), broken + Counter(load.failures)
        after = _models(server.port)
        load = _ask(server, seconds=1.0)
        converting.wait()
    found = _found(answers + len(load.latencies_ms), broken + Counter(load.failures))
    found["is_kept"] = found["is_kept"] and "fp16" in after
    return found | {"precisions": after}


def killed_worker(bundle: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """One of two workers dies by SIGKILL. The requests that it had are lost with their connections, at most one a caller."""
    with _started(bundle, folder, "--workers", "2") as server:
        workers = _children(server.process.pid)
        threading.Timer(seconds / 3, lambda: os.kill(workers[0], signal.SIGKILL)).start()
        load = _ask(server, seconds=seconds)
        deadline = time.monotonic() + 30
        while len(now := _children(server.process.pid)) < len(workers) and time.monotonic() < deadline:
            time.sleep(0.1)
    lost = sum(count for kind, count in load.failures.items() if kind in ("ConnectionResetError", "BrokenPipeError"))
    others = Counter({k: n for k, n in load.failures.items() if k not in ("ConnectionResetError", "BrokenPipeError")})
    found = _found(len(load.latencies_ms), others)
    found["is_kept"] = found["is_kept"] and lost <= CLIENTS and len(now) == len(workers) and workers[0] not in now
    return found | {"lost_with_the_worker": lost, "workers_before": len(workers), "workers_after": len(now)}


def told_to_stop(bundle: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """SIGTERM under load: every request that was taken is answered; later ones are refused by the kernel."""
    with _started(bundle, folder) as server:
        threading.Timer(seconds / 2, lambda: server.process.send_signal(signal.SIGTERM)).start()
        load = _ask(server, seconds=seconds)
        code = server.process.wait(30)
    refused = sum(n for kind, n in load.failures.items() if kind in _NEVER_ACCEPTED)
    found = _found(len(load.latencies_ms), Counter({k: n for k, n in load.failures.items() if k not in _NEVER_ACCEPTED}))
    found["is_kept"] = found["is_kept"] and code == 0
    return found | {"refused_afterwards": refused, "exit_code": code}


def _found(answers: int, failures: Counter[str]) -> dict[str, Any]:
    return {
        "answers": answers,
        "broken": sum(failures.values()),
        "failures": dict(failures),
        "is_kept": answers > 0 and not failures,
    }


@contextlib.contextmanager
def _started(bundle: Path, folder: Path, *options: str) -> Iterator[Server]:
    server = start_server(OURS, bundle, folder, *options)
    try:
        with server.awake():
            yield server
    finally:
        server.close()


def _ask(server: Server, seconds: float) -> Load:
    return drive(server.port, server.request, clients=CLIENTS, seconds=seconds, check=server.is_right)


def _bad_requests(path: str) -> dict[str, tuple[Callable[[socket.socket], None], str]]:
    """How each misbehaves on a connection, and the status that it must get; ``none`` where it has hung up itself."""
    body, content_type = multipart("image", "coffee.jpg", photo(), "image/jpeg")
    good = post(path, body, content_type)
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: image/jpeg\r\n"
    tensor = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
    infer = path.replace("/v1/", "/v2/").replace(":predict", "/infer")

    def slow(connection: socket.socket) -> None:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        # Then it falls silent: what arrives after the refusal would reset the connection before the refusal is read.
        for _ in range(5):
            connection.sendall(b"\xff")
            time.sleep(0.1)

    def cut_off(connection: socket.socket) -> None:
        connection.sendall(good[: len(good) // 2])
        connection.shutdown(socket.SHUT_RDWR)

    return {
        "no picture": (lambda c: c.sendall(post(path, b"not a picture at all", "image/jpeg")), "415"),
        "half a picture": (lambda c: c.sendall(post(path, photo()[:20_000], "image/jpeg")), "422"),
        "huge": (lambda c: c.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode()), "413"),
        "wrong tensor": (lambda c: c.sendall(post(infer, tensor, "application/json")), "400"),
        "slow": (slow, "408"),
        "cut off": (cut_off, "none"),
    }


def _status(port: int, misbehave: Callable[[socket.socket], None]) -> str:
    with socket.create_connection((HOST, port), timeout=30) as connection:
        try:
            misbehave(connection)
            return exchange(connection, b"")[0]
        except OSError:
            return "none"


def _models(port: int) -> list[str]:
    """The precisions that are served."""
    with socket.create_connection((HOST, port), timeout=30) as connection:
        _, body, _ = exchange(connection, f"GET /v1/models HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    return list(json.loads(body)["models"][0]["precisions"])


def _children(process: int) -> list[int]:
    """The worker processes: children that serve."""
    found = []
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline")
        if command.exists() and b"resource_tracker" not in command.read_bytes():
            found.append(int(child))
    return found


def _resident_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
