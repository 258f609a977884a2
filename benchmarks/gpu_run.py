"""Runs steps one after the other within a time. Each ends by its own limit; what the time does not suffice for is cut and named."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps import Step

LEAST_S = 5
"""A step that gets less than this, or than its own limit, does not begin."""

_KEPT = 3000
"""Of what a failed command said, the last so many characters."""


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code (None where it ran past its limit), and what it said."""

    code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Outcome:
    """A step's end.

    Args:
        status: ``ok``, ``failed``, ``timeout``, ``cut`` for want of time, or ``skipped`` because of a step before it.
        reason: why, where it is not ok. data: what it wrote, where that is JSON.
    """

    name: str
    status: str
    seconds: float
    reason: str | None = None
    data: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the report."""
        return asdict(self)


Run = Callable[[Sequence[str], float], Answer]


def run_steps(
    steps: Sequence[Step],
    budget_s: float,
    *,
    run: "Run | None" = None,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], object] = lambda _: None,
) -> list[Outcome]:
    """Run steps in order until the time is up.

    Args:
        budget_s: for all of them. tell: is given a line for each step.
    """
    end = clock() + budget_s
    outcomes: dict[str, Outcome] = {}
    for step in steps:
        left = end - clock()
        broken = [name for name in step.needs if name not in outcomes or outcomes[name].status != "ok"]
        if broken:
            outcome = Outcome(step.name, "skipped", 0, f"needs: {', '.join(broken)}", facts=step.facts)
        elif left < min(step.limit_s, LEAST_S):
            outcome = Outcome(step.name, "cut", 0, f"{max(left, 0):.0f} s were left of {budget_s:.0f} s", facts=step.facts)
        else:
            outcome = _run(step, min(step.limit_s, left), run or run_command, clock)
        outcomes[step.name] = outcome
        reason = f"  {_first_line(outcome.reason)}" if outcome.reason else ""
        tell(f"{outcome.status:<8} {outcome.seconds:6.1f} s  {step.name}{reason}")
    return list(outcomes.values())


def run_command(command: Sequence[str], limit_s: float) -> Answer:
    """Run a command; past its limit it and all that it started are ended."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return Answer(None, stdout, stderr)
    return Answer(process.returncode, stdout, stderr)


def _run(step: Step, limit_s: float, run: Run, clock: Callable[[], float]) -> Outcome:
    start = clock()
    answer = run(step.command, limit_s)
    seconds = round(clock() - start, 2)
    data = _read(step.output, answer.stdout)
    if answer.code is None:
        return Outcome(step.name, "timeout", seconds, f"ended after {limit_s:.0f} s", data, step.facts)
    if answer.code != 0:
        said = (answer.stderr.strip() or answer.stdout.strip())[-_KEPT:]
        return Outcome(step.name, "failed", seconds, f"exit code {answer.code}: {said}", data, step.facts)
    return Outcome(step.name, "ok", seconds, None, data, step.facts)


def _read(output: Path | None, stdout: str) -> Any:
    """What a step wrote, as JSON; None where it is none."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(output.read_text(encoding="utf-8") if output is not None else stdout)
    return None


def _first_line(reason: str) -> str:
    lines = [line for line in reason.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "")
