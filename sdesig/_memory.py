"""The one bound on memory: what is worked on in parts is cut so that a part holds so many numbers."""

from __future__ import annotations

NUMBERS_AT_ONCE = 2**24
"""Numbers that are held at once: 64 MB of them in float32. No result depends on it."""


def rows_at_once(numbers: int) -> int:
    """How many rows are worked on at once, of which each takes so many numbers, temporaries included; at least 1."""
    return max(1, NUMBERS_AT_ONCE // max(1, numbers))
