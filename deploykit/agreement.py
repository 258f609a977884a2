"""Do two precisions give the same answers, and are the answers right? In: logits, batch by batch. Out: frozen figures.

Every figure is a sum that grows with each batch, so it costs the same memory for ten images and for fifty thousand. numpy only.

Sources: Wilson 1927 (the score interval, as in Brown, Cai and DasGupta 2001, section 3.1.1); McNemar 1947 with Edwards' continuity
correction of 1948; the exact form is the sign test on the images about which the two sides disagree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Classes = npt.NDArray[np.integer[Any]]

Z_95 = 1.959963984540054
"""The standard normal's 97.5 % quantile: intervals hold the true share in 95 of 100 cases."""

EXACT_BELOW = 25
"""With fewer disagreements McNemar's test is exact; the chi-square's approximation is used from here on."""


@dataclass(frozen=True)
class Share:
    """How many of how many, with the 95 % interval of the share behind it."""

    count: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total:
            raise ValueError(f"count is {self.count}, expected 0 to the total of {self.total}")

    @property
    def share(self) -> float:
        """0 to 1; NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %; 0 to 1 of nothing. It stays within 0 to 1 and has a width at 0 and 1 too."""
        n = self.total
        if not n:
            return 0.0, 1.0
        squared = Z_95**2
        centre = (self.share + squared / (2 * n)) / (1 + squared / n)
        half = Z_95 / (1 + squared / n) * math.sqrt(self.share * (1 - self.share) / n + squared / (4 * n * n))
        # At the ends a bound is the share itself, which rounding may miss by 1e-17.
        return (0.0 if not self.count else max(0.0, centre - half)), (1.0 if self.count == n else min(1.0, centre + half))

    def to_json(self) -> dict[str, Any]:
        """Count, total, share and interval."""
        return {"count": self.count, "total": self.total, "share": _finite(self.share), "interval": list(self.interval)}


@dataclass(frozen=True)
class Agreement:
    """How near a candidate's logits are to a reference's.

    Args:
        images: how many.
        same, answers: of the answers, one an image (a segmentation net: one a pixel), how many have the same highest logit.
        cosine_sum, lowest_cosine: of the cosine between the two sides' logits, image by image.
        signal, noise: sums of squares of the reference's logits, each image's mean taken off (a softmax does not see it), and of
            the difference, likewise.
    """

    images: int = 0
    same: int = 0
    answers: int = 0
    cosine_sum: float = 0.0
    lowest_cosine: float = 1.0
    signal: float = 0.0
    noise: float = 0.0

    @property
    def top1(self) -> Share:
        """The share of answers with the same class."""
        return Share(self.same, self.answers)

    @property
    def cosine(self) -> float:
        """The mean cosine; NaN of nothing."""
        return self.cosine_sum / self.images if self.images else math.nan

    @property
    def snr_db(self) -> float:
        """Signal to noise in dB: 10 log10(signal / noise). Infinite where the two sides are equal."""
        return signal_to_noise_db(self.signal, self.noise)

    def to_json(self) -> dict[str, Any]:
        """The figures as a manifest holds them; an infinite signal-to-noise ratio is null."""
        return {
            "images": self.images,
            "top1_agreement": self.top1.to_json(),
            "cosine": _finite(self.cosine),
            "lowest_cosine": self.lowest_cosine,
            "snr_db": _finite(self.snr_db),
        }


def add_logits(agreement: Agreement, reference: Floats, candidate: Floats) -> Agreement:
    """The agreement with a batch more in it.

    Args:
        reference, candidate: logits [N, K] or [N, K, h, w] of the same images.

    Raises:
        ValueError: shapes that differ or are neither.
        FloatingPointError: NaN or infinite logits, naming the side.
    """
    if reference.shape != candidate.shape or reference.ndim not in (2, 4):
        raise ValueError(f"logits are {list(reference.shape)} and {list(candidate.shape)}, expected twice [N, K] or [N, K, h, w]")
    if not len(reference):
        return agreement
    for side, logits in (("reference", reference), ("candidate", candidate)):
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"the {side} has {int((~np.isfinite(logits)).sum())} logits that are NaN or infinite")
    same = reference.argmax(1) == candidate.argmax(1)
    a, b = (_centred(logits) for logits in (reference, candidate))
    products = [np.einsum("nk,nk->n", x, y) for x, y in ((a, b), (a, a), (b, b))]
    norms = np.sqrt(products[1] * products[2])
    # Two sides that are constant agree; one that is says nothing of the other.
    cosines = np.where(norms > 0, products[0] / np.where(norms > 0, norms, 1), (products[1] == products[2]).astype(float))
    return Agreement(
        images=agreement.images + len(reference),
        same=agreement.same + int(same.sum()),
        answers=agreement.answers + same.size,
        cosine_sum=agreement.cosine_sum + float(np.minimum(cosines, 1).sum()),
        lowest_cosine=min(agreement.lowest_cosine, float(cosines.min())),
        signal=agreement.signal + float(products[1].sum()),
        noise=agreement.noise + float(np.square(a - b).sum()),
    )


