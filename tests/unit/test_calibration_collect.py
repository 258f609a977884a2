"""Calibrating a graph: what is counted, what is refused by name, and that nothing depends on batches or threads."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from deploykit.errors import GraphError, UsageError
from deploykit.graph.exposure import batch_size_for
from deploykit.quantization import calibrate
from deploykit.quantization.calibrate import Batch, Histograms, collect, expose
from deploykit.quantization.histogram import Histogram, add_values
from deploykit.quantization.methods import METHODS, thresholds, zero_tensors
from deploykit.quantization.placement import place
from deploykit.quantization.qdq import check_scales, quantize_graph
from deploykit.runtime.ort import OrtSession

Array = npt.NDArray[Any]


def _graph(bias: float = 0.1) -> onnx.ModelProto:
    """Two convolutions with a ReLU between them; a bias of -100 keeps the ReLU at zero (case O11)."""
    random = np.random.default_rng(2)
    second = random.normal(0, 0.3, (4, 6, 3, 3)).astype(np.float32)
    second[3] = 0
    second[1] *= np.float32(1e-42)
    weights = {"w": random.normal(0, 0.4, (6, 3, 3, 3)).astype(np.float32), "b": np.full(6, bias, np.float32), "w2": second}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c1"], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second"),
        helper.make_node("GlobalAveragePool", ["c2"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["logits"], name="flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


TENSORS = ("image", "r1", "c2", "logits")
IMAGES = np.random.default_rng(3).standard_normal((11, 3, 16, 16)).astype(np.float32)


def _batches(size: int, images: Array = IMAGES) -> Iterator[Batch]:
    for start in range(0, len(images), size):
        rows = images[start : start + size]
        yield Batch(tuple(f"{i}.jpg" for i in range(start, start + len(rows))), {"image": rows})


def _calibrate(size: int, threads: int = 1, bias: float = 0.1) -> Histograms:
    with OrtSession(expose(_graph(bias), TENSORS).SerializeToString(), threads=1) as session:
        return collect(session.run, TENSORS, _batches(size), threads=threads)


def test_every_value_of_every_image_is_counted() -> None:
    histograms = _calibrate(4)
    assert tuple(histograms) == TENSORS
    assert [h.count for h in histograms.values()] == [11 * 3 * 16 * 16, 11 * 6 * 14 * 14, 11 * 4 * 12 * 12, 11 * 4]
    assert (histograms["image"].minimum, histograms["image"].maximum) == (IMAGES.min(), IMAGES.max())
    assert histograms["r1"].minimum == 0
    assert 0.1 < histograms["r1"].zero_share < 0.9


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (3, 4), (11, 2)])
def test_batch_size_and_threads_change_nothing(size: int, threads: int) -> None:
    """What ONNX Runtime computes may depend on the batch in its last bits, so the values are recorded ones."""
    with OrtSession(expose(_graph(), TENSORS).SerializeToString(), threads=1) as session:
        recorded = session.run({"image": IMAGES})

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        rows = [int(np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]) for image in feeds["image"]]
        return {name: array[rows] for name, array in recorded.items()}

    one, other = (collect(run, TENSORS, _batches(s), threads=t) for s, t in ((4, 1), (size, threads)))
    for name in TENSORS:
        np.testing.assert_array_equal(one[name].counts, other[name].counts)


def test_the_caller_is_told_of_every_batch() -> None:
    told: list[int] = []
    with OrtSession(expose(_graph(), TENSORS).SerializeToString(), threads=1) as session:
        collect(session.run, TENSORS, _batches(4), on_batch=told.append)
    assert told == [4, 4, 3]


def test_an_activation_is_let_go_as_soon_as_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    held: set[int] = set()
    at_runs: list[int] = []
    at_counts: list[int] = []

    class Tracked(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            held.discard(id(self))

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        at_runs.append(len(held))
        outputs: dict[str, Array] = {name: np.ones((len(feeds["image"]), 5), np.float32).view(Tracked) for name in "abc"}
        held.update(map(id, outputs.values()))
        return outputs

    def count(histogram: Histogram, values: Array) -> Histogram:
        at_counts.append(len(held))
        return add_values(histogram, values)

    monkeypatch.setattr(calibrate, "add_values", count)
    collect(run, ["a", "b", "c"], _batches(1), threads=1)
    assert at_runs == [0] * 11
    assert at_counts == [3, 2, 1] * 11


@pytest.mark.parametrize(("value", "said"), [(np.nan, "1 NaN and 0 infinite"), (np.inf, "0 NaN and 1 infinite")])
def test_values_that_are_not_finite_name_the_tensor_and_the_image(value: float, said: str) -> None:
    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        x = feeds["image"].copy()
        x[x == IMAGES[6, 0, 0, 0]] = value
        return {"good": feeds["image"], "bad": x}

    with pytest.raises(GraphError, match=rf"tensor 'bad' has {said} of 3072 values, first in 6\.jpg"):
        collect(run, ["good", "bad"], _batches(4))


def test_a_graph_that_overflows_is_named_by_its_first_tensor() -> None:
    graph = _graph()
    graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((6, 3, 3, 3), 3e38, np.float32), "w"))
    with (
        OrtSession(expose(graph, ("c1", "r1")).SerializeToString(), threads=1) as session,
        pytest.raises(GraphError, match=r"tensor 'c1' .* first in 0\.jpg") as caught,
    ):
        collect(session.run, ("c1", "r1"), _batches(4))
    assert caught.value.hint


def test_a_tensor_that_a_run_leaves_out_is_named() -> None:
    with pytest.raises(GraphError, match="the run gave no r1"):
        collect(lambda feeds: {"c2": feeds["image"]}, ["c2", "r1"], _batches(4))


def test_integers_are_refused_by_name() -> None:
    with pytest.raises(GraphError, match="tensor 'x' is uint8"):
        collect(lambda feeds: {"x": feeds["image"].astype(np.uint8)}, ["x"], _batches(4))


def test_no_images_and_no_tensors_are_refused() -> None:
    with pytest.raises(UsageError, match="no image"):
        collect(lambda feeds: dict(feeds), ["image"], [])
    with pytest.raises(UsageError, match="no tensor"):
        collect(lambda feeds: dict(feeds), [], _batches(4))


def test_a_batch_whose_names_do_not_fit_is_not_made() -> None:
    with pytest.raises(ValueError, match="batch of 1 images: image has 2"):
        Batch(("a",), {"image": IMAGES[:2]})
    with pytest.raises(ValueError, match="expected at least one"):
        Batch((), {"image": IMAGES[:0]})


def test_exposing_a_tensor_of_another_graph_is_refused() -> None:
    with pytest.raises(UsageError, match="no tensors c9 to calibrate"):
        expose(_graph(), ["c1", "c9"])


def test_the_batch_is_as_large_as_the_activations_allow() -> None:
    per_image = 4 * (6 * 14 * 14 + 4 * 12 * 12)
    assert batch_size_for(_graph(), ["r1", "c2"], 5 * per_image) == 5
    assert batch_size_for(_graph(), ["r1", "c2"], 5 * per_image - 1) == 4
    assert batch_size_for(_graph(), ["r1", "c2"], 1) == 1
    assert batch_size_for(_graph(), ["r1", "c2"], 2**40) == 32


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_relu_gets_a_positive_scale_is_named_once_and_stays_exact(method: str) -> None:
    """Case O11: the range of a ReLU that never fires is [0, 0], and one filter behind it is zero, one subnormal."""
    histograms = _calibrate(4, bias=-100)
    assert zero_tensors(histograms) == ("r1", "c2", "logits")
    graph = _graph(-100)
    quantized = quantize_graph(graph, place(graph), thresholds(_whole(graph), method))
    check_scales(quantized.graph)
    assert quantized.report.zero_tensors.count("r1") == 1
    with OrtSession(quantized.graph.SerializeToString(), threads=1) as session:
        assert not session.run({"image": IMAGES})["logits"].any()


def _whole(graph: onnx.ModelProto) -> Histograms:
    """The histograms of all tensors that a placement asks for."""
    names = place(graph).calibrated
    with OrtSession(expose(graph, names).SerializeToString(), threads=1) as session:
        return collect(session.run, names, _batches(4), threads=1)


def test_one_image_is_enough_to_calibrate_with() -> None:
    with OrtSession(expose(_graph(), TENSORS).SerializeToString(), threads=1) as session:
        histograms = collect(session.run, TENSORS, _batches(1, IMAGES[:1]))
    assert all(0 < t <= histograms[name].largest for name, t in thresholds(histograms, "mse").items())
