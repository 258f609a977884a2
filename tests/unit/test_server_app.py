"""The application in this process, with a bundle whose answers can be told beforehand."""

import base64
import gzip
import io
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import onnx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deploykit.bundle import extend_bundle
from deploykit.bundle.manifest import sha256_of
from deploykit.errors import ParityError
from deploykit.image import DecodeLimits
from deploykit.server import inference, people, site
from deploykit.server.app import make_app, make_state
from deploykit.server.logs import Log
from deploykit.server.metrics import Metrics
from deploykit.server.repository import Repository
from deploykit.server.settings import BatchSettings, Settings
from deploykit.server.state import State
from deploykit.spec import Precision
from tests.unit.bright_bundle import SPEC, bright_graph, make_bundle
from tests.unit.bright_segments import make_segments_bundle

KEY = "a-key-of-tests"
LIMITS = DecodeLimits(max_bytes=200_000)
SETTINGS = Settings(batch=BatchSettings(max_batch_size=4), limits=LIMITS, max_upload_bytes=200_000, workers_of_pool=2)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("served")
    make_bundle(folder / "bright", input_gradients=True)
    make_segments_bundle(folder / "segments")
    return {"bright": folder / "bright", "segments": folder / "segments"}


def start(bundles: dict[str, Path], settings: Settings, lines: io.StringIO | None = None) -> State:
    log, metrics = Log("json", lines or io.StringIO()), Metrics()
    repository = Repository(bundles, settings, metrics, log)
    repository.open_all()
    return make_state(settings, repository, metrics, log)


@pytest.fixture(scope="module")
def client(bundles: dict[str, Path]) -> Iterator[TestClient]:
    with TestClient(make_app(start(bundles, SETTINGS)), raise_server_exceptions=False) as made:
        yield made


def picture(grey: int = 255, size: tuple[int, int] = (60, 40), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, form)
    return file.getvalue()


