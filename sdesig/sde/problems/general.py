"""General noise: Brownian motion on the Heisenberg group, with a solution in (W, Levy area); Heston's model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig._checks import check_real
from sdesig.sde.problems.base import Problem, affine_flow, check_levy_area, quarter_turn


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


class Heston(Problem):
    """Y = (log S, v), Ito, W^1 and W^2 independent (Heston, Rev. Financ. Stud. 6, 1993):

        d log S = (mu - v/2) dt + sqrt(v) dW^1
        dv      = kappa (theta - v) dt + xi sqrt(v) (rho dW^1 + sqrt(1 - rho^2) dW^2)

    The columns of g do not commute if rho^2 < 1 and xi > 0. The model is affine: moments of Y solve linear equations.
    Exact paths have v > 0 if 2 kappa theta >= xi^2 (Feller), as they do by default. A scheme may leave v > 0 all the
    same: v < 0 then counts as 0 in drift and diffusion (full truncation: Lord, Koekkoek & van Dijk, Quant. Finance 10,
    2010). g is continuous but not Lipschitz at v = 0, where its derivative is infinite from above and 0 from below: the
    classical strong orders do not hold for schemes whose paths come near it, and the Ito correction
    jumps from (rho, xi) xi/4 to 0.

    Args:
        mu: drift of S, 1/time.
        kappa: rate of mean reversion, > 0, 1/time.
        theta: long-run variance, > 0, 1/time.
        xi: volatility of the variance, >= 0, 1/time.
        rho: correlation, in [-1, 1].

    Raises:
        TypeError, ValueError: parameters that are not numbers in those ranges.
    """

    loading: Tensor

    def __init__(
        self, mu: float = 0.05, kappa: float = 2.0, theta: float = 0.09, xi: float = 0.4, rho: float = -0.7
    ) -> None:
        super().__init__("general", "ito", initial=[0.0, 0.16], noise_dim=2)
        self.mu = check_real("mu", mu)
        self.kappa = check_real("kappa", kappa, minimum=0.0, strict=True)
        self.theta = check_real("theta", theta, minimum=0.0, strict=True)
        self.xi = check_real("xi", xi, minimum=0.0)
        self.rho = check_real("rho", rho, minimum=-1.0)
        if self.rho > 1.0:
            raise ValueError(f"rho must be in [-1, 1]; got {self.rho}")
        across = self.xi * math.sqrt(1 - self.rho**2)
        self.register_buffer("loading", torch.tensor([[1.0, 0.0], [self.xi * self.rho, across]], dtype=torch.float64))

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """(mu - v^+/2, kappa (theta - v^+))."""
        v = y[..., 1].clamp(min=0)
        return torch.stack([self.mu - v / 2, self.kappa * (self.theta - v)], -1)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """sqrt(v^+) [[1, 0], [xi rho, xi sqrt(1 - rho^2)]]."""
        v = y[..., 1]
        positive = v > 0
        # The inner where keeps the infinite derivative at 0 out of the branch that is not taken.
        root = torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)
        return root[..., None, None] * self.loading.to(y)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """(log s0 + (mu - theta/2) t - (v0 - theta)(1 - e^{-kappa t})/(2 kappa), theta + (v0 - theta) e^{-kappa t})."""
        time = self._check(t, y0)
        log_price, excess = y0[..., 0], y0[..., 1] - self.theta
        decay = torch.exp(-self.kappa * time)
        mean_log_price = log_price + (self.mu - self.theta / 2) * time - excess * (1 - decay) / (2 * self.kappa)
        return torch.stack([mean_log_price, self.theta + excess * decay], -1)

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """C(t) with C' = F C + C F^T + E[v] L L^T, C(0) = 0, F = [[0, -1/2], [0, -kappa]], g = sqrt(v) L."""
        time = self._check(t, y0)
        loading, eye = self.loading.to(y0), torch.eye(2).to(y0)
        drift = y0.new_tensor([[0.0, -0.5], [0.0, -self.kappa]])
        # One linear system for (vec C, E[v]).
        matrix = y0.new_zeros(5, 5)
        matrix[:4, :4] = torch.kron(drift, eye) + torch.kron(eye, drift)
        matrix[:4, 4] = (loading @ loading.mT).flatten()
        matrix[4, 4] = -self.kappa
        offset = y0.new_tensor([0.0, 0.0, 0.0, 0.0, self.kappa * self.theta])
        start = torch.cat([torch.zeros_like(y0), torch.zeros_like(y0), y0[..., 1:]], -1)
        return affine_flow(matrix, offset, time, start)[..., :4].unflatten(-1, (2, 2))

    def mean_price(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """E[S(t)] = s0 e^{mu t}, (...)."""
        return torch.exp(y0[..., 0] + self.mu * self._check(t, y0))
