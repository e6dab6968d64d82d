"""What an experiment aimed at and what it measured, as lines of a table."""

from __future__ import annotations

import math

TITLES = {"target": "target", "measured": "measured (95 %)", "passed": "passed"}
Line = dict[str, str]


def measured(interval: tuple[float, float, float], digits: int = 3) -> str:
    """A value and its interval, (?) where too few seeds carry the value for one."""
    if math.isnan(interval[1]):
        return f"{interval[0]:.{digits}f} (?)"
    value, low, high = (f"{number:.{digits}f}" for number in interval)
    return f"{value} ({low} - {high})"


def line(target: str, interval: tuple[float, float, float], limit: float, digits: int = 3) -> Line:
    """A value with its interval, passed if all of the interval lies below the limit."""
    passed = "too few seeds" if math.isnan(interval[2]) else "yes" if interval[2] < limit else "no"
    return {"target": target, "measured": measured(interval, digits), "passed": passed}