def flat_png(width: int, height: int) -> bytes:
    """1-bit grey, so small that no upload limit sees it."""
    packed = zlib.compressobj(9)
    row = b"\0" + bytes((width + 7) // 8)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def predict(client: TestClient, data: bytes, kind: str = "image/png", query: str = "", name: str = "bright", **headers: str) -> Any:
    return client.post(f"/v1/models/{name}:predict{query}", content=data, headers={"content-type": kind, **headers})


def explain(client: TestClient, query: str, data: bytes | None = None, name: str = "bright") -> Any:
    data = picture() if data is None else data
    return client.post(f"/v1/models/{name}:explain?{query}", content=data, headers={"content-type": "image/png"})


def test_a_picture_gets_the_same_answer_in_whatever_body_it_comes(client: TestClient) -> None:
    data = picture()
    answers = [
        predict(client, data),
        predict(client, data, "application/octet-stream"),
        predict(client, json.dumps({"image": {"b64": base64.b64encode(data).decode()}}).encode(), "application/json"),
        predict(client, gzip.compress(data), **{"content-encoding": "gzip"}),
        predict(client, zlib.compress(data), **{"content-encoding": "deflate"}),
        client.post("/v1/models/bright:predict", files={"other": b"x", "image": ("photo.png", data)}),
    ]
    assert [a.status_code for a in answers] == [200] * 6, answers[-1].text
    predictions = [a.json()["predictions"] for a in answers]
    assert all(p == predictions[0] for p in predictions)
    assert (predictions[0][0]["label"], predictions[0][0]["logit"]) == ("bright", 1.0)


def test_a_prediction_says_what_answered_and_how_long_each_stage_took(client: TestClient) -> None:
    answer = predict(client, picture(0), query="?top=2", **{"x-request-id": "mine-7"})
    told = answer.json()
    assert set(told) == {"model", "precision", "backend", "request_id", "predictions", "timing_ms"}
    assert (told["model"], told["precision"], told["request_id"]) == ("bright", "fp32", "mine-7")
    assert answer.headers["x-request-id"] == "mine-7"
    assert told["backend"].startswith("onnxruntime")
    assert [p["label"] for p in told["predictions"]] == ["dark", "bright"]
    assert set(told["timing_ms"]) == {"upload", "decode", "queue", "infer", "total"}
    assert sum(told["timing_ms"].values()) <= 2 * told["timing_ms"]["total"]


def test_a_request_id_that_could_forge_a_line_is_replaced(client: TestClient) -> None:
    for given in ("a b", "x" * 65):
        assert client.get("/v1/models", headers={"x-request-id": given}).headers["x-request-id"] != given


def test_an_explanation_shows_where_and_lies_on_the_photo(client: TestClient) -> None:
    pixels = np.full((40, 60, 3), 128, np.uint8)
    pixels[10:20, 20:30] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    answer = explain(client, "overlay=true&class_index=bright", file.getvalue())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["photo"] == {"width": 60, "height": 40}
    (one,) = told["explanations"]
    assert (one["label"], one["method"], one["layer"], one["has_evidence"]) == ("bright", "grad-cam", "features", True)
    shown = Image.open(io.BytesIO(base64.b64decode(one["map"]["png_b64"])))
    values = np.asarray(shown)
    assert (shown.mode, shown.size, values.max()) == ("L", (32, 32), 255)
    y, x = np.argwhere(values > 127).mean(0) + 0.5
    box = told["box"]
    # The spot's centre is (25, 15); a pixel of the network's is a bit more than one of the photo's.
    assert box["left"] + x * box["width"] / 32 == pytest.approx(25, abs=0.6)
    assert box["top"] + y * box["height"] / 32 == pytest.approx(15, abs=0.6)
    overlay = Image.open(io.BytesIO(base64.b64decode(one["overlay_png_b64"])))
    assert (overlay.mode, overlay.size) == ("RGB", (60, 40))


def test_several_classes_are_explained_in_the_order_asked_for_or_of_their_probability(client: TestClient) -> None:
    for query in ("class_index=2,0", "class_index=neither&class_index=0"):
        told = explain(client, query).json()
        assert [e["class_index"] for e in told["explanations"]] == [2, 0]
        assert [e["has_evidence"] for e in told["explanations"]] == [False, True]
    top = explain(client, "classes=top&top=2").json()
    assert [e["label"] for e in top["explanations"]] == [p["label"] for p in top["predictions"]] == ["bright", "dark"]


def test_every_method_that_a_model_says_it_can_do_is_done(client: TestClient) -> None:
    (model,) = [m for m in client.get("/v1/models").json()["models"] if m["name"] == "bright"]
    assert {"grad-cam", "cam", "guided-backprop"} <= set(model["methods"])
    for method in model["methods"]:
        answer = client.post(
            f"/v1/models/bright:explain?overlay=1&method={method}".replace("+", "%2B"),
            content=picture(),
            headers={"content-type": "image/png"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["explanations"][0]["method"] == method


def test_a_segmentation_model_names_shares_and_explains_a_class(client: TestClient) -> None:
    told = predict(client, picture(), name="segments").json()
    assert [(p["label"], p["share"]) for p in told["predictions"]] == [("bright", 1.0)]
    explained = explain(client, "overlay=true", picture(), name="segments")
    assert explained.status_code == 200, explained.text
    (one,) = explained.json()["explanations"]
    assert one["share"] == 1.0
    mask = Image.open(io.BytesIO(base64.b64decode(one["mask"]["png_b64"])))
    assert (mask.mode, mask.size) == ("L", (one["mask"]["width"], one["mask"]["height"]))
    assert mask.getextrema() == (255, 255)


def test_evidence_that_is_the_same_everywhere_is_told_from_none(client: TestClient) -> None:
    (flat,) = explain(client, "class_index=bright", picture()).json()["explanations"]
    assert (flat["has_evidence"], flat["is_even"]) == (True, True)
    (none,) = explain(client, "class_index=neither", picture()).json()["explanations"]
    assert (none["has_evidence"], none["is_even"]) == (False, False)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?top=0", "top is '0', expected a whole number from 1"),
        ("?top=x", "top is 'x'"),
        ("?topk=3", "unknown query field 'topk', expected any of top, precision"),
        ("?top=1&top=2", "query field top is given twice"),
        ("?precision=int8", "precision is 'int8', bright is served at fp32"),
    ],
)
def test_a_wrong_question_is_400_with_what_is_allowed(client: TestClient, query: str, reason: str) -> None:
    answer = predict(client, picture(), query=query)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("method=score-cam", "method is 'score-cam', expected one of grad-cam"),
        ("layer=feature", "explains no layer 'feature'; close: features"),
        ("method=deconvnet&layer=features", "takes no layer"),
        ("class_index=3", "class index is 3, expected 0 to 2"),
        ("class_index=brihgt", "no class has the label 'brihgt'; close: bright"),
        ("class_index=1&classes=top", "exclude each other"),
        ("classes=all", "classes is 'all', expected top"),
        ("classes=top&top=51", "51 classes to explain, at most 50"),
        ("overlay=maybe", "overlay is 'maybe', expected true or false"),
    ],
)
def test_a_wrong_wish_for_an_explanation_is_400_with_what_is_allowed(client: TestClient, query: str, reason: str) -> None:
    answer = explain(client, query)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("data", "kind", "status", "reason"),
    [
        (b"", "image/png", 422, "is empty"),
        (b"<html>404</html>", "image/png", 415, "HTML"),
        (picture()[:60], "image/png", 422, "cannot be decoded"),
        (picture(), "text/plain", 415, "Content-Type is 'text/plain'"),
        (b"{}", "application/json", 400, "has no picture"),
        (b'{"image": {"b64": "%%"}}', "application/json", 400, "no base64"),
        (b"{", "application/json", 400, "no JSON"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "form"),
        (
            b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\nabc\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            415,
            "picture",
        ),
        (
            b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
            "0 files",
        ),
        (
            b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\nabc',
            "multipart/form-data; boundary=x",
            400,
            "before its last",
        ),
        (b"--x--", "multipart/form-data", 400, "form"),
        (b"x", "multipart/form-data; boundary=" + "b" * 300, 400, "form"),
    ],
)
def test_a_body_that_holds_no_picture_is_refused_by_its_kind(
    client: TestClient, data: bytes, kind: str, status: int, reason: str
) -> None:
    answer = predict(client, data, kind)
    assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((12_000, 12_000), "at most 64,000,000 are allowed"),
        ((40_000, 40_000), "at most 64,000,000"),
        ((1, 400_000), "at most 100 : 1"),
    ],
)
def test_a_small_upload_of_an_enormous_picture_is_refused_by_its_header(
    client: TestClient, size: tuple[int, int], reason: str
) -> None:
    """Case O27; its limits of time and memory are held by tests/e2e/test_serve.py, in a process of its own."""
    data = flat_png(*size)
    assert len(data) < SETTINGS.max_upload_bytes
    for path in ("predict", "explain"):
        answer = client.post(f"/v1/models/bright:{path}", content=data, headers={"content-type": "image/png"})
        assert answer.status_code == 422
        assert reason in answer.json()["error"]


