"""The Open Inference Protocol, ``/v2``, and the description of the interface; in this process."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import onnx
import pytest
from starlette.testclient import TestClient

from deploykit.bundle import extend_bundle
from deploykit.errors import ParityError
from deploykit.server import inference, people, site
from deploykit.server.app import make_app
from deploykit.spec import Precision
from tests.unit.bright_bundle import SPEC, bright_graph
from tests.unit.served import SETTINGS, explain, picture, predict, start


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