def signal_to_noise_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, minus infinite without signal."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass(frozen=True)
class Accuracy:
    """How often logits name the right class.

    Args:
        images: how many.
        top1, top5: how many of them have the right class first, and among the first five.
        seen: by right class, how many images it has.
        confusions: by (right class, named class), how often; mistakes alone.
    """

    images: int = 0
    top1_count: int = 0
    top5_count: int = 0
    seen: Mapping[int, int] = field(default_factory=dict)
    confusions: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def top1(self) -> Share:
        """The share of images whose highest logit is the right class's."""
        return Share(self.top1_count, self.images)

    @property
    def top5(self) -> Share:
        """The share of images whose right class is among the five highest logits."""
        return Share(self.top5_count, self.images)

    def class_share(self, class_index: int) -> Share:
        """The share of one class's images that are named right."""
        wrong = sum(count for (right, _), count in self.confusions.items() if right == class_index)
        total = self.seen.get(class_index, 0)
        return Share(total - wrong, total)

    def worst_classes(self, count: int) -> list[int]:
        """The classes with mistakes, lowest share first; of equal ones those with more images, then in class order."""
        wrong = {right for right, _ in self.confusions}
        return sorted(wrong, key=lambda c: (self.class_share(c).share, -self.seen[c], c))[:count]

    def confused_with(self, class_index: int) -> list[tuple[int, int]]:
        """What one class's images are called instead, and how often, most frequent first."""
        found = [(named, count) for (right, named), count in self.confusions.items() if right == class_index]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def to_json(self) -> dict[str, Any]:
        """The two shares; confusions are the caller's to choose from."""
        return {"images": self.images, "top1": self.top1.to_json(), "top5": self.top5.to_json()}


def add_answers(accuracy: Accuracy, logits: Floats, classes: Classes) -> Accuracy:
    """The accuracy with a batch more in it.

    Of equal logits the first class wins, as in `numpy.argmax`; a right class that ties with the fifth counts only if it stands
    before it.

    Args:
        logits: [N, K].
        classes: [N], the right class of each row.

    Raises:
        ValueError: shapes that do not fit, or a class that is none.
    """
    if logits.ndim != 2 or classes.shape != logits.shape[:1]:
        raise ValueError(f"logits are {list(logits.shape)} and classes {list(classes.shape)}, expected [N, K] and [N]")
    if not len(classes):
        return accuracy
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise ValueError(f"classes go from {classes.min()} to {classes.max()}, expected 0 to {logits.shape[1] - 1}")
    place = ranks_of(logits, classes)
    seen, confusions = dict(accuracy.seen), dict(accuracy.confusions)
    for right, named in zip(classes.tolist(), logits.argmax(1).tolist(), strict=True):
        seen[right] = seen.get(right, 0) + 1
        if right != named:
            confusions[right, named] = confusions.get((right, named), 0) + 1
    top1, top5 = (int((place < k).sum()) for k in (1, 5))
    return Accuracy(accuracy.images + len(classes), accuracy.top1_count + top1, accuracy.top5_count + top5, seen, confusions)


def ranks_of(logits: Floats, classes: Classes) -> npt.NDArray[np.int64]:
    """How many classes stand before the right one, int64 [N]; 0 where it is named first. NaN stands before all."""
    own = np.take_along_axis(logits, classes[:, None], axis=1)
    before = np.arange(logits.shape[1])[None] < classes[:, None]
    return np.asarray(((logits > own) | np.isnan(logits) | ((logits == own) & before)).sum(1), np.int64)


@dataclass(frozen=True)
class Paired:
    """Two sides on the same images: how many each alone names right.

    Args:
        only_first, only_second: named right by one side and wrong by the other.
        images: how many in all.
    """

    only_first: int = 0
    only_second: int = 0
    images: int = 0

    def __post_init__(self) -> None:
        if min(self.only_first, self.only_second) < 0 or self.only_first + self.only_second > self.images:
            raise ValueError(f"{self.only_first} and {self.only_second} of {self.images} images, expected counts that fit")

    @property
    def is_exact(self) -> bool:
        """Whether the probability is the exact binomial one."""
        return self.only_first + self.only_second < EXACT_BELOW

    @property
    def p_value(self) -> float:
        """How likely disagreements at least as one-sided are if both sides are equally good: McNemar's test, two-sided, 0 to 1."""
        b, c = self.only_first, self.only_second
        n = b + c
        if not n:
            return 1.0
        if self.is_exact:
            return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / float(2**n))
        statistic = max(abs(b - c) - 1, 0) ** 2 / n
        return math.erfc(math.sqrt(statistic / 2))

    def to_json(self) -> dict[str, Any]:
        """Counts, probability, and by which form of the test."""
        form = "exact binomial" if self.is_exact else "chi-square with continuity correction"
        return {"only_first": self.only_first, "only_second": self.only_second, "p_value": self.p_value, "test": f"McNemar, {form}"}


def add_pairs(paired: Paired, first_is_right: npt.NDArray[np.bool_], second_is_right: npt.NDArray[np.bool_]) -> Paired:
    """The comparison with a batch more in it: bool [N] each, of the same images.

    Raises:
        ValueError: lengths that differ.
    """
    if first_is_right.shape != second_is_right.shape:
        raise ValueError(f"{len(first_is_right)} and {len(second_is_right)} answers, expected as many")
    return Paired(
        paired.only_first + int((first_is_right & ~second_is_right).sum()),
        paired.only_second + int((second_is_right & ~first_is_right).sum()),
        paired.images + len(first_is_right),
    )


def _centred(logits: Floats) -> npt.NDArray[np.float64]:
    """[N, K] or [N, K, h, w] as float64 [N, all], the mean over classes taken off."""
    values = logits.astype(np.float64)
    return np.asarray((values - values.mean(1, keepdims=True)).reshape(len(values), -1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
