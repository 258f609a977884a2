"""What every request passes: keys, limits, headers, metrics, errors; in this process."""

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from deploykit.bundle.manifest import sha256_of
from deploykit.server.app import make_app
from tests.unit.served import SETTINGS, picture, predict, start

KEY = "a-key-of-tests"


def test_a_request_id_that_could_forge_a_line_is_replaced(client: TestClient) -> None:
    for given in ("a b", "x" * 65):
        assert client.get("/v1/models", headers={"x-request-id": given}).headers["x-request-id"] != given


@pytest.mark.parametrize("declared", [True, False])
def test_more_bytes_than_allowed_are_413_by_their_header_or_as_they_come(client: TestClient, declared: bool) -> None:
    data = bytes(SETTINGS.max_upload_bytes + 1)
    answer = client.post("/v1/models/bright:predict", content=data if declared else iter([data[:1000], data[1000:]]))
    assert answer.status_code == 413
    assert "at most 200,000 bytes are allowed" in answer.json()["error"]
    assert answer.headers["connection"] == "close"


def test_a_packed_body_is_held_to_the_limit_when_unpacked(client: TestClient) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    answer = predict(client, bomb, **{"content-encoding": "gzip"})
    assert (len(bomb) < SETTINGS.max_upload_bytes, answer.status_code) == (True, 413)
    assert predict(client, gzip.compress(picture())[:-9], **{"content-encoding": "gzip"}).status_code == 400
    assert predict(client, picture(), **{"content-encoding": "br"}).status_code == 415


def test_unknown_models_addresses_and_methods_are_json_too(client: TestClient) -> None:
    for method, path, status in (
        ("POST", "/v1/models/what:predict", 404),
        ("GET", "/v2/models/what", 404),
        ("GET", "/v2/models/bright/versions/2", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/page/../settings.py", 404),
        ("GET", "/page/%2e%2e%2fsettings.py", 404),
        ("GET", "/v1/samples/coffee.png", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/", 404),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status, path
        assert set(answer.json()) <= {"error", "hint"}


def test_a_key_is_asked_for_on_everything_that_answers(bundles: dict[str, Path]) -> None:
    with TestClient(make_app(start({"bright": bundles["bright"]}, replace(SETTINGS, api_key=KEY)))) as client:
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/models", "/v2", "/v2/models/bright", "/v2/models/bright/ready", "/v1/samples", "/nowhere"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
        for given in (f"Bearer {KEY}x", KEY, "Bearer ", f"Basic {KEY}", "Bearer \xe4"):
            assert client.get("/v1/models", headers=[(b"authorization", given.encode("latin-1"))]).status_code == 401
        assert client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_every_answer_has_the_headers_that_keep_browsers_careful(client: TestClient) -> None:
    for path in ("/v1/models", "/nowhere", "/docs", "/docs/docs.js"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")


def test_the_description_s_page_asks_no_other_host() -> None:
    folder = Path(make_app.__code__.co_filename).parent / "docs"
    for file in folder.iterdir():
        text = file.read_text()
        assert "http:" not in text, file
        assert "https:" not in text, file
        assert "style=" not in text, file


def test_samples_are_the_pictures_right_in_their_folder(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    folder = tmp_path / "samples"
    (folder / "below").mkdir(parents=True)
    (folder / "a photo.png").write_bytes(picture())
    (folder / "notes.txt").write_text("no")
    (folder / ".hidden.png").write_bytes(picture())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with TestClient(make_app(start({"bright": bundles["bright"]}, replace(SETTINGS, samples=folder)))) as client:
        assert client.get("/v1/samples").json() == {"samples": [{"name": "a photo.png", "url": "/v1/samples/a%20photo.png"}]}
        found = client.get("/v1/samples/a%20photo.png")
        assert (found.content, found.headers["content-type"]) == (picture(), "image/png")
        for name in ("link.png", ".hidden.png", "notes.txt", "..%2fsecret.png", "below"):
            assert client.get(f"/v1/samples/{name}").status_code == 404


def test_metrics_and_log_say_what_happened_to_each_request(bundles: dict[str, Path]) -> None:
    lines = io.StringIO()
    state = start({"bright": bundles["bright"]}, SETTINGS, lines)
    with TestClient(make_app(state)) as client:
        predict(client, picture(), **{"x-request-id": "good"})
        predict(client, b"<html>", **{"x-request-id": "bad"})
        client.get("/v2/health/live")
        text = client.get("/metrics").text
    state.log.close()
    assert 'deploykit_requests_total{endpoint="predict",model="bright",status="200"} 1.0' in text
    assert 'deploykit_errors_total{kind="unsupported",model="bright"} 1.0' in text
    assert 'deploykit_stage_seconds_count{model="bright",stage="decode"} 1.0' in text
    assert 'deploykit_batch_rows_sum{graph="fp32/predict",model="bright"} 1.0' in text
    assert f'digest="{sha256_of(bundles["bright"] / "manifest.json")}"' in text
    good, bad = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (good["id"], good["status"], good["model"]) == ("good", 200, "bright")
    assert {"decode", "queue", "infer", "total"} <= set(good["stages_ms"])
    assert (bad["id"], bad["status"], bad["error"]) == ("bad", 415, "unsupported")


def test_a_defect_is_500_with_a_number_to_ask_about_and_no_inside(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.StringIO()
    state = start({"bright": bundles["bright"]}, SETTINGS, lines)
    with TestClient(make_app(state), raise_server_exceptions=False) as client:
        monkeypatch.setattr("deploykit.server.people.describe", lambda model: 1 / 0)
        answer = client.get("/v1/models", headers={"x-request-id": "q1"})
        assert answer.status_code == 500
        assert answer.json() == {"error": "the server failed", "hint": "its log has the reason under q1"}
    state.log.close()
    assert "ZeroDivisionError" in lines.getvalue()


def test_a_deadline_shorter_than_the_answer_is_504(client: TestClient) -> None:
    assert predict(client, picture(size=(1500, 1500)), **{"x-timeout-ms": "1"}).status_code == 504
    assert predict(client, picture(), **{"x-timeout-ms": "soon"}).status_code == 400


def test_bodies_that_wait_are_bounded_together(bundles: dict[str, Path]) -> None:
    state = start({"bright": bundles["bright"]}, SETTINGS)
    state.held.take(SETTINGS.max_held_bytes - 10)
    with TestClient(make_app(state)) as client:
        full = predict(client, picture())
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        state.held.give_back(SETTINGS.max_held_bytes - 10)
        assert predict(client, picture()).status_code == 200
        assert state.held.count == 0


def test_a_server_that_is_to_stop_is_not_ready_and_closes_connections(bundles: dict[str, Path]) -> None:
    state = start({"bright": bundles["bright"]}, SETTINGS)
    with TestClient(make_app(state)) as client:
        assert client.get("/v2/health/ready").status_code == 200
        state.draining = True
        assert [client.get(path).status_code for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/bright/ready")] == [
            200,
            503,
            503,
        ]
        answer = predict(client, picture())
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_too_many_requests_at_once_are_503_and_probes_are_answered_all_the_same(bundles: dict[str, Path]) -> None:
    state = start({"bright": bundles["bright"]}, replace(SETTINGS, max_requests=1))
    with TestClient(make_app(state)) as client:
        state.in_flight = 1
        full = predict(client, picture())
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert client.get("/v2/health/live").status_code == 200
        state.in_flight = 0
        assert predict(client, picture()).status_code == 200
