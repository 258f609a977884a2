"""Thresholds from histograms: which |x| becomes 127. In: `Histogram` values. Out: one number per tensor; pure functions.

Symmetric INT8 writes x as ``round(x / scale)`` from -127 to 127 with ``scale = threshold / 127``: a low threshold clips large
values, a high one rounds small values coarsely. The four methods weigh the two differently, no method is best for every network,
so all are computed from the histograms of one pass (milliseconds to a second for 240 tensors) and compared on images afterwards.

All work in units of bins, so what depends on candidates alone is made once for all tensors.
"""

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

from deploykit.errors import UsageError
from deploykit.quantization.histogram import BINS, Histogram
from deploykit.quantization.weights import SMALLEST_SCALE, STEPS

METHODS = ("minmax", "percentile", "entropy", "mse")

DEFAULT_PERCENTILE = 99.99
"""With 99.9 ResNet-50 loses top-1, with 99.99 it does not (NVIDIA pytorch-quantization, ``quant_resnet50``)."""

LEVELS = 128
"""Of |x|: the non-negative integers of INT8 (Migacz, 8-bit Inference with TensorRT, GTC 2017)."""

_STRIDE = 8
"""Candidates are every eighth bin from `LEVELS` on: thresholds are at most 1/256 of the largest |x| apart."""

_SMOOTHING = 1e-4
"""Counts of a level that holds clipped values alone, where the divergence would be infinite (onnxruntime's epsilon)."""

Floats = npt.NDArray[np.float64]


def thresholds(histograms: Mapping[str, Histogram], method: str, percentile: float = DEFAULT_PERCENTILE) -> dict[str, float]:
    """The |x| that becomes 127, for every tensor, in the order of the histograms.

    Args:
        method: one of `METHODS`.
        percentile: 0 < percentile <= 100; only ``percentile`` looks at it.

    Returns:
        By tensor, above 0 and at most its largest |x|; exactly 0 for a tensor that counts as zero (`zero_tensors`), which gets a
        small positive scale where scales are made.

    Raises:
        UsageError: another method, or a percentile out of range.
    """
    if method not in METHODS:
        raise UsageError(f"calibration method is {method!r}, expected one of {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile is {percentile:g}, expected more than 0 and at most 100", hint="99.99 is usual")
    zero = set(zero_tensors(histograms))
    live = [h for name, h in histograms.items() if name not in zero]
    if method == "minmax":
        found = [h.largest for h in live]
    elif method == "percentile":
        found = [percentile_threshold(h, percentile) for h in live]
    elif method == "entropy":
        found = [entropy_threshold(h) for h in live]
    else:
        found = mse_thresholds(live)
    values = iter(found)
    return {name: 0.0 if name in zero else next(values) for name in histograms}


def zero_tensors(histograms: Mapping[str, Histogram]) -> tuple[str, ...]:
    """Tensors that are zero on every image, or so small that a scale would be: largest |x| / 127 below `SMALLEST_SCALE`."""
    return tuple(name for name, h in histograms.items() if h.largest / STEPS < SMALLEST_SCALE)


def percentile_threshold(histogram: Histogram, percentile: float) -> float:
    """The |x| at or below which ``percentile`` percent of the values lie: linear within its bin, and so at most one bin from exact.

    A bin is at most 1/2048 of the largest |x|. Where the percentile falls into bin 0 (a tensor of zeros but for a few values), the
    smallest value that is not zero decides instead of nothing: the end of the first bin that has one.
    """
    cumulative = np.cumsum(histogram.counts)
    wanted = percentile / 100 * float(cumulative[-1])
    if wanted <= histogram.zeros:
        first = int(np.argmax(cumulative > histogram.zeros))
        return min((first + 1) * histogram.width, histogram.largest)
    index = int(np.searchsorted(cumulative, wanted))
    below = max(float(cumulative[index - 1]) if index else 0.0, float(histogram.zeros))
    share = (wanted - below) / (float(cumulative[index]) - below)
    return min((index + share) * histogram.width, histogram.largest)


