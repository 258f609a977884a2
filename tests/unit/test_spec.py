"""Values that check themselves."""

import dataclasses
import json
from typing import Any

import pytest

from deploykit.errors import UsageError
from deploykit.spec import ImageSpec, Precision

GOOD: dict[str, Any] = {"height": 224, "width": 224, "resize_size": 256}


def test_a_spec_survives_the_manifest() -> None:
    spec = ImageSpec(224, 224, 232, interpolation="bicubic", mean=(0.1, 0.2, 0.3), colour_order="bgr")
    assert ImageSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"height": 0}, "0 x 224"),
        ({"height": True}, "True x 224"),
        ({"width": 70000}, "224 x 70000"),
        ({"resize_size": 223}, "223"),
        ({"resize_size": None}, "None"),
        ({"resize_rule": "exact"}, "256"),
        ({"resize_rule": "longer"}, "'longer'"),
        ({"interpolation": "nearest"}, "'nearest'"),
        ({"colour_order": "grb"}, "'grb'"),
        ({"mean": (0.5, 0.5)}, r"\(0.5, 0.5\)"),
        ({"mean": (0.5, 0.5, float("nan"))}, "nan"),
        ({"std": (0.2, 0.0, 0.2)}, "0.0"),
        ({"std": 0.5}, "0.5"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_value_that_was_seen(change: dict[str, Any], seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        ImageSpec(**GOOD | change)


def test_a_spec_with_a_field_too_few_or_too_many_is_refused() -> None:
    data = ImageSpec(**GOOD).to_json()
    with pytest.raises(UsageError, match="expected"):
        ImageSpec.from_json({k: v for k, v in data.items() if k != "mean"})
    with pytest.raises(UsageError, match="brightness"):
        ImageSpec.from_json(data | {"brightness": 1})


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ImageSpec(**GOOD).height = 1  # type: ignore[misc]


def test_the_normalized_range_spans_black_and_white_in_every_channel() -> None:
    spec = ImageSpec(8, 8, 8, mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.5))
    assert spec.normalized_range == (-2.0, 1.0)  # (0 - 1) / 0.5 in the third channel, (1 - 0.5) / 0.5 in the first


def test_a_precision_is_its_own_name() -> None:
    assert [str(p) for p in Precision] == ["fp32", "fp16", "int8"]
    assert f"{Precision.FP16}/predict.onnx" == "fp16/predict.onnx"
