"""Levy areas of Brownian motion, A_ij = 1/2 int (W_i dW_j - W_j dW_i), and the iterated integrals made of them."""

from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.legendre_area import legendre_area
from sdesig.signature.areas.levy_area import (
    JOINT_METHODS,
    METHODS,
    check_memory,
    check_range,
    iterated_integrals,
    levy_area,
    plan_area,
    strong_area,
)
from sdesig.signature.areas.truncation import (
    NORMS,
    RELATIVE_TOLERANCE,
    STRONG_METHODS,
    affordable_terms,
    choose_method,
    normals_drawn,
    terms_needed,
)

__all__ = [
    "JOINT_METHODS",
    "METHODS",
    "NORMS",
    "RELATIVE_TOLERANCE",
    "STRONG_METHODS",
    "affordable_terms",
    "check_memory",
    "check_range",
    "chen_area",
    "choose_method",
    "iterated_integrals",
    "legendre_area",
    "levy_area",
    "normals_drawn",
    "plan_area",
    "strong_area",
    "terms_needed",
]
