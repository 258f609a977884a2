"""Several sides measured together: sides in, samples and ratios out.

Other processes slow a machine down for seconds at a time, so sides are never measured one after the other: a round holds one short
burst of calls of each side, in an order shuffled anew, and a ratio is taken within the round, where both sides met the same
neighbours. Beside wall time stands the CPU time of the process, all threads together, which neighbours disturb less; and for every
round, how many cores other processes kept busy meanwhile.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.benchmark.timing import Burst, Side, quartiles, summarize

_STAT = Path("/proc/stat")

QUIET_CORES = 0.15
"""A round in which other processes used more than this is disturbed: on two cores a neighbour of 0.15 takes up to 7 %."""
LEAST_QUIET_ROUNDS = 5
STABLE = 0.05
"""Warm-up ends when a burst's median is within this share of the one before."""


@dataclass(frozen=True)
class Measurement:
    """What `measure_sides` saw.

    Args:
        bursts: by side, one for each round.
        other_cores: by round, the cores that other processes kept busy; None where the system does not tell.
        unstable: the sides whose warm-up did not settle.
    """

    bursts: Mapping[str, tuple[Burst, ...]]
    other_cores: tuple[float | None, ...]
    unstable: tuple[str, ...]

    @property
    def quiet_rounds(self) -> tuple[int, ...]:
        """The rounds in which no other process was busy, or in which the system does not tell."""
        return tuple(k for k, cores in enumerate(self.other_cores) if cores is None or cores <= QUIET_CORES)

    @property
    def is_quiet(self) -> bool:
        """Whether enough rounds were undisturbed for the others to be set aside."""
        return len(self.quiet_rounds) >= min(LEAST_QUIET_ROUNDS, len(self.other_cores))

    @property
    def kept(self) -> tuple[int, ...]:
        """The rounds that count: the undisturbed ones if they are enough, and otherwise all."""
        return self.quiet_rounds if self.is_quiet else tuple(range(len(self.other_cores)))

    def samples(self, side: str, clock: str = "wall_ms") -> list[float]:
        """Every call of the rounds that count."""
        return [sample for k in self.kept for sample in getattr(self.bursts[side][k], clock)]

    def ratio(self, slow: str, fast: str, clock: str = "wall_ms") -> dict[str, float]:
        """How many times as long ``slow`` takes as ``fast``: quartiles over the rounds of the ratio within a round."""
        slows, fasts = ([statistics.median(getattr(self.bursts[s][k], clock)) for k in self.kept] for s in (slow, fast))
        return quartiles([a / b for a, b in zip(slows, fasts, strict=True)])

    def to_json(self) -> dict[str, Any]:
        """The summary of each side, and the median of each of its rounds as samples."""
        cores = [None if c is None else round(c, 3) for c in self.other_cores]
        sides = {
            side: {clock: summarize(self.samples(side, clock)) for clock in ("wall_ms", "cpu_ms")}
            | {"round_wall_ms": [round(statistics.median(burst.wall_ms), 4) for burst in bursts]}
            for side, bursts in self.bursts.items()
        }
        rounds = {
            "rounds": len(cores),
            "rounds_kept": len(self.kept),
            "is_quiet": self.is_quiet,
            "other_cores": cores,
            "unstable": list(self.unstable),
        }
        return rounds | {"sides": sides}


def measure_sides(
    sides: Mapping[str, Side],
    *,
    rounds: int,
    burst_ms: float = 0,
    settle_ms: float = 0,
    warm_up: int = 8,
    warm_up_ms: float = 0,
    seed: int = 0,
    on_step: Callable[[], object] = lambda: None,
) -> Measurement:
    """Measure sides in interleaved rounds.

    Args:
        burst_ms: how long a burst should last; its number of calls follows from the warm-up and is at least 1.
        settle_ms: a rest before each burst, in which the threads of the side before stop spinning.
        warm_up: bursts of a side at most, before its times count.
        warm_up_ms: and for how long at least.
        on_step: called after each side's warm-up and after each of its bursts: sides x (rounds + 1) times.
    """
    calls, unstable = {}, []
    for name, side in sides.items():
        per_call_ms, is_stable = _warm_up(side, burst_ms, warm_up, warm_up_ms)
        calls[name] = max(1, round(burst_ms / per_call_ms))
        unstable += [] if is_stable else [name]
        on_step()
    bursts: dict[str, list[Burst]] = {name: [] for name in sides}
    other_cores, order = [], list(sides)
    shuffle = random.Random(seed).shuffle  # noqa: S311 - an order, not a secret
    for _ in range(rounds):
        shuffle(order)
        watch = _Watch()
        for name in order:
            time.sleep(settle_ms / 1e3)
            bursts[name].append(sides[name](calls[name]))
            on_step()
        other_cores.append(watch.other_cores(sum(sum(bursts[name][-1].cpu_ms) for name in order) / 1e3))
    return Measurement({name: tuple(b) for name, b in bursts.items()}, tuple(other_cores), tuple(unstable))


def _warm_up(side: Side, burst_ms: float, most: int, least_ms: float) -> tuple[float, bool]:
    """Bursts until two in a row agree: milliseconds of a call, and whether they ever did."""
    start = time.perf_counter()
    side(1)  # the first call of all pays for memory and lazy set-up
    before, now = float("inf"), statistics.median(side(1).wall_ms)
    while (time.perf_counter() - start) * 1e3 < least_ms:
        now = statistics.median(side(max(1, round(burst_ms / 2 / now))).wall_ms)
    for _ in range(most):
        before, now = now, statistics.median(side(max(1, round(burst_ms / 2 / now))).wall_ms)
        if abs(now / before - 1) <= STABLE:
            return now, True
    return now, False


class _Watch:
    """How busy the machine's cores are from now on, from the kernel's own count."""

    def __init__(self) -> None:
        self._start_s, self._busy_s = time.perf_counter(), _busy_seconds()

    def other_cores(self, own_s: float) -> float | None:
        """Cores kept busy by processes whose CPU time is not in ``own_s``; None where the system does not tell."""
        wall_s, busy_s = time.perf_counter() - self._start_s, _busy_seconds()
        if busy_s is None or self._busy_s is None:
            return None
        # The kernel samples every 10 ms who is running, so its count may be a step or two off from the exact time in ``own_s``.
        return max(0.0, (busy_s - self._busy_s - own_s - 2 / os.sysconf("SC_CLK_TCK")) / wall_s)


def _busy_seconds() -> float | None:
    """CPU seconds of the whole machine since it started, in steps of 10 ms: user, nice, system, irq, softirq and steal."""
    if not _STAT.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _STAT.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
