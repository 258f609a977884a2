"""``deploykit serve`` as a process of its own: its answers, to tritonclient and to many callers at once."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from deploykit.bundle import Bundle
from tests.conftest import Deploykit
from tests.e2e.serving import Server, ask, bright_logit, count, grey, logit_of, tensor

pytestmark = pytest.mark.alone

ROUNDING = 1e-5
"""Logits here are below 2; a batch of another size may sum in another order, which moves float32 by a few 1e-7."""


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
    assert client.get_model_config("bright", "1")["max_batch_size"] == 4
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
        client.infer("resnet18", [tensor("image", np.zeros((4, 224, 224, 3), np.uint8), "UINT8")], timeout=1)
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
