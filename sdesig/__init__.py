"""Exact partial signatures, consistent Brownian paths and SDE numerics on torchsde, and Sig-DEG."""

import logging

from sdesig.brownian import BrownianPath, UniformClock
from sdesig.convergence import OrderEstimate, strong_order, weak_order
from sdesig.sampling import (
    CanonicalDenoiser,
    CanonicalSDE,
    GaussianReference,
    PathSpace,
    SNRClock,
    SNRDenoiser,
    information_floor,
)
from sdesig.sde import EDM, SDE, VE, VP, Flow, Mixture, SubVP, to_ito, to_stratonovich
from sdesig.sigdeg import SigDEG, distill
from sdesig.signature import (
    PartialSignature,
    TensorSeries,
    expected_signature,
    gaussian_word_covariance,
    iterated_integrals,
    levy_area,
    sample_partial_signature,
    words_for_scheme,
)
from sdesig.solvers import solve, solve_adaptive

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # applications decide what is shown

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "BrownianPath",
    "CanonicalDenoiser",
    "CanonicalSDE",
    "Flow",
    "GaussianReference",
    "Mixture",
    "OrderEstimate",
    "PartialSignature",
    "PathSpace",
    "SNRClock",
    "SNRDenoiser",
    "SigDEG",
    "SubVP",
    "TensorSeries",
    "UniformClock",
    "distill",
    "expected_signature",
    "gaussian_word_covariance",
    "information_floor",
    "iterated_integrals",
    "levy_area",
    "sample_partial_signature",
    "solve",
    "solve_adaptive",
    "strong_order",
    "to_ito",
    "to_stratonovich",
    "weak_order",
    "words_for_scheme",
]