def entropy_threshold(histogram: Histogram) -> float:
    """The threshold whose 128 levels say most about the distribution: least Kullback-Leibler divergence (Migacz, GTC 2017).

    Of each candidate of ``n`` bins P is the first n bins, with all that lies above added to the last one. Q has the n bins without
    what lies above, merged into 128 levels (level k holds bins ceil(k n / 128) to ceil((k + 1) n / 128) - 1), and each level's mass
    spread evenly over those of its bins that are not empty in P, so that empty bins stay empty. Both are scaled to a sum of 1, and
    the threshold with the least ``sum P log(P / Q)`` wins; of equals the largest. Bin 0 is first cut down to bin 1, much as in
    pytorch-quantization: zeros are exact under any scale and must not decide.

    Sums over a level need only the cumulative counts at its ends, so a candidate costs 128 steps and not n.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    used = _bins_used(histogram)
    candidates, edges = _levels()
    chosen = candidates <= used
    if not counts.any() or not chosen.any():
        return histogram.largest
    divergence = _divergences(counts, candidates[chosen], edges[chosen])
    best = int(candidates[chosen][divergence.size - 1 - int(np.argmin(divergence[::-1]))])
    return min(best * histogram.width, histogram.largest)


def mse_thresholds(histograms: list[Histogram]) -> list[float]:
    """The thresholds with the least mean squared error of quantizing and clipping, over the same candidates as ``entropy``.

    The error of a candidate is ``sum over bins of count * mean of (quantized(x) - x)^2 over the bin``, values being spread evenly
    within a bin; exact zeros have none. That mean does not depend on the tensor in units of bins, so all candidates of all tensors
    are one product of two matrices (pytorch-quantization's ``_compute_amax_mse``, which loops over bins' centres instead).
    """
    if not histograms:
        return []
    candidates, _ = _levels()
    counts = np.stack([h.counts for h in histograms]).astype(np.float64)
    counts[:, 0] -= [h.zeros for h in histograms]
    errors = counts @ _bin_errors().T
    used = np.array([_bins_used(h) for h in histograms])
    errors[candidates[None, :] > used[:, None]] = math.inf
    best = candidates[errors.shape[1] - 1 - np.argmin(errors[:, ::-1], axis=1)]
    return [min(float(n) * h.width, h.largest) for n, h in zip(best, histograms, strict=True)]


def _bins_used(histogram: Histogram) -> int:
    """How many bins the last candidate covers: those up to the largest |x|, rounded up to a candidate."""
    return min(math.ceil((histogram.largest / histogram.width) / _STRIDE) * _STRIDE, BINS)


@cache
def _levels() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Candidates in bins [M], and where the levels of each begin and end [M, LEVELS + 1]."""
    candidates = np.arange(LEVELS, BINS + 1, _STRIDE)
    return candidates, -(-np.arange(LEVELS + 1) * candidates[:, None] // LEVELS)


def _divergences(counts: Floats, candidates: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]) -> Floats:
    """KL(P || Q) of every candidate, see `entropy_threshold`.

    With m, p the mass of a level in Q and P, and n its bins that P fills, each of its bins has q = m / n, so the level's sum of
    P log Q is p log(m / n). Sums are of counts; both are scaled at the end.
    """
    total = counts.sum()
    cumulative, filled = _cumulated(counts), _cumulated((counts > 0).astype(np.float64))
    self_information = _cumulated(counts * np.log(np.where(counts > 0, counts, 1.0)))
    above = total - cumulative[candidates]
    last = counts[candidates - 1]
    mass, bins = np.diff(cumulative[edges], axis=1), np.diff(filled[edges], axis=1)
    in_p = mass.copy()
    in_p[:, -1] += above
    bins[:, -1] += (last == 0) & (above > 0)
    smoothed = np.where((mass == 0) & (in_p > 0), _SMOOTHING, mass)
    # Where P has no mass in a level it adds nothing; 1 stands in for the logarithm.
    cross = (in_p * np.log(np.where(in_p > 0, smoothed, 1.0) / np.where(bins > 0, bins, 1.0))).sum(axis=1)
    own = self_information[candidates - 1] + _x_log_x(last + above)
    divergence: Floats = (own - cross) / total - np.log(total) + np.log(smoothed.sum(axis=1))
    return divergence


def _cumulated(values: Floats) -> Floats:
    """Sums of the first 0, 1, ... values, [len + 1]."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))


@cache
def _bin_errors() -> Floats:
    """The mean squared error of quantizing values that are spread evenly over a bin, in squared bins, [M, BINS].

    With u = x / scale, n = min(round(u), 127) and r = u - n, the integral of the squared error from 0 to x is
    ``scale^3 (n / 12 + r^3 / 3)``: every full step adds 1/12, and beyond 127 r is the distance to the threshold.
    """
    candidates, _ = _levels()
    errors = np.empty((candidates.size, BINS))
    for row, candidate in enumerate(candidates):  # a row at a time: whole matrices would take 100 MB on the way
        scale = candidate / STEPS
        u = np.arange(BINS + 1) / scale
        n = np.minimum(np.floor(u + 0.5), STEPS)
        r = u - n
        errors[row] = np.diff(scale**3 * (n / 12 + r * r * r / 3))  # numpy's ** 3 takes ten times as long
    return errors