def test_formats_that_are_not_listed_are_refused_before_they_are_opened(bundles: dict[str, Path]) -> None:
    settings = replace(SETTINGS, limits=replace(LIMITS, formats=("PNG",)))
    with TestClient(make_app(start({"bright": bundles["bright"]}, settings))) as client:
        answer = predict(client, picture(form="JPEG"), "image/jpeg")
        assert answer.status_code == 415
        assert answer.json() == {"error": "the picture is a JPEG file", "hint": "allowed are PNG"}


@pytest.mark.parametrize("declared", [True, False])
def test_more_bytes_than_allowed_are_413_by_their_header_or_as_they_come(client: TestClient, declared: bool) -> None:
    data = bytes(SETTINGS.max_upload_bytes + 1)
    answer = client.post("/v1/models/bright:predict", content=data if declared else iter([data[:1000], data[1000:]]))
    assert answer.status_code == 413
    assert "200,000 bytes, which are allowed at most" in answer.json()["error"]
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


def test_the_inference_protocol_answers_predict_and_explain_with_the_graphs_own_tensors(client: TestClient) -> None:
    metadata = client.get("/v2/models/bright_explain").json()
    assert [t["name"] for t in metadata["inputs"]] == ["image", "class_index"]
    assert metadata["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    image = {"name": "image", "shape": [2, 32, 32, 3], "datatype": "UINT8", "data": [255] * 2 * 32 * 32 * 3}
    own = client.post("/v2/models/bright_explain/infer", json={"id": "9", "inputs": [image]}).json()
    assert (own["id"], own["model_name"], own["model_version"]) == ("9", "bright_explain", "1")
    assert {o["name"]: o["data"] for o in own["outputs"]}["explained_class"] == [0, 0]
    index = {"name": "class_index", "shape": [2, 1], "datatype": "INT32", "data": [1, -1]}
    named = client.post(
        "/v2/models/bright_explain/versions/1/infer", json={"inputs": [image, index], "outputs": [{"name": "explained_class"}]}
    )
    assert named.json()["outputs"] == [{"name": "explained_class", "datatype": "INT64", "shape": [2], "data": [1, 0]}]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({"shape": [1, 3, 32, 32]}, "expected image uint8 [N, 32, 32, 3]"),
        ({"datatype": "FP32"}, "has dtype float32, expected"),
        ({"name": "picture"}, "inputs are picture, the graph takes image"),
        ({"shape": [5, 32, 32, 3], "data": [0] * 5 * 3072}, "has 5 rows, at most 4 are allowed"),
        ({"shape": [0, 32, 32, 3], "data": []}, "an empty batch"),
    ],
)
def test_a_wrong_tensor_is_400_and_says_what_the_graph_takes(client: TestClient, tensor: dict[str, Any], reason: str) -> None:
    image = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [0] * 3072, **tensor}
    answer = client.post("/v2/models/bright/infer", json={"inputs": [image]})
    assert answer.status_code == 400
    assert reason in answer.text


