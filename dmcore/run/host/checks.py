"""A check of a host: what was found, whether that is well, and one sentence of what to do where it is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """In a word or two."""
    state: str
    """`ok`, `warn`: it works, and something should be seen to; or `fail`."""
    said: str
    """What was found, in one sentence."""
    remedy: str = ""
    """What to do, in one sentence; empty where all is well."""

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them."""
        return asdict(self)


def worst(checks: Iterable[Check]) -> str:
    """`fail` if one fails, else `warn` if one warns, else `ok`."""
    states = {check.state for check in checks}
    return FAIL if FAIL in states else WARN if WARN in states else OK


def lines_of(checks: Iterable[Check]) -> list[str]:
    """The checks as aligned lines, remedies below."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<4}  {check.name:<{width}}  {check.said}")
        if check.remedy:
            lines.append(f"{'':<{width + 8}}-> {check.remedy}")
    return lines
