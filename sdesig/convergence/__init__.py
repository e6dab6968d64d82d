"""Strong and weak orders of convergence, measured with confidence intervals."""

from sdesig.convergence.estimate import OrderEstimate
from sdesig.convergence.fit import fit_strong, fit_weak
from sdesig.convergence.strong import strong_order
from sdesig.convergence.weak import weak_order

__all__ = ["OrderEstimate", "fit_strong", "fit_weak", "strong_order", "weak_order"]