def test_the_configuration_has_triton_s_words_and_the_server_s_numbers(client: TestClient) -> None:
    config = client.get("/v2/models/bright_explain/config").json()
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 256
    assert config["input"][0] == {"name": "image", "data_type": "TYPE_UINT8", "dims": [32, 32, 3]}
    assert config["input"][1] == {"name": "class_index", "data_type": "TYPE_INT64", "dims": [1], "reshape": {"shape": []}}
    index = client.post("/v2/repository/index").json()
    assert {one["name"] for one in index} == {"bright", "bright_explain", "segments", "segments_explain"}


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


def test_the_description_names_the_models_and_limits_that_there_are(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert "200,000 bytes" in told["info"]["description"]
    explain = told["paths"]["/v1/models/{name}:explain"]["post"]
    assert explain["parameters"][0]["schema"] == {"enum": ["bright", "segments"]}
    served = {route for route in told["paths"] if route.startswith("/v1")}
    assert served == {
        "/v1/models",
        "/v1/models/{name}/labels",
        "/v1/models/{name}:predict",
        "/v1/models/{name}:explain",
        "/v1/samples",
        "/v1/samples/{file}",
    }


def test_what_is_answered_is_what_the_description_says(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    headers = {"content-type": "image/png"}
    for method, path, address in (
        ("get", "/v1/models", "/v1/models"),
        ("get", "/v1/models/{name}/labels", "/v1/models/bright/labels"),
        ("post", "/v1/models/{name}:predict", "/v1/models/bright:predict"),
        ("post", "/v1/models/{name}:predict", "/v1/models/segments:predict"),
        ("post", "/v1/models/{name}:explain", "/v1/models/bright:explain?classes=top&overlay=1"),
        ("post", "/v1/models/{name}:explain", "/v1/models/segments:explain?overlay=1"),
        ("get", "/v1/samples", "/v1/samples"),
        ("get", "/v2", "/v2"),
        ("get", "/v2/models/{name}", "/v2/models/segments_explain"),
        ("get", "/v2/models/{name}/config", "/v2/models/bright/config"),
        ("get", "/v2/models/{name}/stats", "/v2/models/bright/stats"),
        ("post", "/v2/repository/index", "/v2/repository/index"),
    ):
        body: dict[str, Any] = {"content": picture(), "headers": headers} if "{name}:" in path else {}
        answer = client.request(method, address, **body)
        assert answer.status_code == 200, answer.text
        schema = told["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        errors = jsonschema_rs.validator_for({**schema, "components": told["components"]}).iter_errors(answer.json())
        assert [str(error) for error in errors] == [], address


def test_every_address_is_described(client: TestClient) -> None:
    routes = {route.path for route in (*people.ROUTES, *inference.ROUTES, *site.ROUTES)} - {"/page/{file}", "/docs/{file}"}
    assert routes == set(client.get("/openapi.json").json()["paths"])


def test_each_precision_of_a_bundle_answers_with_its_own_graph(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "two"
    shutil.copytree(bundles["bright"], path)
    graph = bright_graph(SPEC)
    bias = next(constant for constant in graph.graph.initializer if constant.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([5, 0, 0], np.float32), "bias"))
    with extend_bundle(path) as stage:
        stage.add("int8/predict.onnx", graph.SerializeToString())
    settings = replace(SETTINGS, precisions=(Precision.INT8, Precision.FP32))
    with TestClient(make_app(start({"two": path}, settings))) as client:
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["default_precision"], model["precisions"], model["explain_precisions"]) == (
            "int8",
            ["int8", "fp32"],
            ["fp32"],
        )
        for query, precision, logit in (("", "int8", 6.0), ("?precision=fp32", "fp32", 1.0)):
            told = predict(client, picture(), query=query, name="two").json()
            assert (told["precision"], told["predictions"][0]["logit"]) == (precision, logit)
        assert explain(client, "", name="two").status_code == 400
        assert "explains nothing at int8" in explain(client, "", name="two").json()["error"]
        assert explain(client, "precision=fp32", name="two").status_code == 200
        image = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [255] * 3072}
        request = {"inputs": [image], "parameters": {"precision": "fp32"}, "outputs": [{"name": "logits"}]}
        assert client.post("/v2/models/two/infer", json=request).json()["outputs"][0]["data"][0] == 1.0
        assert client.get("/v2/models/two_explain").status_code == 404


def test_too_many_requests_at_once_are_503_and_probes_are_answered_all_the_same(bundles: dict[str, Path]) -> None:
    state = start({"bright": bundles["bright"]}, replace(SETTINGS, max_requests=1))
    with TestClient(make_app(state)) as client:
        state.in_flight = 1
        full = predict(client, picture())
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert client.get("/v2/health/live").status_code == 200
        state.in_flight = 0
        assert predict(client, picture()).status_code == 200


def test_a_bundle_that_does_not_give_its_golden_answers_is_not_served(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "liar"
    shutil.copytree(bundles["bright"], path)
    file = io.BytesIO()
    pixels = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 255)])
    np.savez(file, image=pixels, logits=np.array([[1, 2, 3], [3, 2, 1]], np.float32))
    with extend_bundle(path) as stage:
        stage.add("golden.npz", file.getvalue())
    with pytest.raises(ParityError, match="of the largest logit from its golden vectors"):
        start({"liar": path}, SETTINGS)
