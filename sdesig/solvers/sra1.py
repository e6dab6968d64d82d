"""Roessler's stochastic Runge-Kutta scheme SRA1 for additive noise."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import Scheme, apply, strong_orders


class SRA1(Scheme):
    """Additive noise, which may depend on time; U = I_(i,0) = h (W/2 + H):

        Y~ = Y + 3/4 f h + 3/2 g(t+h) U/h
        Y' = Y + f h/3 + 2/3 f(t + 3h/4, Y~) h + g(t+h) (W - U/h) + g(t) U/h

    Strong order 1.5, weak order 2, two evaluations of f (Roessler, SIAM J. Numer. Anal. 48, 2010, pp. 922-952, scheme
    SRA1).
    """

    sde_type = "ito"
    strong_order = strong_orders(1.5, ("additive",))
    weak_order = 2.0
    word_order = 1.5

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W and U/h, the mean of the path over the step."""
        return signatures.increment, signatures.increment / 2 + signatures.space_time_area

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y', from two evaluations of f and g each."""
        (w, mean), h = noise, end - start
        drift, last = sde.f(start, y) * h, sde.g(end, y)
        ahead = y + 0.75 * drift + 1.5 * apply(last, mean)
        later = sde.f(start + 0.75 * h, ahead) * h
        return y + (drift + 2 * later) / 3 + apply(last, w - mean) + apply(sde.g(start, y), mean)
