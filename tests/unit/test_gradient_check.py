"""The guard at export passes a right explain graph and refuses each way in which one can be wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from deploykit.errors import ParityError, UsageError
from deploykit.graph.explain import make_explain_graph
from deploykit.graph.gradient_check import Arrays, Run, check_gradients
from deploykit.graph.tail import make_tail_graph
from tests.oracles.gradient_oracle import export, pictures, run, session

SIZE = 16


def as_run(model: onnx.ModelProto) -> Run:
    opened: onnxruntime.InferenceSession = session(model)
    return lambda feeds: run(opened, **feeds)


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    graph = export(model.eval(), SIZE)
    return as_run(make_explain_graph(graph, "1")), as_run(make_tail_graph(graph, "1"))


@pytest.fixture(scope="module")
def tied() -> tuple[Run, Run]:
    """A net whose max-pooling reads a ReLU's output, as VGG's does: many windows hold nothing but zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(294, 4))
    graph = export(model.eval(), SIZE)
    return as_run(make_explain_graph(graph, "1")), as_run(make_tail_graph(graph, "1"))


def changed(explain: Run, change: Callable[[dict[str, Any], Arrays], None]) -> Run:
    def wrapped(feeds: Arrays) -> Arrays:
        answer = dict(explain(feeds))
        change(answer, feeds)
        return answer

    return wrapped


def test_a_right_graph_passes_and_its_figures_are_reported(runs: tuple[Run, Run]) -> None:
    check = check_gradients(runs[0], pictures(3, SIZE), runs[1])
    assert check.between_classes > 0.1
    assert check.between_images > 0.1
    assert check.finite_difference is not None
    assert check.finite_difference < 5e-3
    assert check_gradients(runs[0], pictures(3, SIZE)).finite_difference is None
    assert check.to_json()["finite_difference"] == check.finite_difference


def test_the_gradient_of_pooled_zeros_is_that_of_raising_one(tied: tuple[Run, Run]) -> None:
    images = pictures(3, SIZE)
    activations = tied[0]({"image": images, "class_index": np.zeros(3, np.int64)})["activations"]
    windows = activations.reshape(3, 6, 7, 2, 7, 2).max((3, 5))
    assert (windows == 0).mean() > 0.05  # a central difference misses half of what these pass
    found = check_gradients(tied[0], images, tied[1]).finite_difference
    assert found is not None
    assert found < 5e-3
    with pytest.raises(ParityError, match="differ from finite differences by"):
        check_gradients(changed(tied[0], scaled), images, tied[1])


def scaled(answer: dict[str, Any], _feeds: Arrays) -> None:
    answer["gradients"] = answer["gradients"] * 1.1


def frozen(answer: dict[str, Any], _feeds: Arrays) -> None:
    answer["gradients"] = np.broadcast_to(answer["gradients"][:1], answer["gradients"].shape)


def constant(answer: dict[str, Any], _feeds: Arrays) -> None:
    answer["gradients"] = np.ones_like(answer["gradients"])


def same_image(answer: dict[str, Any], _feeds: Arrays) -> None:
    for name in ("gradients", "activations"):
        answer[name] = np.broadcast_to(answer[name][:1], answer[name].shape)


def zero(answer: dict[str, Any], _feeds: Arrays) -> None:
    answer["gradients"] = np.zeros_like(answer["gradients"])


def not_finite(answer: dict[str, Any], _feeds: Arrays) -> None:
    answer["cam"] = answer["cam"] * np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled, "differ from finite differences by"),
        (frozen, "differ from finite differences by"),
        (constant, "gradients of two classes differ by 0"),
        (same_image, "evidence maps of 3 images differ by 0"),
        (zero, "zero for every image"),
        (not_finite, "cam of the explain graph hold NaN"),
    ],
)
def test_a_wrong_gradient_is_refused_with_the_figure(
    runs: tuple[Run, Run], change: Callable[[dict[str, Any], Arrays], None], message: str
) -> None:
    with pytest.raises(ParityError, match=message):
        check_gradients(changed(runs[0], change), pictures(3, SIZE), runs[1])


def test_one_image_or_the_same_image_twice_proves_nothing(runs: tuple[Run, Run]) -> None:
    for images in (pictures(1, SIZE), np.repeat(pictures(1, SIZE), 2, 0)):
        with pytest.raises(UsageError, match="two images or more that differ"):
            check_gradients(runs[0], images)
