"""How much of a graph is laid open at once: whole batches of a small graph, parts of one image of a large one."""

import pytest

from deploykit.graph import exposure
from deploykit.graph.exposure import batch_size_for, bytes_per_image, split
from tests.unit.quantized_graphs import RESIDUAL, graph_of

TENSORS = ("image", "c", "r", "d", "e")


def test_a_tensor_takes_four_bytes_a_number_and_two_in_fp16() -> None:
    assert bytes_per_image(RESIDUAL, ["image"]) == [4 * 3 * 12 * 12]
    half = graph_of("h = Cast <to=10> (image)", "logits = Cast <to=1> (h)", weights={}, image=(5,))
    assert bytes_per_image(half, ["image", "h"]) == [20, 10]


def test_a_batch_is_as_large_as_the_tensors_allow_and_never_empty() -> None:
    each = sum(bytes_per_image(RESIDUAL, TENSORS))
    assert batch_size_for(RESIDUAL, TENSORS, 3 * each) == 3
    assert batch_size_for(RESIDUAL, TENSORS, 3 * each - 1) == 2
    assert batch_size_for(RESIDUAL, TENSORS, 1) == 1
    assert batch_size_for(RESIDUAL, TENSORS, at_most=4) == 4


@pytest.mark.parametrize("copies", [1, 2])
def test_parts_hold_every_tensor_once_in_order_and_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    sizes = dict(zip(TENSORS, bytes_per_image(RESIDUAL, TENSORS), strict=True))
    most = copies * (sizes["image"] + sizes["c"])
    monkeypatch.setattr(exposure, "PART_BYTES", most)
    parts = split(RESIDUAL, TENSORS, copies=copies)
    assert [name for part in parts for name in part] == list(TENSORS)
    assert parts[0] == ("image", "c")
    assert all(copies * sum(sizes[name] for name in part) <= most for part in parts)
    monkeypatch.setattr(exposure, "PART_BYTES", 1)
    assert split(RESIDUAL, TENSORS, copies=copies) == tuple((name,) for name in TENSORS)
    monkeypatch.setattr(exposure, "PART_BYTES", 2**40)
    assert split(RESIDUAL, TENSORS, copies=copies) == (TENSORS,)
