"""The Euler-Maruyama scheme."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.solvers.base import Scheme, apply, strong_orders


class Euler(Scheme):
    """Y' = Y + f h + g W, Ito, any noise.

    Strong order 1/2 (1 for additive noise), weak order 1 (Kloeden & Platen, Numerical Solution of SDEs, 1992,
    eq. 10.2.4).
    """

    sde_type = "ito"
    strong_order = strong_orders(0.5, additive=1.0)
    weak_order = 1.0

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y + f h + g W."""
        (w,) = noise
        return y + sde.f(start, y) * (end - start) + apply(sde.g(start, y), w)
