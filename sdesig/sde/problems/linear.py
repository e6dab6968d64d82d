"""Linear noise: geometric Brownian motion, linear systems with and without commuting noise, the Kubo oscillator, and
the Lorenz system.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdesig._checks import check_real
from sdesig.sde.problems.base import Problem, as_array, check_levy_area, outer, quarter_turn

Matrices = Tensor | Sequence[Sequence[Sequence[float]]]


class GeometricBrownianMotion(Problem):
    """dY_i = mu_i Y_i dt + sigma_i Y_i dW^i, Ito, one independent W^i per component.

    Y_i(t) = y0_i exp((mu_i - sigma_i^2 / 2) t + sigma_i W^i(t)).

    Args:
        drift: mu, (d,), 1/time.
        volatility: sigma, (d,). Numbers give the one-dimensional process.

    Raises:
        ValueError: shapes that do not fit, infinities or NaN.
    """

    drift: Tensor
    volatility: Tensor

    def __init__(
        self,
        drift: Tensor | Sequence[float] | float = (0.3, -0.5),
        volatility: Tensor | Sequence[float] | float = (0.5, 0.8),
    ) -> None:
        drift = as_array("drift", drift, "d")
        volatility = as_array("volatility", volatility, len(drift))
        super().__init__("diagonal", "ito", initial=torch.ones(len(drift)))
        self.register_buffer("drift", drift)
        self.register_buffer("volatility", volatility)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """mu_i y_i."""
        return self.drift.to(y) * y

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """sigma_i y_i."""
        return self.volatility.to(y) * y

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """y0_i exp((mu_i - sigma_i^2 / 2) t + sigma_i w_i)."""
        time = self._check(t, y0, w=w)
        volatility = self.volatility.to(y0)
        return y0 * torch.exp((self.drift.to(y0) - volatility**2 / 2) * time + volatility * w)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """y0_i e^{mu_i t}."""
        return y0 * torch.exp(self.drift.to(y0) * self._check(t, y0))

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """diag(y0_i^2 e^{2 mu_i t} (e^{sigma_i^2 t} - 1))."""
        time = self._check(t, y0)
        return torch.diag_embed(self.mean(t, y0) ** 2 * torch.expm1(self.volatility.to(y0) ** 2 * time))


class LinearSDE(Problem):
    """dY = A Y dt + sum_j B_j Y dW^j, Ito, with arbitrary matrices.

    The first two moments solve linear equations. For matrices that do not commute no function of finitely many
    iterated integrals is exact; `log_ode` is the pathwise oracle, of known order. The default B_j do not commute.

    Args:
        drift: A, (d, d), 1/time.
        noise: B_1, ..., B_m, (m, d, d).

    Raises:
        ValueError: shapes that do not fit, infinities or NaN.
    """

    drift: Tensor
    noise: Tensor

    def __init__(
        self,
        drift: Tensor | Sequence[Sequence[float]] = ((-0.5, -0.4), (0.4, -0.5)),
        noise: Matrices = (((0.0, 0.5), (0.5, 0.0)), ((0.5, 0.0), (0.0, -0.5))),
        *,
        noise_structure: str = "general",
    ) -> None:
        drift = as_array("drift", drift, "d", "d")
        noise = as_array("noise", noise, "m", len(drift), len(drift))
        super().__init__(
            "general",
            "ito",
            initial=torch.linspace(1.0, 0.5, len(drift), dtype=torch.float64),
            noise_dim=len(noise),
            noise_structure=noise_structure,
        )
        self.register_buffer("drift", drift)
        self.register_buffer("noise", noise)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """A y."""
        return y @ self.drift.to(y).mT

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """B_1 y, ..., B_m y as columns."""
        return torch.einsum("jkl,...l->...kj", self.noise.to(y), y)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """e^{A t} y0."""
        return y0 @ torch.linalg.matrix_exp(self._check(t, y0) * self.drift.to(y0)).mT

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """P(t) - E[Y] E[Y]^T with P = E[Y Y^T]: P' = A P + P A^T + sum_j B_j P B_j^T, P(0) = y0 y0^T."""
        time = self._check(t, y0)
        drift, noise, eye = self.drift.to(y0), self.noise.to(y0), torch.eye(self.dim).to(y0)
        generator = torch.kron(drift, eye) + torch.kron(eye, drift) + sum(torch.kron(b, b) for b in noise)
        second = outer(y0, y0).flatten(-2) @ torch.linalg.matrix_exp(time * generator).mT
        mean = self.mean(t, y0)
        return second.unflatten(-1, (self.dim, self.dim)) - outer(mean, mean)

    def log_ode(self, t: float | Tensor, w: Tensor, levy_area: Tensor, y0: Tensor) -> Tensor:
        """One step of the log-ODE (Magnus) method, given W(t) = w and the Levy area over [0, t].

        exp((A - 1/2 sum_j B_j^2) t + sum_j B_j W^j + sum_{i<j} [B_j, B_i] A_ij) y0, [X, Y] = X Y - Y X. Repeated over
        steps of length h it has strong order 1; in one step it is exact if A - 1/2 sum_j B_j^2 commutes with all B_j
        and the brackets [B_j, B_i] with everything. (Castell & Gaines, Ann. Inst. H. Poincare Probab. Statist. 32,
        1996; Lord, Malham & Wiese, SIAM J. Numer. Anal. 46, 2008.)

        Args:
            t: length of the step, as in `mean`.
            w: (..., m).
            levy_area: A_ij = 1/2 int (W^i dW^j - W^j dW^i), antisymmetric, (..., m, m).
            y0: (..., d).

        Returns:
            (..., d).

        Raises:
            TypeError, ValueError: as `mean`; wrong last axes of w or levy_area.
        """
        time = self._check(t, y0, w=w)
        check_levy_area(levy_area, self.noise_dim)
        noise = self.noise.to(y0)
        brackets = torch.einsum("...ij,jkl,iln->...kn", levy_area, noise, noise)
        return _exponential_times(self._exponent(time, w) + brackets, y0)

    def _exponent(self, t: Tensor, w: Tensor) -> Tensor:
        """(A - 1/2 sum_j B_j^2) t + sum_j B_j w_j, (..., d, d)."""
        noise = self.noise.to(w)
        stratonovich_drift = self.drift.to(w) - 0.5 * (noise @ noise).sum(0)
        return stratonovich_drift * t + torch.tensordot(w, noise, 1)


