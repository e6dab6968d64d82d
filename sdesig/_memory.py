"""The one bound on memory: work is cut into parts that hold at most so many numbers."""

from __future__ import annotations

NUMBERS_AT_ONCE = 2**24
"""Numbers that a part holds at once: 64 MB in float32. No result depends on it, but for rounding."""


def rows_at_once(numbers: int) -> int:
    """Number of rows to work on at once, at least 1, if each takes `numbers` numbers, temporaries included."""
    return max(1, NUMBERS_AT_ONCE // max(1, numbers))
