"""Histograms depend on the values alone: whatever their order, grouping and sign, every value is counted in its bin."""

import math
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploykit.quantization.histogram import (
    BINS,
    SMALLEST_EXPONENT,
    Histogram,
    add_values,
    empty_histogram,
    merge_histograms,
)

Values = npt.NDArray[np.float32]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Sizes that often share a bin, and sizes of any magnitude down to the subnormal ones.
numbers = st.one_of(st.floats(-8, 8, width=32), finite)
values = arrays(np.float32, st.integers(0, 60), elements=numbers)


def _of(array: Values) -> Histogram:
    return add_values(empty_histogram(), array)


def _assert_equal(one: Histogram, other: Histogram) -> None:
    np.testing.assert_array_equal(one.counts, other.counts)
    facts = [(h.exponent, h.minimum, h.maximum, h.zeros) for h in (one, other)]
    assert facts[0] == facts[1]


@given(values)
def test_every_value_lies_in_its_bin(array: Values) -> None:
    histogram = _of(array)
    # In float64 neither |x| nor the quotient by a power of two is rounded.
    bins = np.floor(np.abs(array.astype(np.float64)) / histogram.width).astype(int)
    np.testing.assert_array_equal(histogram.counts, np.bincount(bins, minlength=BINS))
    assert histogram.count == array.size
    assert histogram.zeros == np.sum(array == 0)
    if array.size:
        assert (histogram.minimum, histogram.maximum) == (array.min(), array.max())


@given(values)
def test_the_range_is_the_smallest_power_of_two_above_the_largest_value(array: Values) -> None:
    histogram = _of(array)
    largest = float(np.abs(array).max(initial=0))
    assert largest < math.ldexp(1, histogram.exponent)
    if histogram.exponent > SMALLEST_EXPONENT:
        assert largest >= math.ldexp(1, histogram.exponent - 1)
        assert histogram.width <= largest / (BINS / 2)


@given(st.lists(values, max_size=5), st.randoms(use_true_random=False))
def test_order_and_grouping_change_nothing(parts: list[Values], random: Random) -> None:
    together = _of(np.concatenate([np.zeros(0, np.float32), *parts]))
    shuffled = list(parts)
    random.shuffle(shuffled)
    one_by_one, merged = empty_histogram(), empty_histogram()
    for part in shuffled:
        one_by_one = add_values(one_by_one, part)
        merged = merge_histograms(_of(part), merged)
    _assert_equal(one_by_one, together)
    _assert_equal(merged, together)


@given(values)
def test_adding_leaves_the_histogram_that_it_started_from(array: Values) -> None:
    before = _of(np.array([1, -2, 0], np.float32))
    add_values(before, array)
    _assert_equal(before, _of(np.array([1, -2, 0], np.float32)))


@given(values, st.floats(0, 10))
@example(np.array([2], np.float32), 2 - 2**-50)
@settings(max_examples=50)
def test_the_share_above_a_threshold_is_right_to_the_values_of_one_bin(array: Values, threshold: float) -> None:
    histogram = _of(array)
    # In float64: beside a float32 array numpy would round the threshold.
    exact = np.mean(np.abs(array.astype(np.float64)) > threshold) if array.size else 0.0
    index = min(int(threshold / histogram.width), BINS - 1)
    tolerance = histogram.counts[index] / max(array.size, 1)  # those of the threshold's own bin
    assert abs(histogram.share_above(threshold) - exact) <= tolerance + 1e-12


def test_more_values_than_one_piece_are_all_counted_though_the_range_grows_in_the_last() -> None:
    array = np.random.default_rng(0).standard_normal((3, 411, 333)).astype(np.float32)
    array[0], array[2, -1, -1] = array[0] / 1000, -70.0
    _assert_equal(_of(array), merge_histograms(_of(array[:1]), _of(array[1:])))
    _assert_equal(_of(array), _of(array[::-1]))
    assert (_of(array).count, _of(array).minimum, _of(array).exponent) == (array.size, -70.0, 7)


def test_a_value_of_the_last_piece_that_is_not_finite_is_refused_and_counted_with_the_others() -> None:
    array = np.zeros(600_000, np.float32)
    array[[100, -1]] = np.inf, np.nan
    with pytest.raises(FloatingPointError, match="1 NaN and 1 infinite of 600000 values"):
        _of(array)
    array[100] = 0
    with pytest.raises(FloatingPointError, match="1 NaN and 0 infinite of 600000 values"):
        _of(array)


def test_memory_layout_and_other_floats_change_nothing() -> None:
    array = np.random.default_rng(0).standard_normal((8, 9)).astype(np.float16)
    _assert_equal(_of(np.asfortranarray(array.astype(np.float32))), _of(array.astype(np.float32)))
    _assert_equal(add_values(empty_histogram(), array), _of(array.astype(np.float32)))
    _assert_equal(add_values(empty_histogram(), array.astype(np.float64)[::-1]), _of(array.astype(np.float32)))


def test_the_largest_float32_and_the_smallest_have_bins() -> None:
    histogram = _of(np.array([3.4e38, 1e-45, -3.4e38, 0.0, -0.0], np.float32))
    assert (histogram.count, histogram.zeros, histogram.exponent) == (5, 2, 128)
    assert histogram.counts[0] == 3
    tiny = _of(np.array([1e-45, -1e-42], np.float32))
    assert (tiny.exponent, tiny.counts[0], tiny.zeros) == (SMALLEST_EXPONENT, 2, 0)


@pytest.mark.parametrize(
    ("array", "said"),
    [([1, np.nan, np.nan, np.inf], "2 NaN and 1 infinite of 4 values"), ([-np.inf], "0 NaN and 1 infinite of 1 values")],
)
def test_values_that_are_not_finite_are_refused_and_counted(array: list[float], said: str) -> None:
    with pytest.raises(FloatingPointError, match=said):
        _of(np.array(array, np.float32))


def test_a_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="1 infinite"):
        add_values(empty_histogram(), np.array([1e300]))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        add_values(empty_histogram(), np.arange(3))


def test_a_histogram_that_contradicts_itself_is_not_made() -> None:
    counts = np.zeros(BINS, np.int64)
    with pytest.raises(ValueError, match="exponent is 3"):
        Histogram(counts, exponent=3, maximum=1.5)
    with pytest.raises(ValueError, match="expected int64"):
        Histogram(counts[1:])
    with pytest.raises(ValueError, match="zeros is 1"):
        Histogram(counts, zeros=1)
    with pytest.raises(ValueError, match="expected finite numbers in order"):
        Histogram(counts, minimum=1.0, maximum=0.0)
