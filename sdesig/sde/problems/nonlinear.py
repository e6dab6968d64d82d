"""Nonlinear multiplicative noise with a solution from W(t) alone, by a change of variables to arithmetic
Brownian motion (Kloeden & Platen, Numerical Solution of Stochastic Differential Equations, 1992, Section 4.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesig._checks import check_integer, check_real
from sdesig.sde.problems.base import Problem


class TanhDiffusion(Problem):
    """dY = -(alpha + beta^2 Y) (1 - Y^2) dt + beta (1 - Y^2) dW, Ito, one-dimensional, scalar noise.

    Y(t) = tanh(artanh(y0) - alpha t + beta W(t)), inside (-1, 1) like y0.

    Args:
        alpha: drift, 1/time.
        beta: noise intensity, 1/sqrt(time).

    Raises:
        TypeError, ValueError: parameters that are not finite numbers.
    """

    def __init__(self, alpha: float = 0.5, beta: float = 0.7) -> None:
        super().__init__("scalar", "ito", initial=[0.3])
        self.alpha = check_real("alpha", alpha)
        self.beta = check_real("beta", beta)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """-(alpha + beta^2 y) (1 - y^2)."""
        return -(self.alpha + self.beta**2 * y) * (1 - y**2)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """beta (1 - y^2)."""
        return (self.beta * (1 - y**2)).unsqueeze(-1)

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """tanh(artanh(y0) - alpha t + beta w); NaN for |y0| > 1."""
        return torch.tanh(torch.atanh(y0) - self.alpha * self._check(t, y0, w=w) + self.beta * w)


class SinhDiffusion(Problem):
    """dY_i = a^2/2 Y_i dt + a sqrt(1 + Y_i^2) dW^i, Ito, diagonal noise; as a Stratonovich SDE it has no drift.

    Y_i(t) = sinh(arsinh(y0_i) + a W^i(t)).

    Args:
        intensity: a, 1/sqrt(time).
        dim: number of independent components.

    Raises:
        TypeError, ValueError: intensity not a finite number, dim not an integer >= 1.
    """

    def __init__(self, intensity: float = 0.7, dim: int = 2) -> None:
        check_integer("dim", dim, 1)
        super().__init__("diagonal", "ito", initial=torch.linspace(0.5, -1.0, dim, dtype=torch.float64))
        self.intensity = check_real("intensity", intensity)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """a^2/2 y_i."""
        return 0.5 * self.intensity**2 * y

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """a sqrt(1 + y_i^2)."""
        return self.intensity * (1 + y**2).sqrt()

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """sinh(arsinh(y0_i) + a w_i)."""
        self._check(t, y0, w=w)
        return torch.sinh(torch.asinh(y0) + self.intensity * w)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """y0_i e^{a^2 t / 2}."""
        return y0 * torch.exp(self.intensity**2 * self._check(t, y0) / 2)

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """diag(((1 + 2 y0_i^2) e^{2 a^2 t} - 1) / 2 - E[Y_i]^2)."""
        time = self._check(t, y0)
        second = ((1 + 2 * y0**2) * torch.exp(2 * self.intensity**2 * time) - 1) / 2
        return torch.diag_embed(second - self.mean(t, y0) ** 2)
