"""One check: what was looked at, whether it held, what was found."""

from collections.abc import Callable
from dataclasses import dataclass

from deploykit.errors import DeploykitError


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found."""

    name: str
    passed: bool
    found: str


def attempt(name: str, check: Callable[[], str]) -> Check:
    """Run a check that returns what it found, or raises what is wrong."""
    try:
        return Check(name, True, check())
    except DeploykitError as error:
        return Check(name, False, str(error))


def as_text(checks: list[Check]) -> str:
    """Checks as aligned lines."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{'ok    ' if check.passed else 'FAILED'}  {check.name:<{width}}  {check.found}" for check in checks)
