import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.errors import RequestError
from deploykit.server.protocol import InferRequest, WantedOutput, choose_outputs, encode_answer, parse_request
from deploykit.server.tensors import DATATYPES, NAMES


def said(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4], **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


def parse(message: Any, binary: bytes = b"") -> InferRequest:
    head = json.dumps(message).encode()
    return parse_request(head + binary, str(len(head)) if binary else None)


@pytest.mark.parametrize("dtype", DATATYPES.values())
def test_what_tritonclient_sends_of_every_datatype_arrives_as_it_was(dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (2, 3, 1)).astype(dtype)
    tensor = triton.InferInput("x", values.shape, NAMES[dtype])
    tensor.set_data_from_numpy(values)
    body, length = triton.InferenceServerClient.generate_request_body([tensor], request_id="7", timeout=5000)
    parsed = parse_request(body, str(length))
    assert (parsed.id, parsed.timeout_us, parsed.binary) == ("7", 5000, True)
    assert parsed.inputs["x"].dtype == dtype
    np.testing.assert_array_equal(parsed.inputs["x"], values)


@pytest.mark.parametrize("dtype", DATATYPES.values())
def test_what_is_sent_is_read_by_tritonclient_as_it_was(dtype: str) -> None:
    values = np.random.default_rng(2).integers(0, 2 if dtype == "bool" else 100, (2, 3)).astype(dtype)
    for binary in (True, False):
        pieces, length = encode_answer(InferRequest("7", {}), "m", [WantedOutput("y", binary)], {"y": values}, None)
        assert (length is None) is not binary
        result = triton.InferenceServerClient.parse_response_body(b"".join(pieces), header_length=length)
        assert result.get_response()["id"] == "7"
        np.testing.assert_array_equal(result.as_numpy("y"), values)
        assert result.as_numpy("y").dtype == dtype


def test_several_inputs_share_the_binary_data_in_their_order() -> None:
    a, b = np.array([[1, 2]], np.int64), np.array([3.5], np.float32)
    inputs = [
        {"name": "a", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
        {"name": "between", "shape": [1], "datatype": "UINT8", "data": [9]},
        {"name": "b", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
    ]
    parsed = parse({"inputs": inputs}, a.tobytes() + b.tobytes())
    assert {name: array.tolist() for name, array in parsed.inputs.items()} == {"a": [[1, 2]], "between": [9], "b": [3.5]}


def test_json_data_may_be_nested_or_in_a_row() -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        assert parse(said(data=data)).inputs["x"].tolist() == [[1, 2], [3, 4]]


def test_numbers_in_json_survive_to_the_bit() -> None:
    values = np.array([[1 / 3, 1e-30, -0.0, 3.4e38]], np.float32)
    pieces, _ = encode_answer(InferRequest("", {}), "m", [WantedOutput("y", False)], {"y": values}, None)
    output = json.loads(pieces[0])["outputs"][0]
    again = parse({"inputs": [output]}).inputs["y"]
    assert again.tobytes() == values.tobytes()


def test_a_classification_gives_value_index_and_label_of_the_greatest() -> None:
    wanted = [WantedOutput("y", True, 2)]
    pieces, length = encode_answer(InferRequest("", {}), "m", wanted, {"y": np.array([[1, 3, 2]], np.float32)}, ("a", "b", "c"))
    result = triton.InferenceServerClient.parse_response_body(b"".join(pieces), header_length=length)
    assert result.as_numpy("y").tolist() == [[b"3.000000:1:b", b"2.000000:2:c"]]


def test_only_what_is_asked_for_is_sent() -> None:
    request = parse(said() | {"outputs": [{"name": "b", "parameters": {"binary_data": True}}]})
    wanted = choose_outputs(request, ["a", "b"])
    assert wanted == (WantedOutput("b", True),)
    with pytest.raises(RequestError, match="unexpected inference output 'b', the model has a"):
        choose_outputs(request, ["a"])


def test_nan_in_an_answer_is_said_where_json_cannot_say_it() -> None:
    nan = {"y": np.array([np.nan], np.float32)}
    with pytest.raises(RequestError, match="output y holds NaN"):
        encode_answer(InferRequest("", {}), "m", [WantedOutput("y", False)], nan, None)
    assert encode_answer(InferRequest("", {}), "m", [WantedOutput("y", True)], nan, None)[1] is not None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "a JSON list, expected an object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', "NaN is no JSON number"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [' + b"9" * 5000 + b"]}]}", "no JSON"),
        ({}, "has no inputs"),
        ({"inputs": "x"}, "inputs is no list"),
        ({"inputs": [1]}, "an input is no JSON object"),
        (said(name=""), "name is ''"),
        (said(shape=[2, -2]), r"shape is \[2, -2\]"),
        (said(shape=[True]), "shape is"),
        (said(shape=[2**40, 2**40]), "shape is"),
        (said(shape=[1] * 9), "shape is"),
        (said(datatype="BYTES"), "datatype is 'BYTES', expected one of BOOL"),
        (said(data=[1, 2, 3]), r"data has shape \[3\], expected \[2, 2\]"),
        (said(data=[[1], [2], [3], [4]]), r"data has shape \[4, 1\]"),
        (said(data=[[1, 2], [3]]), "nested unevenly"),
        (said(data=[1, 2, 3, 256]), "data goes from 1 to 256, beyond UINT8"),
        (said(data=[1, 2, 3, -1]), "beyond UINT8"),
        (said(data=[1, 2, 3, 4.5]), "values that are no UINT8"),
        (said(data=[1, 2, 3, "4"]), "values that are no UINT8"),
        (said(data=[1, 2, 3, None]), "values that are no UINT8"),
        (said(data=[1, 2, 3, 1e39], datatype="FP32"), "a number beyond FP32"),
        (said(data=[1, 2, 3, 10**30], datatype="FP32"), "no FP32"),
        (said(data=None), "data is None"),
        (said(data=None, parameters={"binary_data_size": 4}), "binary_data_size is 4, 0 bytes are left"),
        (said(parameters={"binary_data_size": True}), "binary_data_size is True"),
        (said(parameters={"shared_memory_region": "r"}), "shared memory is not supported"),
        ({"inputs": said()["inputs"] * 2}, "input x is given twice"),
        (said() | {"parameters": {"sequence_id": 3}}, "sequence_id"),
        (said() | {"parameters": {"timeout": "soon"}}, "timeout is 'soon'"),
        (said() | {"parameters": [1]}, "parameters is"),
        (said() | {"id": 7}, "id is '7', expected text"),
        (said() | {"outputs": [{}]}, "an output's name"),
        (said() | {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data is '1', expected true or false"),
    ],
)
def test_a_wrong_request_is_refused_with_what_was_seen(message: Any, reason: str) -> None:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    with pytest.raises(RequestError, match=reason) as refused:
        parse_request(body, None)
    assert refused.value.status == 400


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999", "٣", ""])
def test_a_header_length_that_does_not_fit_is_refused(length: str) -> None:
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        parse_request(json.dumps(said()).encode(), length)


