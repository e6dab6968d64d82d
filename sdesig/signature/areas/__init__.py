"""Levy areas of Brownian motion, A_ij = 1/2 int (W_i dW_j - W_j dW_i), and the iterated integrals made of them."""

from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.legendre import legendre_area
from sdesig.signature.areas.sampling import JOINT_METHODS, METHODS, check_memory, iterated_integrals, levy_area
from sdesig.signature.areas.truncation import NORMS, STRONG_METHODS, terms_needed

__all__ = [
    "JOINT_METHODS",
    "METHODS",
    "NORMS",
    "STRONG_METHODS",
    "check_memory",
    "chen_area",
    "iterated_integrals",
    "legendre_area",
    "levy_area",
    "terms_needed",
]
