"""Brownian motion on the Heisenberg group: non-commutative noise with a solution in (W, Levy area)."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig.sde.problems.base import Problem, check_levy_area, quarter_turn


class HeisenbergGroup(Problem):
    """dY_1 = dW^1, dY_2 = dW^2, dY_3 = 1/2 (Y_1 dW^2 - Y_2 dW^1) (Ito = Stratonovich).

    Left-invariant Brownian motion on the step-2 nilpotent Heisenberg group: the third component adds the Levy area, so
    that the solution is a polynomial in (W, A) and no scheme without areas has a strong order above 1/2.
    """

    def __init__(self) -> None:
        super().__init__("general", "ito", initial=[0.5, -1.0, 0.3], noise_dim=2)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(y)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Columns (1, 0, -y_2/2) and (0, 1, y_1/2)."""
        one, zero = torch.ones_like(y[..., 0]), torch.zeros_like(y[..., 0])
        rows = [torch.stack([one, zero], -1), torch.stack([zero, one], -1), quarter_turn(y) / 2]
        return torch.stack(rows, -2)

    def exact_from_area(self, t: float | Tensor, w: Tensor, levy_area: Tensor, y0: Tensor) -> Tensor:
        """Y(t) = (y_1 + W^1, y_2 + W^2, y_3 + (y_1 W^2 - y_2 W^1)/2 + A_12): the group product of y0 and (W, A_12).

        Args:
            t: time >= 0; the solution does not depend on it, given the rest.
            w: W(t), (..., 2).
            levy_area: A_ij = 1/2 int (W^i dW^j - W^j dW^i) over [0, t], (..., 2, 2).
            y0: (..., 3).

        Returns:
            (..., 3).

        Raises:
            TypeError, ValueError: t < 0 or not a number, wrong last axes, no floating-point tensors.
        """
        self._check(t, y0, w=w)
        check_levy_area(levy_area, 2)
        third = y0[..., 2] + (quarter_turn(y0) * w).sum(-1) / 2 + levy_area[..., 0, 1]
        return torch.cat([y0[..., :2] + w, third.unsqueeze(-1)], -1)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """y0: every component is a martingale."""
        self._check(t, y0)
        return y0.clone()

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """t u u^T summed over the columns u of g(y0), plus Var A_12 = t^2/4 in the last entry."""
        time = self._check(t, y0)
        g = self.g(t, y0)
        area = torch.zeros(3, 3).to(y0)
        area[2, 2] = 1.0
        return time * g @ g.mT + time**2 / 4 * area
