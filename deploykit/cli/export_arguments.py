"""``--kwargs``: text in, what a function is called with out. A JSON object, or KEY=VALUE as often as there are arguments."""

import json
from collections.abc import Sequence
from typing import Any

from deploykit.errors import UsageError

_HINT = """such as --kwargs '{"depth": 3}', or --kwargs depth=3 --kwargs act=relu"""


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """The arguments. A VALUE that is JSON (a number, true, null, a list) is taken as that, any other as text.

    Raises:
        UsageError: neither form, or one argument twice.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        found = _parse(text)
        twice = sorted(found.keys() & arguments.keys())
        if twice:
            raise UsageError(f"--kwargs gives {twice[0]!r} twice", hint="give each argument once")
        arguments |= found
    return arguments


def _parse(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if equals and key.isidentifier():
        try:
            return {key: json.loads(value)}
        except ValueError:
            return {key: value}
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except ValueError as error:
        raise UsageError(f"--kwargs is {text!r}, neither JSON ({error}) nor KEY=VALUE", hint=_HINT) from None
    if not isinstance(found, dict):
        raise UsageError(f"--kwargs is {text}, expected a JSON object or KEY=VALUE", hint=_HINT)
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are each given once; JSON itself would take the last."""
    keys = [key for key, _ in pairs]
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if twice:
        raise UsageError(f"--kwargs gives {twice[0]!r} twice", hint="give each argument once")
    return dict(pairs)
