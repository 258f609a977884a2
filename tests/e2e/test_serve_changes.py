"""``deploykit serve`` as a process of its own: replaced bundles, signals, killed workers, and what it refuses to start with."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import tritonclient.http as triton

from deploykit.bundle import Bundle, new_bundle
from tests.conftest import Deploykit
from tests.e2e.serving import HEAD, Server, ask, connect, count, grey, logit_of, serving, tensor, until
from tests.unit.bright_bundle import SPEC, bright_graph, described_as, make_bundle

pytestmark = pytest.mark.alone


def with_bias(path: Path, bias: float) -> Bundle:
    """The bright bundle, whose first logit is that much higher."""
    graph = bright_graph(SPEC)
    for constant in graph.graph.initializer:
        if constant.name == "bias":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array([bias, 0, 0.1], np.float32), "bias"))
    return make_bundle(path, graph)


def replace_bundle(target: Path, source: Bundle) -> None:
    """Put a bundle in another's place as every verb does: in one step."""
    told = source.manifest
    with new_bundle(target, **described_as(told), replace=True) as stage:
        for name in told.files:
            stage.add(name, (source.path / name).read_bytes())


def test_a_replaced_bundle_takes_over_under_load_and_a_broken_one_does_not(tmp_path: Path) -> None:
    target = with_bias(tmp_path / "bright", 0.0).path
    better = with_bias(tmp_path / "better", 10.0)
    seen: list[tuple[float, float]] = []
    has_ended = threading.Event()

    def load(server: Server) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        image = tensor("image", np.full((1, 32, 32, 3), 255, np.uint8), "UINT8")
        while not has_ended.is_set():
            begun = time.monotonic()
            seen.append((begun, float(client.infer("bright", [image]).as_numpy("logits")[0, 0])))
        client.close()

    with serving(target, "--log-format", "json") as server, ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(load, server) for _ in range(8)]
        try:
            first = httpx.get(f"{server.address}/v1/models").json()["models"][0]["bundle_digest"]
            replace_bundle(target, better)
            assert until(lambda: any('"reloaded"' in line for line in server.lines)), server.lines
            swapped = time.monotonic()
            second = httpx.get(f"{server.address}/v1/models").json()["models"][0]["bundle_digest"]
            (target / "fp32/predict.onnx").write_bytes(b"broken")
            (target / "manifest.json").write_text((target / "manifest.json").read_text() + "\n")
            assert until(lambda: any('"reload_refused"' in line for line in server.lines)), server.lines
            time.sleep(0.3)
        finally:
            has_ended.set()
        for caller in callers:
            caller.result()
        assert first != second
        assert httpx.get(f"{server.address}/v1/models").json()["models"][0]["bundle_digest"] == second
        assert count(server, 'deploykit_reloads_total{model="bright",outcome="done"}') == 1
    answers = {round(logit, 4) for _, logit in seen}
    assert answers == {1.0, 11.0}, "an answer of neither bundle"
    assert {round(logit, 4) for begun, logit in seen if begun > swapped} == {11.0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_under_load_it_finishes_every_request_it_took(bright: Bundle, number: int) -> None:
    lost: list[str] = []
    answered = threading.Semaphore(0)

    def load(address: str) -> None:
        with httpx.Client() as client:
            while True:
                try:
                    answer = client.post(f"{address}/v1/models/bright:explain?overlay=1", content=grey(255, (600, 600)), timeout=30)
                except httpx.ConnectError:
                    return  # it listens no more
                except httpx.HTTPError as error:
                    lost.append(repr(error))
                    return
                if answer.status_code != 200:
                    lost.append(answer.text)
                answered.release()

    with serving(bright.path, "--log-format", "json") as server, ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(load, server.address) for _ in range(8)]
        for _ in range(16):
            assert answered.acquire(timeout=30)
        assert server.stop(number) == 0
        for caller in callers:
            caller.result()
    assert lost == []
    assert any('"stopping"' in line for line in server.lines)
    assert not any("Traceback" in line for line in server.lines), server.lines


