"""The Open Inference Protocol over HTTP: a request's bytes to tensors, tensors to an answer's bytes. Pure functions.

    request   JSON alone, or JSON followed by the binary data of its inputs; then the header Inference-Header-Content-Length says
              how long the JSON is
    answer    the same

Sources: https://github.com/kserve/open-inference-protocol (predict_rest) and Triton's extensions "binary tensor data",
"classification" and "parameters". What is not here is refused by name: shared memory, sequences.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploykit.errors import RequestError
from deploykit.server.tensors import (
    Array,
    check_datatype,
    check_shape,
    classify,
    datatype_of,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

HEADER_LENGTH = "inference-header-content-length"

MAX_JSON_BYTES = 16 << 20
"""Numbers as text are a tenth as fast as binary data, and Python holds 8 bytes and more for each."""

_MOST_TENSORS = 64
_SHARED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True)
class WantedOutput:
    """One output that a request asks for.

    Args:
        name: of the tensor.
        binary: send it as binary data.
        classes: 0 for the tensor itself; else so many of its greatest values per row, as text.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """What a request says.

    Args:
        id: the caller's own, given back; empty for none.
        inputs: arrays by tensor name.
        outputs: what is asked for; empty for all.
        binary: whether outputs that are not named come as binary data.
        timeout_us: how long the caller waits; None where it does not say.
    """

    id: str
    inputs: Mapping[str, Array]
    outputs: tuple[WantedOutput, ...] = ()
    binary: bool = False
    timeout_us: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def parse_request(body: bytes | bytearray, header_length: str | None) -> InferRequest:
    """Read a request's body.

    Args:
        body: not compressed.
        header_length: the value of the header Inference-Header-Content-Length, or None.

    Raises:
        RequestError: anything that the protocol does not allow; it names the tensor.
    """
    view = memoryview(body)
    size = _json_length(header_length, len(view))
    message = _read_json(view[:size])
    parameters = _object(message, "parameters")
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise RequestError(400, "sequence_id: models here keep no state between requests")
    binary = _flag(parameters, "binary_data_output", False)
    inputs, rest = _read_inputs(_list(message, "inputs"), view[size:])
    if len(rest):
        raise RequestError(400, f"{len(rest):,} bytes of binary data are left over, no input has them")
    return InferRequest(
        id=_text(message, "id"),
        inputs=inputs,
        outputs=tuple(_read_output(one, binary) for one in _list(message, "outputs")),
        binary=binary,
        timeout_us=_timeout(parameters),
        parameters=parameters,
    )


def choose_outputs(request: InferRequest, known: Sequence[str]) -> tuple[WantedOutput, ...]:
    """What to send: what was asked for, or everything.

    Raises:
        RequestError: an output that the graph does not have, or one that is named twice.
    """
    names = [one.name for one in request.outputs]
    for name in names:
        if name not in known:
            raise RequestError(400, f"unexpected inference output {name!r}, the model has {', '.join(known)}")
    if len(set(names)) != len(names):
        raise RequestError(400, f"outputs name one tensor twice: {', '.join(names)}")
    return request.outputs or tuple(WantedOutput(name, request.binary) for name in known)


def encode_answer(
    request: InferRequest, model: str, wanted: Sequence[WantedOutput], arrays: Mapping[str, Array], labels: Sequence[str] | None
) -> tuple[list[bytes], int | None]:
    """An answer's body, in pieces.

    Args:
        model: its name as the caller knows it.
        arrays: the outputs by name; what ``wanted`` does not name is left out.
        labels: of the classes, for outputs that are wanted as classes.

    Returns:
        The pieces, and the length of the JSON in front where binary data follows it; None where the body is JSON alone.

    Raises:
        RequestError: NaN or infinity in an output that goes as JSON.
    """
    outputs: list[dict[str, Any]] = []
    data: list[bytes] = []
    for one in wanted:
        array = classify(arrays[one.name], one.classes, labels) if one.classes else arrays[one.name]
        described: dict[str, Any] = {"name": one.name, "datatype": datatype_of(array), "shape": list(array.shape)}
        if one.binary:
            data.append(to_binary(array))
            described["parameters"] = {"binary_data_size": len(data[-1])}
        else:
            described["data"] = to_json(one.name, array)
        outputs.append(described)
    message = {"model_name": model, "model_version": "1", "outputs": outputs}
    if request.id:
        message["id"] = request.id
    head = json.dumps(message, separators=(",", ":")).encode()
    return [head, *data], len(head) if data else None


