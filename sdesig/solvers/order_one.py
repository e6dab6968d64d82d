"""What the schemes of strong order 1 for Ito SDEs share: the iterated integrals of two letters."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import Scheme, strong_orders


class OrderOneScheme(Scheme):
    """A scheme for Ito SDEs that takes W and, unless the noise is additive, I_(i,j) = (W_i W_j - h [i=j])/2 + A_ij.

    The area is taken for general noise only: commutative noise does not feel it.
    """

    sde_type = "ito"
    strong_order = strong_orders(1.0)
    weak_order = 1.0
    word_order = 1.0

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W, (n, batch, d), and I_(i,j), (n, batch, d, d); for diagonal noise I_(i,i) alone, (n, batch, d)."""
        w, h = signatures.increment, signatures.h
        if structure == "additive":
            return (w,)
        if structure == "diagonal":
            return w, (w**2 - h) / 2
        symmetric = (w.unsqueeze(-1) * w.unsqueeze(-2) - h[..., None] * torch.eye(w.shape[-1]).to(w)) / 2
        area = signatures.levy_area if structure == "general" else None
        return w, symmetric if area is None else symmetric + area
