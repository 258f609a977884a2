"""``deploykit serve`` as a process of its own: uploads that are huge, slow, cut off or nonsense, and who must not notice."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.serving import HEAD, Server, ask, connect, count, grey, logit_of, until
from tests.unit.served import flat_png

pytestmark = pytest.mark.alone


def test_small_uploads_of_enormous_pictures_cost_nothing_and_disturb_nobody(server: Server) -> None:
    """Case O27: below 0.2 s, below 50 MB, and a normal request meanwhile is answered."""
    bombs = [flat_png(*size) for size in ((12_000, 12_000), (40_000, 40_000), (1, 400_000))]
    logit_of(ask(server.address, grey(255)))
    before = server.memory_kib()
    with ThreadPoolExecutor(1) as other:
        for bomb in bombs:
            spent = []
            for _ in range(3):
                normal = other.submit(ask, server.address, grey(255))
                start = time.perf_counter()
                answer = ask(server.address, bomb)
                spent.append(time.perf_counter() - start)
                assert 400 <= answer.status_code < 500
                assert set(answer.json()) == {"error", "hint"}
                assert logit_of(normal.result()) == 1.0
            # Of three: other processes may have had the cores meanwhile.
            assert min(spent) < 0.2
    assert server.memory_kib("VmRSS") - before < 50_000


def test_uploads_that_are_cut_off_leave_nothing_behind(server: Server) -> None:
    data = grey(200, (400, 400))
    with connect(server) as sock:
        sock.sendall(HEAD + b"content-length: 1000\r\n\r\n" + bytes(500))
        assert until(lambda: count(server, "deploykit_held_body_bytes") == 500)
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
    pixels = bytes(4 * 224 * 224 * 3)
    head = json.dumps(
        {
            "inputs": [
                {"name": "image", "shape": [4, 224, 224, 3], "datatype": "UINT8", "parameters": {"binary_data_size": len(pixels)}}
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
