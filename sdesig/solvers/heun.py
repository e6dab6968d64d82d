"""The Stratonovich Heun scheme."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.solvers.base import Scheme, apply, strong_orders


class Heun(Scheme):
    """Y~ = Y + f h + g W,  Y' = Y + (f + f~) h/2 + (g + g~) W/2, Stratonovich, any noise; f~, g~ at (t + h, Y~).

    Strong order 1 for commuting noise, else 1/2, weak order 1 (Ruemelin, SIAM J. Numer. Anal. 19, 1982).
    """

    sde_type = "stratonovich"
    strong_order = strong_orders(1.0, general=0.5)
    weak_order = 1.0

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """The mean of two Euler steps, from Y and from Y~."""
        (w,), h = noise, end - start
        first = sde.f(start, y) * h + apply(sde.g(start, y), w)
        ahead = y + first
        return y + (first + sde.f(end, ahead) * h + apply(sde.g(end, ahead), w)) / 2