def test_a_second_signal_ends_it_at_once(bright: Bundle) -> None:
    with serving(bright.path) as server, connect(server) as sock:
        sock.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        assert server.process.poll() is None, "it did not wait for the request it had taken"
        start = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - start < 2


def test_the_grace_period_bounds_how_long_it_waits(bright: Bundle) -> None:
    with serving(bright.path, "--grace", "1") as server, connect(server) as sock:
        sock.sendall(HEAD + b"content-length: 100\r\n\r\nabc")
        time.sleep(0.3)
        start = time.monotonic()
        server.stop()
        assert 1 <= time.monotonic() - start < 6


def test_a_killed_worker_is_replaced_and_the_others_go_on(bright: Bundle) -> None:
    def workers(server: Server) -> set[int]:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        # multiprocessing's own helper is a child too, and serves nothing.
        return {int(pid) for pid in children if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()}

    with serving(bright.path, "--workers", "2", "--log-format", "json") as server:
        before = workers(server)
        assert len(before) == 2
        lost = 0
        for step in range(60):
            if step == 10:
                os.kill(min(before), signal.SIGKILL)
            try:
                assert logit_of(ask(server.address, grey(255))) == 1.0
            except httpx.HTTPError:
                lost += 1
        assert lost <= 1, "more was lost than what the killed worker had"
        assert until(lambda: len(workers(server) - {min(before)}) == 2)
        assert until(lambda: any('"worker_ended"' in line and '"exit_code": -9' in line for line in server.lines))
        assert count(server, 'deploykit_requests_total{endpoint="predict",model="bright",status="200"}') >= 59
        assert server.stop() == 0
        assert not any("Traceback" in line for line in server.lines), server.lines


def test_workers_that_cannot_start_say_why(bright: Bundle, deploykit: Deploykit) -> None:
    done = deploykit("serve", bright.path, "--precision", "int8", "--workers", "2", "--port", "0")
    assert done.returncode == 1
    assert "has no int8 predict graph; it has fp32" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_key_may_come_from_the_environment_and_is_in_no_line(bright: Bundle) -> None:
    with serving(bright.path, DEPLOYKIT_API_KEY="a-secret-of-tests") as server:
        assert ask(server.address, grey(0)).status_code == 401
        with httpx.Client(headers={"authorization": "Bearer a-secret-of-tests"}) as client:
            assert client.get(f"{server.address}/v1/models").status_code == 200
    assert not any("a-secret-of-tests" in line for line in server.lines)


def test_what_cannot_be_served_is_said_before_it_listens(
    deploykit_here: Deploykit, bright: Bundle, small: Bundle, tmp_path: Path
) -> None:
    damaged = with_bias(tmp_path / "damaged", 1.0).path
    (damaged / "fp32/explain.onnx").write_bytes(b"no")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, code, reason in (
            ((small.path,), 1, "is untrained"),
            ((damaged,), 1, "fp32/explain.onnx has 2 bytes"),
            ((tmp_path / "nothing",), 1, "nothing does not exist, expected the folder of a bundle"),
            ((bright.path, "--precision", "int8"), 1, "has no int8 predict graph; it has fp32"),
            ((bright.path, bright.path), 2, "two bundles would be named bright"),
            ((bright.path, "--name", "a", "--name", "b"), 2, "2 names for 1 bundles"),
            ((bright.path, "--name", "a/b"), 2, "cannot be named 'a/b'"),
            ((bright.path, "--api-key", "short"), 2, "at least 8"),
            ((bright.path, "--samples", tmp_path / "no"), 2, "is no folder of sample pictures"),
        ):
            done = deploykit_here("serve", *arguments, "--port", "0")
            assert (done.returncode, done.stdout) == (code, ""), done.stderr
            assert reason in done.stderr
            assert "Traceback" not in done.stderr
        done = deploykit_here("serve", bright.path, "--port", port)
        assert done.returncode == 2
        assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
