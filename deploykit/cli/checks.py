"""One check: what was looked at, whether it held, what was found."""

from collections.abc import Callable
from dataclasses import dataclass

from deploykit.errors import DeploykitError


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found; with a hint where it failed and something can be done."""

    name: str
    passed: bool
    found: str
    hint: str | None = None


def attempt(name: str, check: Callable[[], str]) -> Check:
    """Run a check that returns what it found, or raises what is wrong."""
    try:
        return Check(name, True, check())
    except DeploykitError as error:
        return Check(name, False, str(error), error.hint)


def as_text(checks: list[Check]) -> str:
    """Checks as aligned lines."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok    ' if check.passed else 'FAILED'}  {check.name:<{width}}  {check.found}")
        if check.hint:
            lines.append(f"{'':<{width + 8}}  hint: {check.hint}")
    return "\n".join(lines)