def test_binary_data_must_be_as_long_as_the_shape_and_all_be_used() -> None:
    message = said(data=None, parameters={"binary_data_size": 3})
    with pytest.raises(RequestError, match=r"3 bytes of data, expected 4 for uint8 \[2, 2\]"):
        parse(message, b"abc")
    with pytest.raises(RequestError, match="1 bytes of binary data are left over"):
        parse(said(data=None, parameters={"binary_data_size": 4}), b"abcde")
    with pytest.raises(RequestError, match="bytes other than 0 and 1"):
        parse(said(data=None, shape=[1], datatype="BOOL", parameters={"binary_data_size": 1}), b"\x02")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "data", "x", "shape"]), inner, max_size=4),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=4) | JSON,
        "datatype": st.sampled_from([*DATATYPES, "BYTES"]) | JSON,
        "data": st.lists(st.integers(-300, 300), max_size=6) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9) | JSON}) | JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | JSON,
        "inputs": st.lists(TENSOR, max_size=3) | JSON,
        "outputs": st.lists(TENSOR, max_size=3) | JSON,
        "parameters": st.dictionaries(st.sampled_from(["timeout", "binary_data_output", "sequence_id"]), JSON) | JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(REQUEST, st.binary(max_size=12), st.none() | st.integers(-3, 3))
def test_whatever_is_sent_is_read_or_refused_and_nothing_else(message: Any, binary: bytes, off: int | None) -> None:
    head = json.dumps(message).encode()
    try:
        parsed = parse_request(head + binary, None if off is None else str(len(head) + off))
    except RequestError:
        return
    assert all(array.dtype.name in NAMES and array.nbytes <= 10_000 for array in parsed.inputs.values())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.none() | st.text(max_size=4))
def test_bytes_that_are_no_request_are_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(RequestError):
        parse_request(body, length)


def test_text_outputs_are_length_and_utf8() -> None:
    wanted = [WantedOutput("y", True, 1)]
    pieces, _ = encode_answer(InferRequest("", {}), "m", wanted, {"y": np.array([[1.0]], np.float32)}, ("ä",))
    text = "1.000000:0:ä".encode()
    assert pieces[1] == struct.pack("<I", len(text)) + text
