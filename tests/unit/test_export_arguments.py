"""``--kwargs``: JSON and KEY=VALUE, and what is neither."""

from typing import Any

import pytest

from deploykit.cli.export_arguments import parse_arguments
from deploykit.errors import UsageError


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), {}),
        (('{"depth": 3, "act": null}',), {"depth": 3, "act": None}),
        (("depth=3", "act=relu", "wide=true", "widths=[4, 8]", "url=a=b"),
         {"depth": 3, "act": "relu", "wide": True, "widths": [4, 8], "url": "a=b"}),
        (('{"depth": 3}', "act=relu"), {"depth": 3, "act": "relu"}),
        (("act=",), {"act": ""}),
    ],
)  # fmt: skip
def test_arguments_are_json_or_pairs(texts: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert parse_arguments(texts) == expected


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("depth",), "neither JSON"),
        (("two words=3",), "neither JSON"),
        (("[3]",), "expected a JSON object"),
        (("depth=3", "depth=4"), "'depth' twice"),
        (('{"depth": 3, "depth": 4}',), "'depth' twice"),
    ],
)
def test_what_is_neither_and_what_is_given_twice_is_refused(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_arguments(texts)
