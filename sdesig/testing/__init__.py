"""Checks for tests of Brownian samplers, ours or anyone's: z-scores of the exact law with a stated false-alarm rate.

`sdesig.testing.strategies` holds hypothesis strategies; import it by itself (it needs hypothesis).
`sdesig.testing.memory` has `saved_bytes`, the memory of a backward pass.
"""

from sdesig._intervals import mean_interval
from sdesig.testing.laws import LawReport, check_brownian_step, check_gaussian, check_moments, chen_deviation

__all__ = [
    "LawReport",
    "check_brownian_step",
    "check_gaussian",
    "check_moments",
    "chen_deviation",
    "mean_interval",
]
