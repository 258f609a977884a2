"""Names, namespaces and literals that C++ takes, and the file of arrays that it reads."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.errors import UsageError
from deploykit.integrations.cpp.arrays import pack_arrays, unpack_arrays
from deploykit.integrations.cpp.names import check_namespace, identifier, string_literal, string_view


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_lite0", "efficientnet_lite0"),
        ("timm:resnet50.a1_in1k", "timm_resnet50_a1_in1k"),
        ("my net (v2)!", "my_net_v2"),
        ("__init__", "init"),
        ("3d-net", "model_3d_net"),
        ("class", "class_model"),
        ("linux", "linux_model"),
        ("std", "std_model"),
        ("Käfer", "K_fer"),
        ("猫", "model"),
        ("", "model"),
    ],
)
def test_any_name_becomes_an_identifier_that_looks_like_it(name: str, expected: str) -> None:
    assert identifier(name) == expected


@given(st.text())
def test_an_identifier_is_never_one_of_the_compilers_own(name: str) -> None:
    made = identifier(name)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", made)
    assert identifier(made) == made
    assert check_namespace(f"acme::{made}")


@pytest.mark.parametrize("text", ["acme", "acme::vision", "deploykit::models::mine"])
def test_a_namespace_may_be_nested(text: str) -> None:
    assert check_namespace(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected names of letters"),
        ("acme:vision", "expected names of letters"),
        ("acme::", "expected names of letters"),
        ("::acme", "expected names of letters"),
        ("_acme", "expected names of letters"),
        ("ac__me", "expected names of letters"),
        ("1acme", "expected names of letters"),
        ("käfer", "expected names of letters"),
        ("acme {", "expected names of letters"),
        ("acme::class", "class is a word of C++ itself"),
        ("unix", "unix is a word of C++ itself"),
        ("std::net", "which is taken"),
        ("deploykit", "which is taken"),
        ("deploykit::detail", "which is taken"),
        ("deploykit::models", "which is taken"),
    ],
)
def test_a_namespace_that_does_not_compile_or_belongs_to_others_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_namespace(text)
    assert message in str(caught.value)
    assert repr(text) in str(caught.value)


def test_literals_are_ascii_whatever_the_text() -> None:
    assert string_literal('say "hi"') == '"say \\"hi\\""'
    assert string_literal("C:\\new") == '"C:\\\\new"'
    assert string_literal("what??/") == '"what\\?\\?/"'
    # Octal escapes end after three digits; hexadecimal ones would swallow the 1.
    assert string_literal("ä1\n") == '"\\303\\2441\\012"'
    assert string_view("a\0b") == '{"a\\000b", 3}'
    assert string_view("ab") == '"ab"'


def test_arrays_come_back_from_the_file_as_they_were() -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "bytes": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
        "empty": np.zeros((0, 4), np.float32),
        "numbers": np.array([-1, 2**40], np.int64),
        "floats": np.array([[1.5, -np.inf]], np.float32),
        "big": np.array([1, 258], ">i8"),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    data = pack_arrays(arrays)
    assert data.startswith(b"\x89DKA\r\n\x1a\n")
    found = unpack_arrays(data)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype.itemsize == array.dtype.itemsize


def test_numbers_in_the_file_are_little_endian_and_data_is_aligned() -> None:
    data = pack_arrays({"a": np.array([1], np.uint8), "b": np.array([258], np.int64)})
    assert data[8:16] == b"\x02\0\0\0\0\0\0\0"
    first, second = 16, 16 + 64
    assert data[first : first + 16] == b"a".ljust(16, b"\0")
    place = int.from_bytes(data[second + 40 : second + 48], "little")
    assert place % 16 == 0
    assert data[place:] == b"\x02\x01\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.zeros(1, np.float64)},
        {"a": np.zeros((), np.uint8)},
        {"a" * 16: np.zeros(1, np.uint8)},
        {"ä": np.zeros(1, np.uint8)},
    ],
)
def test_what_the_format_cannot_hold_is_a_defect(arrays: dict[str, npt.NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match="expected one of uint8, int64, float32 of rank 1 to 4"):
        pack_arrays(arrays)
