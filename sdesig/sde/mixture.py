"""Gaussian mixtures: data laws whose denoiser, score and marginals are exact, in any dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig._checks import (
    check_dtype,
    check_floating,
    check_generator,
    check_integer,
    check_real,
    check_step,
    per_sample,
)
from sdesig._devices import like
from sdesig.sde.base import Denoiser
from sdesig.sde.diffusions import Diffusion


class Mixture:
    """sum_j w_j N(m_j, C_j) on R^d.

    Args:
        weights: (k,), positive; normalized here.
        means: (k, d). Its dtype and device are the mixture's.
        covariances: C_j, by its number of axes: a float or (k,), s_j^2 I; (k, d), a variance per coordinate;
            (k, d, d), symmetric and positive semi-definite. A leading 1 instead of k shares it between components.
            Zero variances (point masses) are allowed; such a law has no density.

    Raises:
        TypeError, ValueError: shapes or dtypes that do not fit, weights that are not positive, covariances that are
            not symmetric and positive semi-definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor | float) -> None:
        self.means = check_floating("means", means)
        if means.ndim != 2 or 0 in means.shape:
            raise ValueError(f"means must have shape (k, d), both >= 1; got {tuple(means.shape)}")
        k, self.dim = means.shape
        if check_step("weights", weights).shape != (k,):
            raise ValueError(f"weights must have shape ({k},), one per mean; got {tuple(weights.shape)}")
        weights = weights.to(means)
        self.weights = weights / weights.sum()
        if not isinstance(covariances, Tensor):
            covariances = means.new_tensor([check_real("covariances", covariances, minimum=0.0)])
        self.covariances = check_floating("covariances", covariances).to(means)
        full = (k, self.dim, self.dim)
        allowed = [(lead, *full[1:axes]) for lead in (1, k) for axes in (1, 2, 3)]
        if self.covariances.shape not in allowed:
            raise ValueError(
                f"covariances must be a float or have one of the shapes {allowed}; got {tuple(covariances.shape)}"
            )
        # Eigenvalues, (1 or k, 1 or d), and eigenvectors as columns where the coordinate axes are none.
        self._eigenvectors: Tensor | None = None
        if self.covariances.ndim == 3:
            if not torch.allclose(self.covariances, self.covariances.mT):
                raise ValueError("covariances must be symmetric")
            variances, self._eigenvectors = torch.linalg.eigh(self.covariances)
            tolerance = 10 * self.dim * torch.finfo(means.dtype).eps * variances.abs().max()
            self._variances = torch.where(variances >= -tolerance, variances.clamp(min=0), variances)
        else:
            self._variances = self.covariances.reshape(len(self.covariances), -1)
        if not bool((self._variances >= 0).all()):
            raise ValueError(
                f"covariances must be positive semi-definite; smallest eigenvalue {self._variances.min().item()}"
            )

    @classmethod
    def circle(cls, radius: float, std: float, modes: int = 8, *, dtype: torch.dtype | None = None) -> Mixture:
        """`modes` equal components N(m_j, std^2 I) in the plane, m_j = radius (cos, sin)(2 pi j/modes), on the CPU."""
        radius, std = check_real("radius", radius, minimum=0.0), check_real("std", std, minimum=0.0)
        angles = torch.arange(check_integer("modes", modes, 1), dtype=torch.float64) * (2 * math.pi / modes)
        means = radius * torch.stack([angles.cos(), angles.sin()], -1)
        return cls(torch.ones(modes), means.to(check_dtype(dtype)), std**2)

    def embed(self, dim: int, generator: torch.Generator) -> Mixture:
        """The isotropic mixture in R^dim: means mapped by a uniformly random isometry, C_j = s_j^2 I in R^dim.

        Raises:
            ValueError: dim < d, or covariances that are not isotropic.
        """
        check_integer("dim", dim, self.dim)
        if self.covariances.ndim > 1:
            raise ValueError(f"covariances must be isotropic to embed; got shape {tuple(self.covariances.shape)}")
        device = check_generator(generator).device
        q, r = torch.linalg.qr(torch.randn(dim, self.dim, generator=generator, dtype=torch.float64, device=device))
        isometry = q * r.diagonal().sign()  # uniform: the factorization with positive diagonal is unique
        return Mixture(self.weights, self.means @ isometry.mT.to(self.means), self.covariances)

    def mean(self) -> Tensor:
        """Mean of the law, (d,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """Covariance of the law, (d, d)."""
        centred = self.means - self.mean()
        between = (self.weights[:, None] * centred).mT @ centred
        within = torch.tensordot(self.weights, self._per_component(self.covariances), 1)
        return between + (within if within.ndim == 2 else torch.diag(within.expand(self.dim)))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent draws, (n, d)."""
        check_integer("n", n, 1)
        component = torch.multinomial(self.weights, n, replacement=True, generator=check_generator(generator))
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device)
        noise = noise * self._per_component(self._variances.sqrt())[component]
        if self._eigenvectors is not None:
            for j, basis in enumerate(self._per_component(self._eigenvectors)):
                noise[component == j] = noise[component == j] @ basis.mT
        return self.means[component] + noise

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), shape (batch,), for x of shape (batch, d).

        Raises:
            ValueError: the law has no density, because some C_j is singular.
        """
        return self._log_joint(self._check_density(x), self.means, self._variances)[0].logsumexp(-1)

    def score(self, x: Tensor) -> Tensor:
        """grad log p(x) = -sum_j P(j | x) C_j^-1 (x - m_j), shape (batch, d). Raises as `log_density` does."""
        log_joint, residual = self._log_joint(self._check_density(x), self.means, self._variances)
        return -self._expectation(log_joint, residual / self._variances)

    def marginal(self, diffusion: Diffusion, t: Tensor | float) -> Mixture:
        """The law of x_t: sum_j w_j N(alpha m_j, alpha^2 C_j + sigma^2 I), for one time."""
        t = check_real("t", t)
        alpha, sigma = diffusion.alpha(t).to(self.means), diffusion.sigma(t).to(self.means)
        noise = sigma**2 * (torch.eye(self.dim).to(self.means) if self._eigenvectors is not None else 1.0)
        return Mixture(self.weights, alpha * self.means, alpha**2 * self.covariances + noise)

    def denoise_y(self, y: Tensor, snr: Tensor | float) -> Tensor:
        """E[x_0 | y], exact, for y = tau x_0 + N(0, tau I):

            sum_j P(j | y) [m_j + C_j (I + tau C_j)^-1 (y - tau m_j)],    y | j ~ N(tau m_j, tau^2 C_j + tau I),

        for y of shape (batch, d) and snr = tau of shape () or (batch,); the result has y's shape. It is a D(y, snr) in
        the canonical variables at eta = 1: `SNRDenoiser(mixture.denoise_y)`.
        """
        tau = like(per_sample(check_step("snr", snr), self._check_state("y", y)), y).reshape(-1, 1, 1)
        log_joint, residual = self._log_joint(y, tau * self.means, tau * (1 + tau * self._variances))
        shifts = self._expectation(log_joint, residual * self._variances / (1 + tau * self._variances))
        return log_joint.softmax(-1) @ self.means + shifts

    def denoiser(self, diffusion: Diffusion) -> Denoiser:
        """The exact denoiser D(x, t) of a diffusion of this law, for x of shape (batch, d)."""

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            t = diffusion.check_time(t)
            alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
            return self.denoise_y(per_sample(alpha / sigma / sigma, x) * x, check_step("snr(t)", diffusion.snr(t)))

        return denoise

    def _per_component(self, values: Tensor) -> Tensor:
        """`values` with a leading axis of k, also where the components share them."""
        return values.expand(len(self.weights), *values.shape[1:])

    def _check_state(self, name: str, x: Tensor) -> Tensor:
        if check_floating(name, x).ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"{name} must have shape (batch, {self.dim}); got {tuple(x.shape)}")
        return x

    def _check_density(self, x: Tensor) -> Tensor:
        if not bool((self._variances > 0).all()):
            raise ValueError("covariances must be positive definite for the law to have a density")
        return self._check_state("x", x)

    def _log_joint(self, x: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """log(w_j N(x; mean_j, variances_j)), (batch, k), and x - mean_j, (batch, k, d), both in C_j's eigenbasis.

        means: (1 or batch, k, d); variances along the eigenvectors: (1 or batch, 1 or k, 1 or d); a leading 1 may be
        missing.
        """
        residual = x[:, None] - means
        if self._eigenvectors is not None:
            residual = torch.einsum("bkd,kde->bke", residual, self._per_component(self._eigenvectors))
        log_det = (2 * math.pi * variances).log().sum(-1) * (self.dim // variances.shape[-1])
        return self.weights.log() - 0.5 * ((residual**2 / variances).sum(-1) + log_det), residual

    def _expectation(self, log_joint: Tensor, vectors: Tensor) -> Tensor:
        """sum_j P(j | x) vector_j, (batch, d), of vectors (batch, k, d) in the eigenbases."""
        if self._eigenvectors is not None:
            vectors = torch.einsum("bke,kde->bkd", vectors, self._per_component(self._eigenvectors))
        return torch.einsum("bk,bkd->bd", log_joint.softmax(-1), vectors)

    def __repr__(self) -> str:
        return f"Mixture({len(self.weights)} components, dim {self.dim})"
