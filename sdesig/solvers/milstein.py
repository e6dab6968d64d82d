"""Milstein's scheme."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.sde.calculus import second_order_noise
from sdesig.solvers.base import OrderOneScheme, apply


class Milstein(OrderOneScheme):
    """Y' = Y + f h + g W + sum_{i,j} (Dg_j g_i) I_(i,j), Ito, any noise.

    Strong order 1, weak order 1 (Kloeden & Platen, Numerical Solution of SDEs, 1992, eq. 10.3.3). General noise needs
    Levy areas: I_(i,j) = (W_i W_j - h [i=j])/2 + A_ij. Additive noise has no such term: it is the Euler scheme.
    """

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y + f h + g W + sum_{i,j} (Dg_j g_i) I_(i,j)."""
        w, *integrals = noise
        euler = y + sde.f(start, y) * (end - start) + apply(sde.g(start, y), w)
        return euler + second_order_noise(sde, start, y, *integrals) if integrals else euler
