"""config.pbtxt read by somebody else's parser: protobuf's, with the messages that tritonclient carries."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import tritonclient
from google.protobuf import json_format, text_format


@cache
def _messages() -> Any:
    """tritonclient's generated module, read by itself: its package also wants grpc, which nothing here needs."""
    path = Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse_config(text: str) -> Any:
    """The ``ModelConfig`` message of a config.pbtxt; a field that does not exist is an error."""
    return text_format.Parse(text, _messages().ModelConfig())


def parse_served(config: dict[str, Any]) -> Any:
    """The same message out of what a server's config endpoint answers, without what the server adds of its own."""
    message = json_format.ParseDict(config, _messages().ModelConfig())
    message.ClearField("optimization")
    for group in message.instance_group:
        group.name = ""
    if message.HasField("dynamic_batching"):
        message.dynamic_batching.ClearField("priority_queue_policy")
    return message
