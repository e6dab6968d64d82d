"""The iterated integrals of two letters that schemes of order 1 share."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.signature.partial_signature import PartialSignature


def two_letter_integrals(structure: str, signatures: PartialSignature) -> Tensor:
    """I_(i,j) = (W_i W_j - h [i=j])/2 + A_ij, the area only for general noise: commutative noise does not feel it.

    Returns:
        (n, batch, d, d); for diagonal noise I_(i,i) alone, (n, batch, d).
    """
    w, h = signatures.increment, signatures.h
    if structure == "diagonal":
        return (w**2 - h) / 2
    symmetric = (w.unsqueeze(-1) * w.unsqueeze(-2) - h[..., None] * torch.eye(w.shape[-1]).to(w)) / 2
    return symmetric if structure != "general" or signatures.levy_area is None else symmetric + signatures.levy_area


def increment_and_integrals(structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
    """W, and `two_letter_integrals` unless the noise is additive: what schemes of order 1 take of the path."""
    if structure == "additive":
        return (signatures.increment,)
    return signatures.increment, two_letter_integrals(structure, signatures)
