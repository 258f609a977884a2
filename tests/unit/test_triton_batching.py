"""Shapes, profiles and wishes against max_batch_size (case O28): the config is derived from the file, or the wish is refused."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.errors import UsageError
from deploykit.integrations.triton import ModelConfig, check_against, find_max_batch, model_tensor
from deploykit.plan import BatchRange
from deploykit.runtime import OrtSession, TensorInfo
from tests.triton_config import parse_config

IMAGE = (TensorInfo("image", "uint8", ("N", 32, 32, 3)),)
LOGITS = (TensorInfo("logits", "float32", ("N", 10)),)


def write_graph(path: Path, image: list[int | str], scores: list[int | str]) -> OrtSession:
    """The three files of the case: averages of a picture's channels, under names of their own."""
    nodes = (
        [helper.make_node("GlobalAveragePool", ["img"], ["p"]), helper.make_node("Flatten", ["p"], ["prob"])]
        if len(image) == 4
        else [helper.make_node("ReduceMean", ["img"], ["prob"], axes=[1, 2], keepdims=0)]
    )
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("img", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, scores)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return OrtSession(path)


def config_of(session: OrtSession, wish: int | None) -> ModelConfig:
    max_batch = find_max_batch(session.inputs, session.outputs, wish)
    inputs, outputs = (tuple(model_tensor(t, max_batch) for t in tensors) for tensors in (session.inputs, session.outputs))
    return ModelConfig("case", "onnxruntime", inputs, outputs, max_batch)


@pytest.mark.parametrize(
    ("image", "scores", "wish", "max_batch", "dims", "score_dims"),
    [
        ([1, 3, 32, 32], [1, 3], None, 0, [1, 3, 32, 32], [1, 3]),
        (["n", 3, 32, 32], ["n", 3], 8, 8, [3, 32, 32], [3]),
        ([3, 32, 32], [3], None, 0, [3, 32, 32], [3]),
    ],
    ids=["a batch fixed at 1", "any batch", "no batch axis, three channels"],
)
def test_config_is_derived_from_the_file(
    tmp_path: Path,
    image: list[int | str],
    scores: list[int | str],
    wish: int | None,
    max_batch: int,
    dims: list[int],
    score_dims: list[int],
) -> None:
    with write_graph(tmp_path / "g.onnx", image, scores) as session:
        config = config_of(session, wish)
        check_against(config, session.inputs, session.outputs)
    parsed = parse_config(config.to_text())
    assert parsed.max_batch_size == max_batch
    assert [(t.name, t.data_type, list(t.dims)) for t in (*parsed.input, *parsed.output)] == [
        ("img", 11, dims),
        ("prob", 11, score_dims),
    ]


def test_a_wish_for_batches_of_a_fixed_file_is_refused(tmp_path: Path) -> None:
    with (
        write_graph(tmp_path / "g.onnx", [1, 3, 32, 32], [1, 3]) as session,
        pytest.raises(UsageError, match=r"max batch is 8, and img float32 \[1, 3, 32, 32\] has no batch axis of any length"),
    ):
        config_of(session, 8)


def test_three_channels_are_never_a_batch_of_three(tmp_path: Path) -> None:
    with write_graph(tmp_path / "g.onnx", [3, 32, 32], [3]) as session, pytest.raises(UsageError, match="no batch axis"):
        config_of(session, 8)


def test_the_fixed_size_itself_is_no_wish_to_refuse(tmp_path: Path) -> None:
    with write_graph(tmp_path / "g.onnx", [4, 3, 32, 32], [4, 3]) as session:
        assert config_of(session, 4).max_batch == 0


def test_an_output_without_batch_axis_ends_batching() -> None:
    mean = (TensorInfo("mean", "float32", (10,)),)
    assert find_max_batch(IMAGE, mean) == 0
    with pytest.raises(UsageError, match=r"mean float32 \[10\] has no batch axis"):
        find_max_batch(IMAGE, mean, 2)


@pytest.mark.parametrize(
    ("wish", "profile", "expected"), [(None, "1:4:16", 16), (3, "1:4:16", 3), (16, "1:4:16", 16), (None, "1", 1)]
)
def test_a_plan_gives_its_profiles_maximum(wish: int | None, profile: str, expected: int) -> None:
    assert find_max_batch(IMAGE, LOGITS, wish, BatchRange.parse(profile)) == expected


def test_more_than_the_profile_is_refused_before_triton_sees_it() -> None:
    with pytest.raises(UsageError, match="max batch is 16, the plan takes at most 8") as caught:
        find_max_batch(IMAGE, LOGITS, 16, BatchRange(1, 4, 8))
    assert caught.value.hint is not None
    assert "--batch 1:4:16" in caught.value.hint


def test_a_profile_that_takes_no_single_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="takes batches of 4 to 8, and Triton passes single requests on"):
        find_max_batch(IMAGE, LOGITS, None, BatchRange(4, 4, 8))


def test_a_graph_of_any_batch_gets_eight() -> None:
    assert find_max_batch(IMAGE, LOGITS) == 8


def test_a_tensor_with_nothing_but_the_batch_axis_is_reshaped() -> None:
    tensor = model_tensor(TensorInfo("class_index", "int64", ("N",)), 8)
    assert (tensor.dims, tensor.reshape) == ((1,), ())
    unbatched = model_tensor(TensorInfo("class_index", "int64", (4,)), 0)
    assert (unbatched.dims, unbatched.reshape) == ((4,), None)


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (TensorInfo("image", "uint8", ("N", 32, 32, 3)), None),
        (TensorInfo("img", "uint8", ("N", 32, 32, 3)), "inputs are image, the file has img"),
        (TensorInfo("image", "float32", ("N", 32, 32, 3)), "the file has image float32"),
        (TensorInfo("image", "uint8", ("N", 3, 32, 32)), r"the file has image uint8 \[N, 3, 32, 32\]"),
        (TensorInfo("image", "uint8", (1, 32, 32, 3)), r"the file has image uint8 \[1, 32, 32, 3\]"),
        (TensorInfo("image", "uint8", (32, 32, 3)), r"the file has image uint8 \[32, 32, 3\]"),
    ],
)
def test_a_written_config_is_held_against_the_file(described: TensorInfo, says: str | None) -> None:
    config = ModelConfig("m", "onnxruntime", (model_tensor(IMAGE[0], 8),), (model_tensor(LOGITS[0], 8),), 8)
    if says is None:
        check_against(config, [described], LOGITS)
        return
    with pytest.raises(UsageError, match=says):
        check_against(config, [described], LOGITS)
