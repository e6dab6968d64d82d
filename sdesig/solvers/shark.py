"""ShARK: the shifted additive-noise Runge-Kutta scheme."""

from __future__ import annotations

from torch import Tensor

from sdesig.sde.base import SDELike
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import Scheme, apply, strong_orders


class ShARK(Scheme):
    """Additive noise, from the increment W and the space-time area H:

        Y~ = Y + g H,   Z = Y~ + 5/6 (f(Y~) h + g W),   Y' = Y + (2/5 f(Y~) + 3/5 f(Z)) h + g W

    with f(Y~) at t and f(Z) at t + 5h/6. Where g depends on time, the last g W is g(t) (W/2 + H) + g(t+h) (W/2 - H),
    which adds g' I_(0,i) as strong order 1.5 demands. Strong order 1.5, weak order 2, two evaluations of f (Foster, dos
    Reis & Strange, SIAM J. Numer. Anal. 62, 2024, arXiv 2210.17543, for constant g).

    The step contains a cheaper one, Y + f(Y~) h + g W with g at t, of strong order 1; their difference is the estimate
    of the local error that `solve_adaptive` controls.
    """

    sde_type = "ito"
    strong_order = strong_orders(1.5, ("additive",))
    weak_order = 2.0
    word_order = 1.5

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """W and H."""
        return signatures.increment, signatures.space_time_area

    def step(self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor) -> Tensor:
        """Y', the first of what `step_and_error` returns."""
        return self.step_and_error(sde, start, end, y, *noise)[0]

    def step_and_error(
        self, sde: SDELike, start: Tensor, end: Tensor, y: Tensor, *noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state at `end`, and 3/5 (f(Z) - f(Y~)) h + (g(t+h) - g(t)) (W/2 - H), what the cheaper step lacks."""
        (w, area), h = noise, end - start
        g = sde.g(start, y)
        shifted = y + apply(g, area)
        drift, diffusion = sde.f(start, shifted) * h, apply(g, w)
        ahead = shifted + 5 / 6 * (drift + diffusion)
        later = sde.f(start + 5 / 6 * h, ahead) * h
        error = 0.6 * (later - drift) + apply(sde.g(end, y) - g, w / 2 - area)
        return y + drift + diffusion + error, error
