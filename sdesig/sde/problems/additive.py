"""Additive noise: Ornstein-Uhlenbeck, time-dependent noise with a closed solution, the double well."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdesig._checks import check_integer, check_real
from sdesig.sde.problems.base import Problem, affine_flow, as_array
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre

QUADRATURE_NODES = 64


class OrnsteinUhlenbeck(Problem):
    """dY = K (m - Y) dt + S dW (Ito = Stratonovich).

    Gaussian: Y(t) = m + e^{-Kt}(y0 - m) + int_0^t e^{-K(t-s)} S dW_s. The integral is not a function of W(t), but its
    mean given the first Legendre coefficients of W on [0, t] is exact (`conditional_mean`), and tends to Y(t) with the
    depth: an oracle for schemes that see a partial signature.

    Args:
        rate: K, (d, d), 1/time.
        level: m, (d,).
        volatility: S, (d, m). Numbers give the one-dimensional process.

    Raises:
        ValueError: shapes that do not fit, infinities or NaN.
    """

    rate: Tensor
    level: Tensor
    volatility: Tensor

    def __init__(
        self,
        rate: Tensor | Sequence[Sequence[float]] | float = ((1.0, 0.8), (-0.4, 0.5)),
        level: Tensor | Sequence[float] | float = (0.5, -0.5),
        volatility: Tensor | Sequence[Sequence[float]] | float = ((0.6, 0.0), (0.3, 0.4)),
    ) -> None:
        rate = as_array("rate", rate, "d", "d")
        level = as_array("level", level, len(rate))
        volatility = as_array("volatility", volatility, len(rate), "m")
        super().__init__("additive", "ito", initial=torch.ones(len(rate)), noise_dim=volatility.shape[1])
        self.register_buffer("rate", rate)
        self.register_buffer("level", level)
        self.register_buffer("volatility", volatility)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """K (m - y)."""
        return (self.level.to(y) - y) @ self.rate.to(y).mT

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """S."""
        return self.volatility.to(y).expand(*y.shape, self.noise_dim)

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """m + e^{-Kt} (y0 - m)."""
        time = self._check(t, y0)
        level = self.level.to(y0)
        return level + (y0 - level) @ torch.linalg.matrix_exp(-time * self.rate.to(y0)).mT

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """C(t) with the Lyapunov equation C' = S S^T - K C - C K^T, C(0) = 0, the same for all y0."""
        time = self._check(t, y0)
        rate, volatility, eye = self.rate.to(y0), self.volatility.to(y0), torch.eye(self.dim).to(y0)
        lyapunov = -torch.kron(rate, eye) - torch.kron(eye, rate)
        flat = affine_flow(lyapunov, (volatility @ volatility.mT).flatten(), time, y0.new_zeros(self.dim**2))
        return flat.reshape(self.dim, self.dim).expand(*y0.shape, self.dim)

    def conditional_mean(self, t: float | Tensor, coefficients: Tensor, y0: Tensor) -> Tensor:
        """E[Y(t) | xi_0, ..., xi_{depth-1}] = m + e^{-Kt}(y0 - m) + sum_k C_k S xi_k.

        C_k = int_0^t e^{-K(t-s)} phi_k(s) ds with phi_k the orthonormal Legendre polynomials on [0, t], by Gauss
        quadrature: to rounding for |K| t up to about 100.

        Args:
            t: as in `mean`.
            coefficients: Legendre coefficients of dW on [0, t] (`sdesig.signature.legendre`), iid N(0, 1),
                (depth, ..., noise_dim).
            y0: (..., dim).

        Returns:
            (..., dim).

        Raises:
            TypeError, ValueError: as in `mean`; coefficients of another shape.
        """
        time = self._check(t, y0, coefficients=coefficients)
        if coefficients.ndim < 2 or len(coefficients) == 0:
            raise ValueError(f"coefficients must have shape (depth >= 1, ..., m); got {tuple(coefficients.shape)}")
        loadings = self._loadings(time, len(coefficients))
        return self.mean(t, y0) + torch.einsum("kdm,k...m->...d", loadings, coefficients)

    def conditional_covariance(self, t: float | Tensor, depth: int, y0: Tensor) -> Tensor:
        """Cov[Y(t) | xi_0, ..., xi_{depth-1}] = Cov[Y(t)] - sum_k C_k S S^T C_k^T, (..., dim, dim).

        Its trace is the least mean square error of any method that sees y0 and those coefficients. Raises as `mean`,
        and for depth < 1.
        """
        loadings = self._loadings(self._check(t, y0), check_integer("depth", depth, 1))
        return self.covariance(t, y0) - torch.einsum("kdm,kem->de", loadings, loadings)

    def _loadings(self, t: Tensor, depth: int) -> Tensor:
        """C_k S, (depth, dim, noise_dim)."""
        nodes, weights = gauss_legendre(QUADRATURE_NODES, t.device)
        decay = torch.linalg.matrix_exp(-(t * (1.0 - nodes))[:, None, None] * self.rate.to(nodes))
        projection = torch.einsum("kq,qde->kde", orthonormal_legendre(nodes, depth) * weights, decay)
        return (t.sqrt() * projection @ self.volatility.to(nodes)).to(t)


