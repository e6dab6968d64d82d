"""Partial signatures of Brownian motion: words, tensor algebra, Gaussian words, Levy areas, and their value type."""

from sdesig.signature.areas.chen import chen_area
from sdesig.signature.areas.levy_area import JOINT_METHODS, iterated_integrals, levy_area, strong_area
from sdesig.signature.areas.truncation import STRONG_METHODS, normals_drawn, terms_needed
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre
from sdesig.signature.partial_signature import PartialSignature, join_steps, sample_partial_signature
from sdesig.signature.tensor_algebra import TensorSeries, expected_signature, piecewise_linear_signature
from sdesig.signature.words import (
    Word,
    gaussian_word_covariance,
    ito_to_stratonovich,
    legendre_depth,
    needs_levy_area,
    quasi_shuffle,
    shuffle,
    stratonovich_to_ito,
    words_for_scheme,
)

__all__ = [
    "JOINT_METHODS",
    "STRONG_METHODS",
    "PartialSignature",
    "TensorSeries",
    "Word",
    "chen_area",
    "expected_signature",
    "gauss_legendre",
    "gaussian_word_covariance",
    "iterated_integrals",
    "ito_to_stratonovich",
    "join_steps",
    "legendre_depth",
    "levy_area",
    "needs_levy_area",
    "normals_drawn",
    "orthonormal_legendre",
    "piecewise_linear_signature",
    "quasi_shuffle",
    "sample_partial_signature",
    "shuffle",
    "stratonovich_to_ito",
    "strong_area",
    "terms_needed",
    "words_for_scheme",
]
