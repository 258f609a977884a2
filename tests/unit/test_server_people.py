"""What people ask, ``/v1``, in this process."""

import base64
import gzip
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deploykit.server.app import make_app
from tests.unit.served import LIMITS, SETTINGS, explain, flat_png, picture, predict, start


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