def _json_length(header_length: str | None, size: int) -> int:
    if header_length is None:
        length = size
    elif not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 12 and int(header_length) <= size):
        raise RequestError(400, f"Inference-Header-Content-Length is {header_length[:40]!r}, the body has {size:,} bytes")
    else:
        length = int(header_length)
    if length > MAX_JSON_BYTES:
        raise RequestError(
            413,
            f"{length:,} bytes of JSON, at most {MAX_JSON_BYTES:,} are allowed",
            "send tensors as binary data",
            kind="too_large",
        )
    return length


def _read_json(data: memoryview) -> dict[str, Any]:
    try:
        message = json.loads(bytes(data), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # ValueError: JSON's, Unicode's, and Python's limit of digits
        raise RequestError(400, f"the request is no JSON: {str(error)[:120]}") from error
    if not isinstance(message, dict):
        raise RequestError(400, f"the request is a JSON {type(message).__name__}, expected an object")
    return message


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _read_inputs(described: Sequence[object], rest: memoryview) -> tuple[dict[str, Array], memoryview]:
    inputs: dict[str, Array] = {}
    if not described:
        raise RequestError(400, "the request has no inputs")
    for one in described:
        if not isinstance(one, dict):
            raise RequestError(400, "an input is no JSON object")
        name = _name(one, "input")
        if name in inputs:
            raise RequestError(400, f"input {name} is given twice")
        shape, dtype, parameters = (
            check_shape(name, one.get("shape")),
            check_datatype(name, one.get("datatype")),
            _object(one, "parameters"),
        )
        if any(key in parameters for key in _SHARED):
            raise RequestError(400, f"input {name}: shared memory is not supported")
        size = parameters.get("binary_data_size")
        if size is None:
            inputs[name] = from_json(name, one.get("data"), shape, dtype)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) or "data" in one:
            raise RequestError(
                400,
                f"input {name}: binary_data_size is {size!r}, {len(rest):,} bytes are left, and data must not be given beside it",
            )
        inputs[name] = from_binary(name, rest[:size], shape, dtype)
        rest = rest[size:]
    return inputs, rest


def _read_output(one: object, binary: bool) -> WantedOutput:
    if not isinstance(one, dict):
        raise RequestError(400, "an output is no JSON object")
    name, parameters = _name(one, "output"), _object(one, "parameters")
    if any(key in parameters for key in _SHARED):
        raise RequestError(400, f"output {name}: shared memory is not supported")
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or not 0 <= classes < 2**31:
        raise RequestError(400, f"output {name}: classification is {classes!r}, expected a whole number")
    return WantedOutput(name, _flag(parameters, "binary_data", binary), classes)


def _timeout(parameters: Mapping[str, Any]) -> int | None:
    timeout = parameters.get("timeout")
    if timeout is None or timeout == 0:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise RequestError(400, f"timeout is {str(timeout)[:40]!r}, expected microseconds")
    return timeout


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(400, f"{name} is {str(value)[:40]!r}, expected true or false")
    return value


def _name(one: Mapping[str, Any], what: str) -> str:
    name = one.get("name")
    if not isinstance(name, str) or not name or len(name) > 200:
        raise RequestError(400, f"an {what}'s name is {str(name)[:40]!r}, expected text")
    return name


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key, "")
    if not isinstance(value, str) or len(value) > 1000:
        raise RequestError(400, f"{key} is {str(value)[:40]!r}, expected text of up to 1,000 characters")
    return value


def _object(message: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = message.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(400, f"{key} is {str(value)[:40]!r}, expected an object")
    return value


def _list(message: Mapping[str, Any], key: str) -> Sequence[object]:
    value = message.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST_TENSORS:
        raise RequestError(400, f"{key} is no list of up to {_MOST_TENSORS} tensors")
    return value