class CommutativeLinearSDE(LinearSDE):
    """dY = A Y dt + sum_j B_j Y dW^j, Ito, where A, B_1, ..., B_m all commute.

    Y(t) = exp((A - 1/2 sum_j B_j^2) t + sum_j B_j W^j(t)) y0. The default matrices are circulant and not diagonal.

    Args:
        drift: A, (d, d), 1/time.
        noise: B_1, ..., B_m, (m, d, d).

    Raises:
        ValueError: matrices that do not commute, shapes that do not fit, infinities or NaN.
    """

    def __init__(
        self,
        drift: Tensor | Sequence[Sequence[float]] = ((-0.6, 0.3, 0.0), (0.0, -0.6, 0.3), (0.3, 0.0, -0.6)),
        noise: Matrices = (
            ((0.3, 0.4, 0.0), (0.0, 0.3, 0.4), (0.4, 0.0, 0.3)),
            ((0.0, -0.2, 0.5), (0.5, 0.0, -0.2), (-0.2, 0.5, 0.0)),
        ),
    ) -> None:
        super().__init__(drift, noise, noise_structure="commutative")
        matrices = torch.cat([self.drift[None], self.noise])
        products = torch.einsum("ikl,jln->ijkn", matrices, matrices)
        gap = (products - products.transpose(0, 1)).abs().max()
        if gap > 1e-10 * matrices.abs().max() ** 2:
            raise ValueError(f"drift and noise must commute; the largest entry of a commutator is {gap.item():.3g}")

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """exp((A - 1/2 sum_j B_j^2) t + sum_j B_j w_j) y0."""
        return _exponential_times(self._exponent(self._check(t, y0, w=w), w), y0)


class KuboOscillator(Problem):
    """dY = omega J Y dt + sigma J Y o dW, Stratonovich, one scalar W, J = [[0, -1], [1, 0]].

    Y(t) is y0 rotated by the angle omega t + sigma W(t): |Y| is conserved. In the Ito sense the drift is
    (omega J - sigma^2/2) Y.

    Args:
        omega: angular frequency, 1/time.
        sigma: noise intensity, 1/sqrt(time).

    Raises:
        TypeError, ValueError: parameters that are not finite numbers.
    """

    def __init__(self, omega: float = 2.0, sigma: float = 0.7) -> None:
        super().__init__("scalar", "stratonovich", initial=[1.0, 0.5])
        self.omega = check_real("omega", omega)
        self.sigma = check_real("sigma", sigma)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """omega J y."""
        return self.omega * quarter_turn(y)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """sigma J y as one column."""
        return self.sigma * quarter_turn(y).unsqueeze(-1)

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """cos(a) y0 + sin(a) J y0, a = omega t + sigma w."""
        angle = self.omega * self._check(t, y0, w=w) + self.sigma * w
        return angle.cos() * y0 + angle.sin() * quarter_turn(y0)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """e^{-sigma^2 t / 2} R(omega t) y0, R the rotation."""
        time = self._check(t, y0)
        angle = self.omega * time
        return torch.exp(-(self.sigma**2) * time / 2) * (angle.cos() * y0 + angle.sin() * quarter_turn(y0))

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """|y0|^2/2 I + e^{-2 sigma^2 t} (R y0 (R y0)^T - |y0|^2/2 I) - E[Y] E[Y]^T, R = R(omega t)."""
        time = self._check(t, y0)
        mean = self.mean(t, y0)
        rotated = outer(mean, mean) * torch.exp(self.sigma**2 * time)
        isotropic = (y0**2).sum(-1)[..., None, None] / 2 * torch.eye(2).to(y0)
        return isotropic + torch.exp(-2 * self.sigma**2 * time) * (rotated - isotropic) - outer(mean, mean)


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


def _exponential_times(exponent: Tensor, y: Tensor) -> Tensor:
    """exp(exponent) y, (..., d) for an exponent of shape (..., d, d)."""
    return (torch.linalg.matrix_exp(exponent) @ y.unsqueeze(-1)).squeeze(-1)
