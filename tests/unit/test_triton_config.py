"""config.pbtxt: what is written, read back by protobuf; and what Triton would refuse, refused."""

from typing import Any

import pytest

from deploykit.errors import UsageError
from deploykit.integrations.triton import Batcher, ModelConfig, ModelTensor, Step, Warmup
from deploykit.integrations.triton.pbtxt import Word, quote, write_message
from tests.triton_config import parse_config

IMAGE = ModelTensor("image", "uint8", (224, 224, 3))
CLASS_INDEX = ModelTensor("class_index", "int64", (1,), reshape=())
LOGITS = ModelTensor("logits", "float32", (1000,), label_filename="labels.txt")


def config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "name": "lite0",
        "backend": "onnxruntime",
        "inputs": (IMAGE, CLASS_INDEX),
        "outputs": (LOGITS,),
        "max_batch": 8,
    }
    return ModelConfig(**values | changes)


def test_every_field_arrives_as_it_was_meant() -> None:
    parsed = parse_config(
        config(
            device="gpu",
            instances=2,
            file="model.onnx",
            batcher=Batcher((4, 8), 500),
            warmups=(Warmup("golden", 1, {"image": (224, 224, 3), "class_index": (1,)}),),
            parameters={"intra_op_thread_count": "3"},
        ).to_text()
    )
    assert (parsed.name, parsed.backend, parsed.max_batch_size, parsed.default_model_filename) == (
        "lite0",
        "onnxruntime",
        8,
        "model.onnx",
    )
    image, class_index = parsed.input
    assert (image.name, image.data_type, list(image.dims), image.HasField("reshape")) == ("image", 2, [224, 224, 3], False)
    assert list(class_index.dims) == [1]
    assert class_index.HasField("reshape")
    assert list(class_index.reshape.shape) == []
    (logits,) = parsed.output
    assert (logits.data_type, list(logits.dims), logits.label_filename) == (11, [1000], "labels.txt")
    (group,) = parsed.instance_group
    assert (group.count, group.kind) == (2, group.KIND_GPU)
    assert list(parsed.dynamic_batching.preferred_batch_size) == [4, 8]
    assert parsed.dynamic_batching.max_queue_delay_microseconds == 500
    assert parsed.version_policy.latest.num_versions == 1
    assert parsed.model_warmup[0].inputs["class_index"].input_data_file == "class_index"
    assert list(parsed.model_warmup[0].inputs["image"].dims) == [224, 224, 3]
    assert parsed.parameters["intra_op_thread_count"].string_value == "3"
    assert not parsed.response_cache.enable
    assert not parsed.model_transaction_policy.decoupled


def test_an_ensemble_has_steps_and_no_instances() -> None:
    parsed = parse_config(
        config(backend="ensemble", steps=(Step("a", {"x": "image"}, {"y": "logits"}),)).to_text(),
    )
    assert parsed.platform == "ensemble"
    assert not parsed.backend
    assert not parsed.instance_group
    (step,) = parsed.ensemble_scheduling.step
    assert (step.model_name, step.model_version, dict(step.input_map), dict(step.output_map)) == (
        "a",
        -1,
        {"x": "image"},
        {"y": "logits"},
    )


@pytest.mark.parametrize("text", ['a "quoted" name', "back\\slash", "two\nlines", "tab\t", "Käfer", "日本語", "\x01\x7f", ""])
def test_any_text_survives(text: str) -> None:
    assert parse_config(f"name: {quote(text)}").name == text


def test_what_is_no_value_of_the_format_is_a_defect() -> None:
    with pytest.raises(TypeError, match="float"):
        write_message({"x": 1.5})


def test_lists_messages_and_absent_fields_are_written_as_the_format_wants() -> None:
    assert write_message(
        {"a": [1, 2], "b": None, "c": [], "d": {}, "e": True, "f": Word("KIND_CPU"), "g": [{"h": "i"}, {"h": "j"}]}
    ) == ('a: [1, 2]\nd {\n}\ne: true\nf: KIND_CPU\ng {\n  h: "i"\n}\ng {\n  h: "j"\n}\n')


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "model name is 'a/b'"),
        ({"name": ""}, "model name"),
        ({"max_batch": 0, "batcher": Batcher((1,))}, "needs batches of 2 or more, max_batch_size is 0"),
        ({"max_batch": 1, "batcher": Batcher((1,))}, "needs batches of 2 or more, max_batch_size is 1"),
        ({"batcher": Batcher((4, 16))}, "does not fit max_batch_size 8"),
        ({"batcher": Batcher((8,), -1)}, "does not fit"),
        ({"warmups": (Warmup("w", 1, {"image": (224, 224, 3)}),)}, "does not fit inputs image, class_index"),
        ({"warmups": (Warmup("w", 9, {"image": (224, 224, 3), "class_index": (1,)}),)}, "max batch 8"),
        ({"backend": "ensemble"}, "an ensemble has steps"),
    ],
)
def test_a_config_that_triton_would_refuse_is_not_made(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        config(**changes)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("x", "complex64", (1,)), "dtype complex64"),
        (("x", "uint8", ()), "at least one"),
        (("x", "uint8", (0,)), "each -1 or 1 and more"),
        (("x", "uint8", (2,), ()), "do not become"),
    ],
)
def test_a_tensor_that_triton_would_refuse_is_not_made(values: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ModelTensor(*values)
