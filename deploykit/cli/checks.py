"""One check: what was looked at, whether it held, what was found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploykit.errors import DeploykitError


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found.

    Args:
        name: what was looked at.
        passed: whether it held; also True where it could not be run, which does not make it a success: see ``was_run``.
        found: in words.
        hint: what can be done where it failed.
        was_run: False where this machine cannot; ``found`` says why.
        parity: the comparison (`deploykit.parity.ParityRecord`), where there was one.
    """

    name: str
    passed: bool
    found: str
    hint: str | None = None
    was_run: bool = True
    parity: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """One word or two."""
        return "FAILED" if not self.passed else "ok" if self.was_run else "not run"


def attempt(name: str, check: "Callable[[], str | Check]") -> Check:
    """Run a check that returns what it found, or raises what is wrong."""
    try:
        found = check()
    except DeploykitError as error:
        return Check(name, False, str(error), error.hint)
    return found if isinstance(found, Check) else Check(name, True, found)


def as_text(checks: list[Check]) -> str:
    """Checks as aligned lines."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.verdict:<7} {check.name:<{width}}  {check.found}")
        if check.hint:
            lines.append(f"{'':<{width + 8}}  hint: {check.hint}")
    return "\n".join(lines)
