"""Thresholds: what every method must give, on distributions whose answer is known."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploykit.errors import UsageError
from deploykit.quantization.histogram import BINS, Histogram, add_values, empty_histogram
from deploykit.quantization.methods import METHODS, thresholds, zero_tensors

Values = npt.NDArray[np.float32]


def _of(array: Values) -> Histogram:
    return add_values(empty_histogram(), array)


def _one(array: Values, method: str, percentile: float = 99.99) -> float:
    return thresholds({"x": _of(array)}, method, percentile)["x"]


@pytest.mark.parametrize("method", METHODS)
@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-100, 100, width=32)))
def test_a_threshold_is_positive_and_at_most_the_largest_value(method: str, array: Values) -> None:
    histograms = {"x": _of(array)}
    threshold = thresholds(histograms, method)["x"]
    assert 0 <= threshold <= np.abs(array).max()
    assert (threshold == 0) == (zero_tensors(histograms) == ("x",))


@pytest.mark.parametrize("method", METHODS)
def test_scaling_the_values_by_a_power_of_two_scales_the_threshold(method: str) -> None:
    array = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    assert _one(array * np.float32(2.0**-20), method) == _one(array, method) * 2.0**-20
    assert _one(-array, method) == _one(array, method)


@pytest.mark.parametrize("method", METHODS)
def test_tensors_do_not_influence_each_other_and_keep_their_order(method: str) -> None:
    random = np.random.default_rng(0)
    parts = {"b": random.standard_normal(5000), "dead": np.zeros(9), "a": np.maximum(random.standard_normal(5000), 0) * 40}
    arrays_ = {name: part.astype(np.float32) for name, part in parts.items()}
    found = thresholds({name: _of(array) for name, array in arrays_.items()}, method)
    assert list(found) == ["b", "dead", "a"]
    assert found == {name: _one(array, method) for name, array in arrays_.items()}


@pytest.mark.parametrize(
    ("method", "expected"),
    # Of mse: t^2 / (12 * 127^2) + (10 - t)^2 / 1e6 is least at t = 1.62. The others want no more than where the million ends.
    [("percentile", 1.0), ("entropy", 1.0), ("mse", 1.62)],
)
def test_one_outlier_in_a_million_does_not_set_the_scale(method: str, expected: float) -> None:
    array = np.random.default_rng(0).uniform(-1, 1, 1_000_000).astype(np.float32)
    array[7] = 10
    assert _one(array, "minmax") == 10
    # Candidates of entropy and mse are 8 bins apart, here 0.03.
    assert _one(array, method) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("method", ["minmax", "entropy", "mse"])
def test_an_even_distribution_is_not_clipped(method: str) -> None:
    """All values up to the largest are alike: clipping any costs more than it gains. 0.8 is 3276.8 bins, not a candidate itself."""
    array = np.linspace(0, 0.8, 100_001).astype(np.float32)
    # 1 % is half of the last candidates' distance more than once; percentile alone clips, by its definition.
    assert _one(array, method) == pytest.approx(0.8, rel=0.01)


def test_zeros_do_not_decide() -> None:
    """A ReLU's output with nine zeros for each other value keeps its threshold."""
    live = np.abs(np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)
    sparse = np.concatenate([live, np.zeros(180_000, np.float32)])
    assert _one(sparse, "mse") == _one(live, "mse")
    # Bin 0 is cut down to bin 1 instead of losing its zeros exactly: a few values of 20,000 more or less.
    assert _one(sparse, "entropy") == pytest.approx(_one(live, "entropy"), rel=0.02)


def test_zeros_do_not_pull_mse_to_steps_finer_than_a_bin() -> None:
    """Exact zeros stand in bin 0 and have no error; taken as spread over it, a great many would ask for the finest steps."""
    counts = np.zeros(BINS, np.int64)
    counts[1:2000] = 1000
    live = Histogram(counts, exponent=0, maximum=0.5)
    counts = counts.copy()
    counts[0] = 10**15
    sparse = Histogram(counts, exponent=0, maximum=0.5, zeros=10**15)
    assert thresholds({"x": sparse}, "mse") == thresholds({"x": live}, "mse")


@pytest.mark.parametrize("method", METHODS)
def test_a_single_size_is_its_own_threshold(method: str) -> None:
    # A bin is 1/2867 of it, and candidates are 8 bins apart.
    assert _one(np.full(100, -0.7, np.float32), method) == pytest.approx(0.7, rel=8 / 2867)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-35, -1e-29])
def test_a_tensor_that_counts_as_zero_is_named_and_has_threshold_zero(method: str, value: float) -> None:
    histograms = {"dead": _of(np.full(10, value, np.float32)), "live": _of(np.array([0, 0.5], np.float32))}
    found = thresholds(histograms, method)
    assert found["dead"] == 0
    assert found["live"] > 0
    assert zero_tensors(histograms) == ("dead",)


def test_a_percentile_that_falls_among_zeros_is_still_positive() -> None:
    array = np.zeros(1_000_000, np.float32)
    array[3] = 0.25
    # The end of the bin of 0.25, 1/4096 of the range above it, would be above the largest value.
    assert _one(array, "percentile", 99) == 0.25


def test_the_percentile_of_all_is_the_largest_value() -> None:
    array = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert _one(array, "percentile", 100) == np.abs(array).max()


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    with pytest.raises(UsageError, match="more than 0 and at most 100"):
        thresholds({}, "percentile", percentile)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'kl', expected one of minmax, percentile, entropy, mse"):
        thresholds({}, "kl")


@pytest.mark.parametrize("method", METHODS)
def test_no_tensors_have_no_thresholds(method: str) -> None:
    assert thresholds({}, method) == {}
