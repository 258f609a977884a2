"""Mixed precision: which layers to leave out of INT8. In: layers by sensitivity, and a judge. Out: the fewest that suffice.

The noisiest layers are left out first. How many is found by running: their number doubles until the answers agree well enough, then
bisection finds the smallest. Agreement on pictures is not quite monotonic in that number, so the result is the smallest number that
was tried and suffices, and every figure on the way is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One trial: how many of the most sensitive layers were left out, and the agreement that this reached, 0 to 1."""

    kept: int
    agreement: float


@dataclass(frozen=True)
class Mix:
    """What was found.

    Args:
        kept: the layers to leave out, most sensitive first; where nothing suffices, those of the best trial.
        agreement: with these.
        is_reached: whether that is enough.
        steps: every trial, in order.
    """

    kept: tuple[str, ...]
    agreement: float
    is_reached: bool
    steps: tuple[Step, ...]


def choose_kept(
    by_sensitivity: Sequence[str],
    judge: Callable[[tuple[str, ...]], float],
    min_agreement: float,
    *,
    known: float | None = None,
    most: int | None = None,
) -> Mix:
    """Find the smallest number of most sensitive layers without which the agreement is reached.

    Args:
        by_sensitivity: layers, most sensitive first.
        judge: the agreement, 0 to 1, with these layers in float.
        known: the agreement with none left out, where it is known already.
        most: at most so many are left out; by default all but one, because a graph without INT8 is no INT8 graph.
    """
    limit = len(by_sensitivity) - 1 if most is None else min(most, len(by_sensitivity) - 1)
    steps: list[Step] = []

    def trial(count: int, found: float | None = None) -> bool:
        steps.append(Step(count, judge(tuple(by_sensitivity[:count])) if found is None else found))
        return steps[-1].agreement >= min_agreement

    fails, count = -1, 0
    while not trial(count, known if count == 0 else None):
        fails = count
        if count >= limit:
            best = max(steps, key=lambda step: (step.agreement, -step.kept))
            return Mix(tuple(by_sensitivity[: best.kept]), best.agreement, False, tuple(steps))
        count = min(max(1, 2 * count), limit)
    suffices = count
    while suffices - fails > 1:
        middle = (suffices + fails) // 2
        if trial(middle):
            suffices = middle
        else:
            fails = middle
    agreement = next(step.agreement for step in steps if step.kept == suffices)
    return Mix(tuple(by_sensitivity[:suffices]), agreement, True, tuple(steps))
