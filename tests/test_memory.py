"""The bound on memory."""

from sdesig._memory import NUMBERS_AT_ONCE, rows_at_once


def test_rows_fill_the_bound_and_are_one_at_least():
    assert rows_at_once(NUMBERS_AT_ONCE // 3) == 3
    assert rows_at_once(NUMBERS_AT_ONCE + 1) == 1
    assert rows_at_once(0) == NUMBERS_AT_ONCE
