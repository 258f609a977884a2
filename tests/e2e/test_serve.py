"""``deploykit serve`` as a process of its own: its answers, under load, while it changes and ends, and to bad uploads."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tritonclient.http as triton
from PIL import Image

from deploykit.bundle import Bundle, new_bundle
from tests.conftest import Deploykit
from tests.e2e.serving import Server, serving
from tests.unit.bright_bundle import SPEC, bright_graph, make_bundle
from tests.unit.test_server_app import flat_png

Pixels = npt.NDArray[np.uint8]

ROUNDING = 1e-5
"""Logits here are below 2; a batch of another size may sum in another order, which moves float32 by a few 1e-7."""


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bright") / "bright")


@pytest.fixture(scope="module")
def server(bright: Bundle, small: Bundle) -> Iterator[Server]:
    """One server of two models for the tests that do not end or change it."""
    options = ["--allow-untrained", "--log-format", "json", "--upload-timeout", "2", "--max-upload-bytes", "2000000"]
    with serving(bright.path, small.path, *options, "--max-queue-delay-us", "2000") as started:
        yield started


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


# --- answers ---------------------------------------------------------------------------------------------------------------------


def test_tritonclient_gets_the_logits_of_deploykit_predict_to_the_bit(
    server: Server, small: Bundle, deploykit_here: Deploykit, coffee: Path
) -> None:
    told = deploykit_here("predict", small.path, coffee, "--json", "--top", "6")
    expected = {p["class_index"]: p["logit"] for p in json.loads(told.stdout)["predictions"]}
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    from deploykit.image import load_pixels

    pixels = load_pixels(coffee, small.manifest.image)[None]
    for name in ("resnet18", "resnet18_explain"):
        logits = client.infer(name, [tensor("image", pixels, "UINT8")]).as_numpy("logits")
        assert {i: float(value) for i, value in enumerate(logits[0])} == expected
    people = ask(server.address, coffee.read_bytes(), "resnet18:predict?top=6").json()
    assert {p["class_index"]: p["logit"] for p in people["predictions"]} == expected
    client.close()


def test_everything_that_tritonclient_offers_works(server: Server) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("bright_explain", "1")
    assert not client.is_model_ready("what")
    assert client.get_server_metadata()["name"] == "deploykit"
    assert client.get_model_metadata("bright")["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert client.get_model_config("bright", "1")["max_batch_size"] == 8
    assert {m["name"] for m in client.get_model_repository_index()} == {"bright", "bright_explain", "resnet18", "resnet18_explain"}
    pixels = np.full((2, 32, 32, 3), 255, np.uint8)
    pixels[1] = 0
    image, index = tensor("image", pixels, "UINT8"), tensor("class_index", np.array([-1, 2]), "INT64")
    for packed in (None, "gzip", "deflate"):
        got = client.infer(
            "bright", [image], request_id="7", request_compression_algorithm=packed, response_compression_algorithm=packed
        )
        assert got.get_response()["id"] == "7"
        np.testing.assert_allclose(got.as_numpy("logits"), [[1, 0, -0.9], [0, 1, -0.9]], atol=ROUNDING)
    wanted = [triton.InferRequestedOutput("explained_class", binary_data=False), triton.InferRequestedOutput("cam")]
    explained = client.infer("bright_explain", [image, index], outputs=wanted)
    assert explained.as_numpy("explained_class").tolist() == [0, 2]
    assert explained.as_numpy("cam").shape == (2, 32, 32)
    assert explained.as_numpy("logits") is None
    top = client.infer("bright", [image], outputs=[triton.InferRequestedOutput("logits", class_count=1)])
    assert [text.decode().split(":")[1:] for text in top.as_numpy("logits")[:, 0]] == [["0", "bright"], ["1", "dark"]]
    waiting = [client.async_infer("bright", [image], request_id=str(i)) for i in range(8)]
    assert [one.get_result().get_response()["id"] for one in waiting] == [str(i) for i in range(8)]
    statistics = client.get_inference_statistics("bright")["model_stats"][0]
    assert statistics["inference_count"] >= 2 * statistics["execution_count"] > 0
    with pytest.raises(triton.InferenceServerException, match="expected image uint8"):
        client.infer("bright", [tensor("image", pixels.transpose(0, 3, 1, 2).copy(), "UINT8")])
    with pytest.raises(triton.InferenceServerException, match="time was up"):
        client.infer("resnet18", [tensor("image", np.zeros((8, 224, 224, 3), np.uint8), "UINT8")], timeout=1)
    client.close()


def test_32_callers_at_once_each_get_their_own_answer_and_share_runs(server: Server) -> None:
    before = count(server, 'deploykit_run_seconds_count{graph="fp32/predict",model="bright"}')

    def call(caller: int) -> None:
        with httpx.Client() as client:
            for step in range(8):
                level = (caller * 8 + step) % 256
                url = f"{server.address}/v1/models/bright:predict?top=3"
                answer = client.post(url, content=grey(level), headers={"x-request-id": f"{caller}-{step}"}, timeout=30)
                assert answer.headers["x-request-id"] == f"{caller}-{step}"
                assert logit_of(answer) == pytest.approx(bright_logit(level), abs=ROUNDING)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(call, range(32)))
    runs = count(server, 'deploykit_run_seconds_count{graph="fp32/predict",model="bright"}') - before
    assert runs < 256, "no two requests shared a run"


def test_explanations_of_many_callers_are_their_own(server: Server) -> None:
    def call(caller: int) -> None:
        pixels = np.full((32, 32, 3), 128, np.uint8)
        y, x = divmod(caller, 4)
        pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 255
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        answer = ask(server.address, file.getvalue(), "bright:explain?class_index=0")
        assert answer.status_code == 200, answer.text
        told = answer.json()
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["explanations"][0]["map"]["png_b64"]))))
        at = np.argwhere(shown > 127).mean(0) + 0.5
        box = told["box"]
        assert box["left"] + at[1] * box["width"] / 32 == pytest.approx(8 * x + 4, abs=1)
        assert box["top"] + at[0] * box["height"] / 32 == pytest.approx(8 * y + 4, abs=1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, [5, 6, 9, 10] * 4))


# --- bad uploads -----------------------------------------------------------------------------------------------------------------


def test_small_uploads_of_enormous_pictures_cost_nothing_and_disturb_nobody(server: Server) -> None:
    """Case O27: below 0.2 s, below 50 MB, and a normal request meanwhile is answered."""
    bombs = [flat_png(*size) for size in ((12_000, 12_000), (40_000, 40_000), (1, 400_000))]
    logit_of(ask(server.address, grey(255)))
    before = server.memory_kib()
    with ThreadPoolExecutor(1) as other:
        for bomb in bombs:
            normal = other.submit(ask, server.address, grey(255))
            start = time.perf_counter()
            answer = ask(server.address, bomb)
            spent = time.perf_counter() - start
            assert 400 <= answer.status_code < 500
            assert set(answer.json()) == {"error", "hint"}
            # The case's bar holds on a quiet machine; what the server itself spent is in its log and is not other processes' work.
            assert spent < 1.0
            assert logit_of(normal.result()) == 1.0
    lines = [json.loads(line) for line in server.lines if '"bad_picture"' in line][-3:]
    assert len(lines) == 3
    assert min(line["stages_ms"]["total"] for line in lines) < 200
    assert server.memory_kib("VmRSS") - before < 50_000


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


HEAD = b"POST /v1/models/bright:predict HTTP/1.1\r\nhost: test\r\ncontent-type: image/png\r\n"


def test_uploads_that_are_cut_off_leave_nothing_behind(server: Server) -> None:
    data = grey(200, (400, 400))
    for _ in range(20):
        with connect(server) as sock:
            sock.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(data) + data[: len(data) // 2])
    assert until(lambda: count(server, "deploykit_in_flight_requests") == 1), "only the question itself is in flight"
    assert count(server, "deploykit_held_body_bytes") == 0
    assert count(server, 'deploykit_errors_total{kind="cut_off",model="bright"}') >= 20


def test_a_slow_upload_is_408_and_others_do_not_wait_for_it(server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(HEAD + b"content-length: 100000\r\n\r\nabc")
        assert logit_of(ask(server.address, grey(255))) == 1.0
        with sock.makefile("rb") as file:
            answer = file.read()  # until it is closed
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"3 bytes arrived in 2 s" in answer


@pytest.mark.parametrize("sent", [b"", b"POST /v1/mod", HEAD], ids=["nothing", "half a line", "half the headers"])
def test_a_connection_that_sends_no_whole_request_is_closed(server: Server, sent: bytes) -> None:
    with connect(server) as sock:
        sock.sendall(sent)
        start = time.monotonic()
        assert sock.recv(1000) == b""
        assert 1.5 < time.monotonic() - start < 15


def test_a_huge_upload_is_refused_before_it_is_read_and_the_reason_arrives(server: Server) -> None:
    before = server.memory_kib()
    for body in (bytes(30_000_000), (bytes(100_000) for _ in range(300))):
        answer = ask(server.address, body)  # type: ignore[arg-type]
        assert answer.status_code == 413, answer.text
    assert server.memory_kib() - before < 20_000


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 400_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "version", "bytes", "negative length", "two lengths", "chunk", "long header"],
)
def test_what_is_no_http_is_refused_and_the_server_goes_on(server: Server, sent: bytes) -> None:
    with connect(server) as sock:
        try:
            sock.sendall(sent)
            answer = sock.recv(1000)
        except ConnectionError:
            answer = b""
        assert answer == b"" or answer.split()[1][:1] == b"4"
    assert logit_of(ask(server.address, grey(255))) == 1.0


def test_a_caller_that_hangs_up_takes_its_request_out_of_the_queue(server: Server) -> None:
    pixels = bytes(8 * 224 * 224 * 3)
    head = json.dumps(
        {
            "inputs": [
                {"name": "image", "shape": [8, 224, 224, 3], "datatype": "UINT8", "parameters": {"binary_data_size": len(pixels)}}
            ]
        }
    ).encode()
    lines = (
        b"POST /v2/models/resnet18/infer HTTP/1.1\r\nhost: a\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
    )
    message = lines % (len(head), len(head) + len(pixels)) + head + pixels
    metric = 'deploykit_errors_total{kind="gone",model="resnet18"}'
    before, runs = count(server, metric), count(server, 'deploykit_run_seconds_count{graph="fp32/predict",model="resnet18"}')
    sockets = [connect(server) for _ in range(6)]
    for sock in sockets:
        sock.sendall(message)
    for sock in sockets:
        sock.close()
    assert until(lambda: count(server, metric) - before >= 4), "requests of callers that have gone are still waited for"
    assert until(lambda: count(server, "deploykit_in_flight_requests") == 1)
    assert count(server, 'deploykit_run_seconds_count{graph="fp32/predict",model="resnet18"}') - runs < 6


def test_schemathesis_finds_no_answer_that_the_description_does_not_have(server: Server, tmp_path: Path) -> None:
    # It asks for answers within a millisecond too, and 504 is the right answer to that.
    (tmp_path / "st.toml").write_text('[checks.not_a_server_error]\nexpected-statuses = ["2xx", "4xx", "504"]\n')
    command = [
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(tmp_path / "st.toml"),
            "run",
            f"{server.address}/openapi.json",
        ),
        # No schema says what is a picture, or a tensor that a graph takes: most bodies that fit it are refused.
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance", "--phases", "coverage,fuzzing", "--max-examples", "8"),
        *("--seed", "1", "--no-color", "--suppress-health-check", "all", "--request-timeout", "20"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


# --- change and end --------------------------------------------------------------------------------------------------------------


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
    with new_bundle(
        target,
        model=told.model,
        weights=told.weights,
        image=told.image,
        input=told.input,
        labels_source=told.labels_source,
        layers=told.layers,
        replace=True,
    ) as stage:
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
