"""Weights into a stripped plan: what TensorRT is asked for, in order, and what becomes of its refusals. Played by a stand-in."""

import types
from pathlib import Path
from typing import Any

import pytest

from deploykit.errors import EngineError
from deploykit.trt import Flavour, refit_plan

GRAPH = Path("fp32/predict.onnx")


class Stand:
    """TensorRT's module as far as a refit uses it; ``fails`` names the step that refuses, ``asked`` what was called."""

    def __init__(self, fails: str = "", missing: tuple[str, ...] = ()) -> None:
        self.fails, self.missing = fails, missing
        self.asked: list[object] = []
        self.excludes_weights = True
        self.SerializationFlag = types.SimpleNamespace(EXCLUDE_WEIGHTS="EXCLUDE_WEIGHTS")
        stand = self

        class ILogger:
            pass

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, log: object) -> None:
                pass

            def deserialize_cuda_engine(self, plan: bytes) -> object:
                stand.asked.append(("load", plan, self.engine_host_code_allowed))
                return None if stand.fails == "load" else stand

        class Refitter:
            def __init__(self, engine: object, log: object) -> None:
                assert engine is stand

            def get_missing_weights(self) -> list[str]:
                return list(stand.missing)

            def refit_cuda_engine(self) -> bool:
                stand.asked.append("refit")
                return stand.fails != "refit"

        class OnnxParserRefitter:
            num_errors = 1

            def __init__(self, refitter: object, log: object) -> None:
                assert isinstance(refitter, Refitter)

            def refit_from_file(self, path: str) -> bool:
                stand.asked.append(("weights", path))
                return stand.fails != "weights"

            def get_error(self, index: int) -> Any:
                return types.SimpleNamespace(desc=lambda: "In importModel at /src/x.cpp:1 no such weight")

        self.ILogger, self.Runtime, self.Refitter, self.OnnxParserRefitter = ILogger, Runtime, Refitter, OnnxParserRefitter

    def get_plugin_registry(self) -> None:
        return None

    # What the engine and its serialization do stands here too.
    def create_serialization_config(self) -> "Stand":
        return self

    def clear_flag(self, flag: str) -> None:
        assert flag == self.SerializationFlag.EXCLUDE_WEIGHTS
        self.excludes_weights = False

    def serialize_with_config(self, config: object) -> bytes | None:
        if self.fails == "write":
            return None
        return b"stripped still" if self.excludes_weights else b"whole"


def flavour(stand: Stand) -> Flavour:
    return Flavour("tensorrt", "11.4.0.106", stand)


def test_a_plan_gets_the_weights_of_its_graph_and_is_written_with_them() -> None:
    stand = Stand()
    assert refit_plan(flavour(stand), b"plan", GRAPH) == b"whole"
    assert stand.asked == [("load", b"plan", False), ("weights", str(GRAPH)), "refit"]


def test_a_version_compatible_plan_may_bring_its_code() -> None:
    stand = Stand()
    refit_plan(flavour(stand), b"plan", GRAPH, version_compatible=True)
    assert stand.asked[0] == ("load", b"plan", True)


@pytest.mark.parametrize(
    ("stand", "message"),
    [
        (Stand("load"), r"tensorrt 11\.4\.0\.106 does not load the plan: no reason given"),
        (Stand("weights"), r"does not take the weights of fp32/predict\.onnx: .*no such weight"),
        (Stand(missing=tuple("abcdefg")), r"fp32/predict\.onnx lacks weights that the plan needs: a, b, c, d, e and 2 more"),
        (Stand("refit"), r"does not put the weights of fp32/predict\.onnx in"),
        (Stand("write"), r"does not write the plan with its weights"),
    ],
)
def test_what_tensorrt_refuses_is_an_error(stand: Stand, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        refit_plan(flavour(stand), b"plan", GRAPH)
