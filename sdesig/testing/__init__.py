"""Checks for tests of Brownian samplers, ours or anyone's: z-scores of the exact law with a stated false-alarm rate.

`saved_bytes` tells what a loss keeps for its backward pass. `sdesig.testing.strategies` holds hypothesis strategies;
import it by itself (it needs hypothesis).
"""

from sdesig._intervals import mean_interval
from sdesig._memory import saved_bytes
from sdesig.testing.laws import LawReport, check_brownian_step, check_gaussian, check_moments, chen_deviation

__all__ = [
    "LawReport",
    "check_brownian_step",
    "check_gaussian",
    "check_moments",
    "chen_deviation",
    "mean_interval",
    "saved_bytes",
]
