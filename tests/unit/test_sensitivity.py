"""Noise layer by layer: what one layer adds, and what has piled up; streamed over batches."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from deploykit.errors import GraphError, UsageError
from deploykit.quantization.calibrate import Batch
from deploykit.quantization.sensitivity import Layer, measure_layers, side_by_side
from tests.oracles.gradient_oracle import run
from tests.unit.quantized_graphs import RESIDUAL, images, quantized

Arrays = Mapping[str, npt.NDArray[Any]]


def _batches(array: npt.NDArray[Any], size: int) -> list[Batch]:
    pieces = [array[i : i + size] for i in range(0, len(array), size)]
    return [Batch(tuple(str(i) for i in range(len(piece))), {"image": piece}) for piece in pieces]


def _run(graph: onnx.ModelProto, feeds: Arrays) -> Arrays:
    return run(graph, **feeds)


LAYER = Layer("conv", "float", "int8", 1)


def _answers(feeds: Arrays) -> Arrays:
    """Float: the image. INT8: channel 0 moved by 0.5, the others right."""
    moved = feeds["image"].copy()
    moved[:, 0] += 0.5
    return {"float": feeds["image"], "int8": moved}


def test_signal_noise_and_shift_are_what_a_hand_computes() -> None:
    image = np.full((2, 3, 2, 2), 2.0, np.float32)
    found = measure_layers(_answers, [LAYER], _batches(image, 2))["conv"]
    assert found.signal == 2 * 12 * 4
    assert found.noise == 2 * 4 * 0.25
    assert found.shift.tolist() == [0.5, 0, 0]
    assert found.snr_db == pytest.approx(10 * np.log10(96 / 2))


def test_the_sums_do_not_depend_on_the_batch_size() -> None:
    image = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    whole, parts = (measure_layers(_answers, [LAYER], _batches(image, size))["conv"] for size in (5, 2))
    assert parts.count == whole.count == 5 * 16
    assert parts.noise == pytest.approx(whole.noise)
    np.testing.assert_allclose(parts.shift, whole.shift, atol=1e-6)  # float32 sums in another order


def test_both_sides_stand_in_one_graph_and_the_float_side_is_the_float_graph() -> None:
    form = quantized(RESIDUAL)
    both, layers = side_by_side(RESIDUAL, form, alone=True)
    assert [layer.tensor for layer in layers] == ["c", "d", "g", "logits"]
    answers = run(both, image=images(RESIDUAL, 3))
    expected = run(RESIDUAL, image=images(RESIDUAL, 3))["logits"]
    # A runtime fuses otherwise where inner tensors are outputs: one rounding.
    np.testing.assert_allclose(answers["logits"], expected, rtol=1e-5, atol=1e-6)


def test_together_is_the_quantized_graph_itself_and_alone_adds_one_layer_at_a_time() -> None:
    form = quantized(RESIDUAL)
    batches = _batches(images(RESIDUAL, 8), 4)
    noise = {}
    for alone in (True, False):
        both, layers = side_by_side(RESIDUAL, form, alone=alone)
        answers = run(both, image=images(RESIDUAL, 3))
        if not alone:
            expected = run(form.graph, image=images(RESIDUAL, 3))["logits"]
            # A runtime fuses otherwise where inner tensors are outputs.
            np.testing.assert_allclose(answers["logits_int8"], expected, rtol=1e-4, atol=1e-4)
        noise[alone] = measure_layers(partial(_run, both), layers, batches)
    # The first layer has nothing before it; what reaches the logits has passed all four.
    assert noise[True]["c"].noise == pytest.approx(noise[False]["c"].noise, rel=1e-3)
    for layer in ("d", "g", "logits"):
        assert noise[True][layer].noise < noise[False][layer].noise


def test_no_picture_and_no_layer_are_refused() -> None:
    with pytest.raises(UsageError, match="no picture"):
        measure_layers(_answers, [LAYER], [])
    with pytest.raises(UsageError, match="no layer"):
        measure_layers(_answers, [], [])


def test_infinity_is_refused_by_the_layers_name() -> None:
    with pytest.raises(GraphError, match="layer conv gives NaN or infinity"):
        measure_layers(_answers, [LAYER], _batches(np.full((1, 3, 1, 1), np.inf, np.float32), 1))
