"""What an experiment aimed at and what it measured, as lines of a table."""

from __future__ import annotations

TITLES = {"target": "target", "measured": "measured (95 %)", "passed": "passed"}
Line = dict[str, str]


def measured(interval: tuple[float, float, float], digits: int = 3) -> str:
    """A value and its interval."""
    value, low, high = (f"{number:.{digits}f}" for number in interval)
    return f"{value} ({low} - {high})"


def line(target: str, interval: tuple[float, float, float], limit: float, digits: int = 3) -> Line:
    """A value with its interval, passed if all of the interval lies below the limit."""
    return {
        "target": target,
        "measured": measured(interval, digits),
        "passed": "yes" if interval[2] < limit else "no",
    }
