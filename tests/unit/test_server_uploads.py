"""Bodies and questions without a server round them."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from deploykit.errors import RequestError, UsageError
from deploykit.server.forms import read_file
from deploykit.server.questions import read_predict
from deploykit.server.settings import Settings, share_cores
from deploykit.server.uploads import HeldBytes, find_picture, unpack


def form(**files: Any) -> tuple[bytes, str]:
    """What httpx sends for a form, and its Content-Type."""
    request = httpx.Request("POST", "http://test", files=files)
    return request.read(), request.headers["content-type"]


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20))
def test_a_file_comes_out_of_a_form_as_it_went_in(data: bytes, name: str) -> None:
    body, kind = form(before=("a", b"--x\r\n"), image=(name or "photo", data, "image/png"), after=("b", b"y"))
    assert find_picture(body, kind) == data


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_form_that_is_damaged_anywhere_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    body, kind = form(image=("photo.png", b"0123456789" * 3, "image/png"))
    at = data.draw(st.integers(0, len(body)))
    damaged = body[:at] + data.draw(st.binary(max_size=4)) + body[data.draw(st.integers(at, len(body))) :]
    try:
        found = find_picture(damaged, kind)
    except RequestError as refused:
        told = refused.status
    else:
        told = 200 if len(found) < len(body) else 0
    assert told in (200, 400, 422)


def test_the_names_of_a_form_s_parameters_are_read_in_any_case_and_quoted_or_not() -> None:
    body = b"--a;b\r\nCONTENT-disposition: form-data; NAME=image\r\n\r\npicture\r\n--a;b--\r\n"
    assert find_picture(body, 'Multipart/Form-Data ; Boundary="a;b"') == b"picture"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="latin-1"), max_size=40), st.sampled_from(["", "multipart/form-data; boundary=", "image/png;"]))
def test_any_content_type_is_understood_or_refused_and_nothing_else(text: str, before: str) -> None:
    body, _ = form(image=("photo.png", b"0123456789", "image/png"))
    try:
        found = find_picture(body, before + text)
    except RequestError as refused:
        told = refused.status
    else:
        told = 200 if found == body else 0  # as it came: no form was read with that boundary
    assert told in (200, 400, 415)


def test_two_pictures_or_endless_parts_are_refused() -> None:
    body, kind = form(image=("a.png", b"1"))
    boundary = kind.partition("boundary=")[2]
    part = body[: body.rindex(b"--" + boundary.encode())]
    end = body[len(part) :]
    with pytest.raises(RequestError, match="2 files named 'image', expected one"):
        find_picture(part + part + end, kind)
    with pytest.raises(RequestError, match="more than 32 parts"):
        read_file(part * 33 + end, boundary.encode(), "image")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100) | st.text(max_size=50).map(lambda text: json.dumps({"image": {"b64": text}}).encode()))
def test_json_bodies_are_read_or_refused_and_nothing_else(body: bytes) -> None:
    try:
        assert find_picture(body, "application/json")
    except RequestError as refused:
        told = refused.status
    else:
        told = 200
    assert told in (200, 400, 422)


@pytest.mark.parametrize("pack", [("gzip", gzip.compress), ("deflate", zlib.compress)], ids=lambda p: p[0])
def test_packed_bodies_are_unpacked_up_to_the_limit_and_to_the_last_byte(pack: tuple[str, Any]) -> None:
    name, compress = pack
    data = bytes(range(256)) * 40
    assert unpack(compress(data), name.upper(), len(data)) == data
    for body, status in ((compress(data), 413), (compress(data)[:-1], 400), (compress(data) + b"x", 400), (b"no", 400)):
        with pytest.raises(RequestError) as refused:
            unpack(body, name, len(data) - (status == 413))
        assert refused.value.status == status


def test_bytes_of_all_bodies_are_counted_and_given_back() -> None:
    held = HeldBytes(10)
    held.take(6)
    with pytest.raises(RequestError, match="hold 6 bytes, at most 10") as refused:
        held.take(5)
    assert refused.value.status == 503
    held.give_back(6)
    held.take(10)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["top", "precision", "method"]) | st.text(max_size=3), st.text(max_size=5)), max_size=3))
def test_questions_are_read_or_refused_and_nothing_else(fields: list[tuple[str, str]]) -> None:
    try:
        question = read_predict(QueryParams(fields))
    except RequestError:
        return
    assert question.top >= 1
    assert {name for name, _ in fields} <= {"top", "precision"}


@pytest.mark.parametrize(
    ("settings_", "reason"),
    [
        ({"max_upload_bytes": 0}, "max_upload_bytes is 0"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
        ({"max_held_bytes": 10}, "expected room for one"),
        ({"api_key": "schlüssel-lang"}, "printable ASCII"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings_: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Settings(**settings_)


@pytest.mark.parametrize(
    ("cores", "instances", "threads", "shared"),
    [
        (2, None, None, (2, 1)),
        (64, None, None, (8, 8)),
        (1, None, None, (1, 1)),
        (8, 1, None, (1, 8)),
        (8, None, 4, (2, 4)),
        (8, None, 0, (1, 0)),
        (2, 3, 5, (3, 5)),
    ],
)
def test_the_cores_are_shared_among_the_runs(
    cores: int, instances: int | None, threads: int | None, shared: tuple[int, int]
) -> None:
    assert share_cores(cores, instances, threads, on_cpu=True) == shared
    assert share_cores(cores, None, None, on_cpu=False) == (1, 0)


def test_a_key_does_not_show_in_what_settings_print() -> None:
    assert "a-secret-key" not in repr(Settings(api_key="a-secret-key"))
