"""What the Python models share, with stand-ins for what Triton brings; tests/e2e/test_triton_server.py has the real thing."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deploykit.errors import ImageError, InputError, SessionError
from deploykit.integrations.triton import find_container
from deploykit.integrations.triton.answers import check_numpy, refusal, response
from deploykit.integrations.triton.kubernetes import dns_name, to_yaml


@dataclass
class Tensor:
    """Triton's, as far as it is used."""

    name: str
    array: npt.NDArray[Any]

    def to_dlpack(self) -> npt.NDArray[Any]:
        return self.array

    @classmethod
    def from_dlpack(cls, name: str, capsule: npt.NDArray[Any]) -> "Tensor":
        return cls(name, capsule)

    def as_numpy(self) -> npt.NDArray[Any]:
        return self.array


class BrokenTensor(Tensor):
    """As a stub compiled for numpy 1 makes it under numpy 2: every stride is 0."""

    def as_numpy(self) -> npt.NDArray[Any]:
        return np.lib.stride_tricks.as_strided(self.array, strides=(0,) * self.array.ndim)


@dataclass
class Response:
    tensors: list[Tensor]
    error: Any = None


@dataclass
class TritonError:
    INVALID_ARG, INTERNAL = 1, 2
    text: str
    code: int


@dataclass
class Backend:
    Tensor: Any = field(default=Tensor)
    InferenceResponse: Any = field(default=Response)
    TritonError: Any = field(default=TritonError)


def test_a_server_that_reads_arrays_as_they_are_may_serve() -> None:
    check_numpy(Backend())


def test_a_server_whose_arrays_are_garbage_is_refused() -> None:
    with pytest.raises(
        SessionError, match=r"compiled for numpy 1, and numpy .* is installed: arrays arrive as garbage; pip install"
    ):
        check_numpy(Backend(Tensor=BrokenTensor))


@pytest.mark.parametrize(
    ("error", "code"),
    [(ImageError("no picture"), 1), (InputError("wrong shape", hint="turn it"), 1), (SessionError("it broke"), 2)],
)
def test_a_refusal_says_whose_mistake_it_is_and_what_to_do(error: Exception, code: int) -> None:
    answer = refusal(Backend(), error)  # type: ignore[arg-type]
    assert answer.tensors == []
    assert answer.error.code == code
    assert str(error) in answer.error.text
    assert ("turn it" in answer.error.text) == isinstance(error, InputError)


def test_a_response_has_what_was_asked_for_in_contiguous_arrays() -> None:
    found = {"a": np.arange(6).reshape(2, 3).T, "b": np.zeros(1)}
    (tensor,) = response(Backend(), found, ["a"]).tensors
    assert tensor.name == "a"
    assert tensor.array.flags.c_contiguous
    assert np.array_equal(tensor.array, found["a"])


@pytest.mark.parametrize(
    ("version", "image", "is_certain"),
    [
        (None, "nvcr.io/nvidia/tritonserver:26.07-py3", True),
        ("10.13.3.9", "nvcr.io/nvidia/tritonserver:25.10-py3", True),
        ("10.14.1.48", "nvcr.io/nvidia/tritonserver:25.12-py3", True),
        ("10.14.2.1", "nvcr.io/nvidia/tritonserver:<YY.MM>-py3", False),
        ("11.1.0.5", "nvcr.io/nvidia/tritonserver:<YY.MM>-py3", False),
    ],
)
def test_a_container_is_named_where_a_source_names_it(version: str | None, image: str, is_certain: bool) -> None:
    found = find_container(version)
    assert (found.image, found.is_certain) == (image, is_certain)
    assert "https://" in found.why


@pytest.mark.parametrize(
    ("name", "expected"),
    [("efficientnet_lite0", "efficientnet-lite0"), ("My.Model_", "my-model"), ("___", "model"), ("a" * 80, "a" * 63)],
)
def test_kubernetes_gets_a_name_that_it_takes(name: str, expected: str) -> None:
    assert dns_name(name) == expected


def test_yaml_is_written_in_blocks() -> None:
    value = {"a": 1, "b": {"c": "x: y", "d": True}, "e": [{"f": "g", "h": [1, "2"]}, {"i": {}}], "j": []}
    assert to_yaml(value) == (
        'a: 1\nb:\n  c: "x: y"\n  d: true\ne:\n  - f: "g"\n    h:\n      - 1\n      - "2"\n  - i: {}\nj: []\n'
    )
