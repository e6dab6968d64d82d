"""Strong and weak orders of convergence, measured with confidence intervals."""

from sdesig.convergence.estimate import FEWEST, HALF_WIDTH, SLACK, OrderEstimate
from sdesig.convergence.fit import fit_strong, fit_weak
from sdesig.convergence.orders import NestedPath, rounding, strong_order, weak_order

__all__ = [
    "FEWEST",
    "HALF_WIDTH",
    "SLACK",
    "NestedPath",
    "OrderEstimate",
    "fit_strong",
    "fit_weak",
    "rounding",
    "strong_order",
    "weak_order",
]
