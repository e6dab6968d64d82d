"""Milstein's scheme."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.sde.calculus import second_order_noise
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import Scheme, apply, strong_orders
from sdesig.solvers.noise_terms import increment_and_integrals


class Milstein(Scheme):
    """Y' = Y + f h + g W + sum_{i,j} (Dg_j g_i) I_(i,j), Ito, any noise.

    Strong order 1, weak order 1 (Kloeden & Platen, Numerical Solution of SDEs, 1992, eq. 10.3.3). General noise needs
    Levy areas: I_(i,j) = (W_i W_j - h [i=j])/2 + A_ij. Additive noise has no such term: it is the Euler scheme.
    """

    sde_type = "ito"
    strong_order = strong_orders(1.0)
    weak_order = 1.0
    word_order = 1.0

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W, and I_(i,j) unless the noise is additive."""
        return increment_and_integrals(structure, signatures)

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y + f h + g W + sum_{i,j} (Dg_j g_i) I_(i,j)."""
        w, *integrals = noise
        euler = y + sde.f(start, y) * (end - start) + apply(sde.g(start, y), w)
        return euler + second_order_noise(sde, start, y, *integrals) if integrals else euler
