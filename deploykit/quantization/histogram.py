"""Histograms of |x| that grow with what they see. In: arrays of one tensor, in any order and grouping. Out: a frozen `Histogram`.

The range is always a power of two, the smallest one above the largest |x|. A larger value doubles it, and bins merge two by two. A
power of two scales a float without rounding, so a merged bin holds exactly the values that it would have held from the start: the
histogram depends on the values alone, and not on their order, on the batch size or on the threads. One pass suffices, and memory is
`BINS` counts however many images there are.

The idea of a histogram whose range grows by whole bins is pytorch-quantization's and onnxruntime's (``HistogramCalibrator``,
``HistogramCollector``); theirs keep the width of the first batch's bins, so the number of bins grows with the range.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 4096
"""The largest |x| lies in the upper half of the range, so at least 2,048 bins are in use, as many as TensorRT's calibrator had."""

SMALLEST_EXPONENT = -100
"""The range is at least 2^-100 (7.9e-31): below it a scale counts as zero, and float32 numbers are about to lose digits."""

_PIECE = 262_144
"""Values that are counted at once. One thread is quickest with pieces that stay in its cache, but `numpy.bincount` holds Python's
lock, and two threads that wait for it at every short step take longer together than one (benchmarks/calibration.py shows it)."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often |x| had which size in one tensor.

    Bin ``i`` counts the values with ``i * width <= |x| < (i + 1) * width``, where ``width = 2**exponent / BINS``.

    Args:
        counts: int64 [BINS].
        exponent: the range is 0 to ``2**exponent``.
        minimum, maximum: signed, over all values; 0 where there are none.
        zeros: how many values are exactly zero; they are in bin 0 too.
    """

    counts: npt.NDArray[np.int64]
    exponent: int = SMALLEST_EXPONENT
    minimum: float = 0.0
    maximum: float = 0.0
    zeros: int = 0

    def __post_init__(self) -> None:
        if self.counts.shape != (BINS,) or self.counts.dtype != np.int64 or int(self.counts.min()) < 0:
            raise ValueError(f"counts are {self.counts.dtype} {list(self.counts.shape)}, expected int64 [{BINS}], none negative")
        if not (math.isfinite(self.minimum) and self.minimum <= self.maximum < math.inf):
            raise ValueError(f"values go from {self.minimum} to {self.maximum}, expected finite numbers in order")
        if self.exponent != exponent_of(self.largest):
            raise ValueError(f"exponent is {self.exponent}, expected {exponent_of(self.largest)} for values up to {self.largest}")
        if not 0 <= self.zeros <= int(self.counts[0]):
            raise ValueError(f"zeros is {self.zeros}, expected 0 to the {int(self.counts[0])} values of bin 0")

    @property
    def count(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    @property
    def largest(self) -> float:
        """The largest |x|."""
        return max(-self.minimum, self.maximum, 0.0)

    @property
    def width(self) -> float:
        """The width of a bin; at most 1/2048 of the largest |x| (unless that is below 2^-101)."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def zero_share(self) -> float:
        """The share of values that are exactly zero, 0 to 1."""
        return self.zeros / self.count if self.count else 0.0

    def share_above(self, threshold: float) -> float:
        """The share of values whose |x| is above a threshold, 0 to 1; inside the threshold's bin in proportion."""
        if threshold >= self.largest or not self.count:
            return 0.0
        place = threshold / self.width
        index = int(place)
        return float(self.counts[index + 1 :].sum() + self.counts[index] * (1 - (place - index))) / self.count


def exponent_of(largest: float) -> int:
    """The exponent of the smallest power of two above a number, and at least `SMALLEST_EXPONENT`."""
    return max(math.frexp(largest)[1], SMALLEST_EXPONENT) if largest else SMALLEST_EXPONENT


def empty_histogram() -> Histogram:
    """The histogram of no values."""
    return Histogram(np.zeros(BINS, np.int64))


def add_values(histogram: Histogram, values: npt.NDArray[Any]) -> Histogram:
    """The histogram with more values in it; every value is counted.

    Takes 1.7 to 2.6 ns a float32 value on one core, where `numpy.histogram` takes about 10.

    Args:
        values: floating point, of any shape; other than float32 they are converted first.

    Raises:
        FloatingPointError: NaN or infinite values, with how many of each.
        TypeError: not floating point.
    """
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"values are {values.dtype}, expected floating point")
    if not values.size:
        return histogram
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite and is refused below
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    low, high = float(flat.min()), float(flat.max())  # NaN wins in both
    if not (math.isfinite(low) and math.isfinite(high)):
        nans = int(np.isnan(flat).sum())
        raise FloatingPointError(f"{nans} NaN and {int(np.isinf(flat).sum())} infinite of {flat.size} values")
    if histogram.count:
        low, high = min(low, histogram.minimum), max(high, histogram.maximum)
    exponent = exponent_of(max(-low, high))
    counts = _merged(histogram.counts, exponent - histogram.exponent)
    zeros = _count_into(counts, flat, math.ldexp(float(BINS), -exponent))
    return Histogram(counts, exponent, low, high, histogram.zeros + zeros)


def merge_histograms(one: Histogram, other: Histogram) -> Histogram:
    """The histogram of the values of both, exactly."""
    if not one.count or not other.count:
        return replace(one if one.count else other)
    exponent = max(one.exponent, other.exponent)
    counts = _merged(one.counts, exponent - one.exponent) + _merged(other.counts, exponent - other.exponent)
    return Histogram(counts, exponent, min(one.minimum, other.minimum), max(one.maximum, other.maximum), one.zeros + other.zeros)


def _merged(counts: npt.NDArray[np.int64], doublings: int) -> npt.NDArray[np.int64]:
    """A copy of the counts for a range that is ``2**doublings`` times as wide."""
    result = np.zeros(BINS, np.int64)
    bins = 1 << min(doublings, BINS.bit_length() - 1)
    result[: BINS // bins] = counts.reshape(-1, bins).sum(axis=1)
    return result


def _count_into(counts: npt.NDArray[np.int64], flat: npt.NDArray[np.float32], scale: float) -> int:
    """Add the values to the counts, ``int(|x| * scale)`` being the bin; how many are exactly zero.

    ``scale`` is a power of two, so the product is exact unless it is subnormal, and those are in bin 0 anyway.
    """
    size = min(_PIECE, flat.size)
    scaled, bins, is_zero = np.empty(size, np.float32), np.empty(size, np.intp), np.empty(size, np.bool_)
    factor = np.float32(scale)
    zeros = 0
    for start in range(0, flat.size, size):
        piece = flat[start : start + size]
        n = piece.size
        np.multiply(piece, factor, out=scaled[:n])
        np.abs(scaled[:n], out=scaled[:n])
        np.copyto(bins[:n], scaled[:n], casting="unsafe")
        counts += np.bincount(bins[:n], minlength=BINS)
        np.equal(piece, 0, out=is_zero[:n])
        zeros += int(np.count_nonzero(is_zero[:n]))
    return zeros
