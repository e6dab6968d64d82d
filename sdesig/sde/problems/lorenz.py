"""The stochastic Lorenz system: chaotic, diagonal multiplicative noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdesig._checks import check_real
from sdesig.sde.problems.base import Problem, as_array


class StochasticLorenz(Problem):
    """dY_i = F_i(Y) dt + alpha_i Y_i dW^i, Ito, F = (sigma (y_2 - y_1), y_1 (rho - y_3) - y_2, y_1 y_2 - beta y_3).

    Neither solution nor moments are known in closed form. What is exact, path by path, is how the flow y0 -> Y(t)
    changes volume: the divergences of drift and noise are constants (`log_flow_determinant`). That alone does not
    determine Y(t): compare schemes with each other on a fine grid.

    Args:
        sigma: Prandtl number, with rho and beta as in Lorenz (1963).
        rho: Rayleigh number.
        beta: aspect ratio.
        alpha: noise intensities, (3,), 1/sqrt(time).

    Raises:
        TypeError, ValueError: parameters that are not finite numbers, alpha of another shape.
    """

    alpha: Tensor

    def __init__(
        self,
        sigma: float = 10.0,
        rho: float = 28.0,
        beta: float = 8.0 / 3.0,
        alpha: Tensor | Sequence[float] = (0.3, 0.2, 0.1),
    ) -> None:
        super().__init__("diagonal", "ito", initial=[-5.9, -5.5, 24.6])
        self.sigma = check_real("sigma", sigma)
        self.rho = check_real("rho", rho)
        self.beta = check_real("beta", beta)
        self.register_buffer("alpha", as_array("alpha", alpha, 3))

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """F(y)."""
        y1, y2, y3 = y.unbind(-1)
        return torch.stack([self.sigma * (y2 - y1), y1 * (self.rho - y3) - y2, y1 * y2 - self.beta * y3], -1)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """alpha_i y_i."""
        return self.alpha.to(y) * y

    def log_flow_determinant(self, t: float | Tensor, w: Tensor) -> Tensor:
        """log |det dY(t)/dy0| = -(sigma + 1 + beta + sum_i alpha_i^2 / 2) t + sum_i alpha_i W^i(t).

        Liouville's formula for the Stratonovich form: drift divergence times t plus noise divergences times W.

        Args:
            t: time >= 0.
            w: W(t), (..., 3).

        Returns:
            (...), the same for all y0.

        Raises:
            TypeError, ValueError: t < 0 or not a number, wrong last axis of w.
        """
        time = self._check(t, self.initial.to(w), w=w)
        alpha = self.alpha.to(w)
        return w @ alpha - (self.sigma + 1 + self.beta + (alpha**2).sum() / 2) * time