class FadingNoise(Problem):
    """dY = (beta / sqrt(1+t) - Y / (2 (1+t))) dt + alpha beta / sqrt(1+t) dW, one-dimensional (Ito = Stratonovich).

    sqrt(1+t) Y is an arithmetic Brownian motion, so Y(t) = (y0 + beta (t + alpha W(t))) / sqrt(1+t): additive noise
    that depends on time, and a solution from W(t) alone.

    Args:
        beta: drift coefficient, finite.
        alpha: noise relative to drift, finite.

    Raises:
        TypeError, ValueError: parameters that are not finite numbers.
    """

    def __init__(self, beta: float = 0.5, alpha: float = 1.0) -> None:
        super().__init__("additive", "ito", initial=[1.0], noise_dim=1)
        self.beta = check_real("beta", beta)
        self.alpha = check_real("alpha", alpha)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """beta / sqrt(1+t) - y / (2 (1+t))."""
        return self.beta * (1 + t) ** -0.5 - y / (2 * (1 + t))

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """alpha beta / sqrt(1+t)."""
        return (self.alpha * self.beta * (1 + t) ** -0.5 * torch.ones_like(y)).unsqueeze(-1)

    def exact(self, t: float | Tensor, w: Tensor, y0: Tensor) -> Tensor:
        """(y0 + beta (t + alpha w)) / sqrt(1+t)."""
        time = self._check(t, y0, w=w)
        return (y0 + self.beta * (time + self.alpha * w)) / (1 + time).sqrt()

    def mean(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """(y0 + beta t) / sqrt(1+t)."""
        time = self._check(t, y0)
        return (y0 + self.beta * time) / (1 + time).sqrt()

    def covariance(self, t: float | Tensor, y0: Tensor) -> Tensor:
        """alpha^2 beta^2 t / (1+t), the same for all y0."""
        time = self._check(t, y0)
        return ((self.alpha * self.beta) ** 2 * time / (1 + time)).expand(*y0.shape, 1)


class DoubleWell(Problem):
    """dY = -V'(Y) dt + sigma dW, V(y) = (y^2 - 1)^2 / 4, one-dimensional gradient system (Ito = Stratonovich).

    Stationary density proportional to exp(-2 V(y) / sigma^2); no closed solution for finite t. The drift y - y^3 is not
    globally Lipschitz: explicit schemes diverge from |y| > sqrt(2/h) or so.

    Args:
        sigma: noise intensity, > 0.

    Raises:
        TypeError, ValueError: sigma not a finite number > 0.
    """

    def __init__(self, sigma: float = 0.7) -> None:
        super().__init__("additive", "ito", initial=[1.0], noise_dim=1)
        self.sigma = check_real("sigma", sigma, minimum=0.0, strict=True)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """y - y^3."""
        return y - y**3

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """sigma."""
        return torch.full_like(y, self.sigma).unsqueeze(-1)

    def stationary_density(self, y: Tensor) -> Tensor:
        """exp(-2 V(y) / sigma^2) / int exp(-2 V(x) / sigma^2) dx, elementwise."""
        return torch.exp(-((y**2 - 1) ** 2) / (2 * self.sigma**2)) / self._weighted_integral(0)

    def stationary_moment(self, order: int) -> float:
        """E[Y^order] in the stationary law, by adaptive quadrature (relative error below 1e-9).

        Raises:
            TypeError, ValueError: order not an integer >= 0.
        """
        check_integer("order", order, 0)
        return 0.0 if order % 2 else self._weighted_integral(order) / self._weighted_integral(0)

    def _weighted_integral(self, order: int) -> float:
        """int y^order exp(-2 V(y) / sigma^2) dy for an even order; the weight is below 1e-300 beyond the cut."""
        from scipy.integrate import quad  # a tenth of a second, for this function alone

        cut = math.sqrt(1 + 38 * self.sigma)

        def weighted(y: float) -> float:
            return y**order * math.exp(-((y**2 - 1) ** 2) / (2 * self.sigma**2))

        return 2 * quad(weighted, 0, cut, points=[1.0], epsabs=0.0, epsrel=1e-10, limit=200)[0]
