"""Linear-Gaussian diffusions x_t = alpha(t) x_0 + sigma(t) eps: marginals, forward and reverse SDEs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdesig._checks import (
    check_denoised,
    check_denoiser,
    check_dtype,
    check_floating,
    check_generator,
    check_real,
    check_shape,
    per_sample,
    readable,
)
from sdesig._devices import like
from sdesig.sde.base import SDE, Denoiser


class Diffusion(ABC):
    """x_t = alpha(t) x_0 + sigma(t) eps, eps ~ N(0, I): the marginals of dx = f(t) x dt + g(t) dW.

    f = d log(alpha)/dt and g^2 = d(sigma^2)/dt - 2 f sigma^2. Times are floats or real floating-point tensors; every
    function of time returns a tensor of the time's shape and dtype (float64 for a float). Where a state x of shape
    (batch, *event) stands beside a time, the time has shape () or (batch,).

    Methods that take a time raise TypeError unless it is a real number or a floating-point tensor and ValueError
    outside the schedule's domain.
    """

    @property
    @abstractmethod
    def t_min(self) -> float:
        """Default end of a reverse simulation, where sigma is negligible but positive."""

    @property
    @abstractmethod
    def t_max(self) -> float:
        """End of the forward diffusion: the reverse one starts here."""

    @property
    @abstractmethod
    def _domain(self) -> tuple[float, float]:
        """Times [low, high) on which the formulas hold; wider than [0, t_max] where they extend."""

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """Signal scale, alpha(t)."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise standard deviation, sigma(t)."""

    @abstractmethod
    def time(self, snr: Tensor | float) -> Tensor:
        """Inverse of `snr`: the t at which alpha^2/sigma^2 = snr > 0. It may lie beyond t_max.

        Raises:
            TypeError, ValueError: unless snr is finite and positive.
        """

    @abstractmethod
    def drift_coefficient(self, t: Tensor | float) -> Tensor:
        """f(t) = d log(alpha)/dt."""

    @abstractmethod
    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g(t)^2 = d(sigma^2)/dt - 2 f sigma^2."""

    def check_time(self, t: Tensor | float) -> Tensor:
        """Return t as a tensor; raise unless it is real and inside the schedule's domain."""
        if not isinstance(t, Tensor):
            t = torch.tensor(check_real("t", t), dtype=torch.float64)
        low, high = self._domain
        outside = ~((check_floating("t", t) >= low) & (t < high))
        if readable(t) and bool(outside.any()):
            raise ValueError(f"t must be in [{low:g}, {high:g}) for {self!r}; got {t[outside].flatten()[0].item()}")
        return t

    def snr(self, t: Tensor | float) -> Tensor:
        """Signal-to-noise ratio alpha^2/sigma^2."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def log_snr(self, t: Tensor | float) -> Tensor:
        """log(alpha^2/sigma^2)."""
        return 2 * torch.log(self.alpha(t) / self.sigma(t))

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean alpha x0, (batch, *event), and standard deviation sigma, shaped to multiply it, of x_t given x0."""
        check_floating("x0", x0)
        return per_sample(self.alpha(t), x0) * x0, like(per_sample(self.sigma(t), x0), x0)

    def sample_marginal(self, x0: Tensor, t: Tensor | float, generator: torch.Generator) -> Tensor:
        """An exact draw of x_t given x0, shape (batch, *event)."""
        mean, std = self.marginal(x0, t)
        noise = torch.randn(x0.shape, generator=check_generator(generator), dtype=x0.dtype, device=x0.device)
        return mean + std * noise

    def sample_prior(
        self, shape: int | tuple[int, ...], generator: torch.Generator, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A start of the reverse diffusion, on the generator's device: entries N(0, sigma(t_max)^2).

        That is the law of x at t_max given x_0 = 0; it neglects alpha(t_max) x_0.
        """
        shape, dtype = check_shape("shape", shape), check_dtype(dtype)
        noise = torch.randn(shape, generator=check_generator(generator), dtype=dtype, device=generator.device)
        return self.sigma(self.t_max).item() * noise

    def reverse(
        self, denoiser: Denoiser, eta: float = 1.0, *, shape: int | tuple[int, ...] | None = None
    ) -> ReverseDiffusion:
        """The reverse-time SDE with stochasticity eta >= 0 (0: the probability flow); see `ReverseDiffusion`."""
        return ReverseDiffusion(self, denoiser, eta, shape=shape)


class ForwardDiffusion(SDE):
    """dx = f(t) x dt + g(t) dW on [0, t_max], x of shape (batch, any dim): diagonal, additive noise."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__("diagonal", "ito", dim=None, noise_structure="additive")
        self.diffusion = diffusion

    def __repr__(self) -> str:
        return f"ForwardDiffusion({self.diffusion!r})"

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """f(t) y."""
        return per_sample(self.diffusion.drift_coefficient(t), y) * y

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """g(t) in every coordinate."""
        return like(per_sample(self.diffusion.squared_diffusion(t).sqrt(), y), y).expand_as(y)


class ReverseDiffusion(SDE):
    """The reverse-time SDE in the forward-running time s = t_max - t, from s = 0 to s = t_max - t_min:

        dx = [-f x + (1 + eta^2)/2 g^2 score] ds + eta g dW,    score = (alpha D(x, t) - x) / sigma^2,

    with f, g, alpha, sigma at t = t_max - s. It has the diffusion's marginals for every eta >= 0: eta = 1
    is the time reversal (Anderson 1982; Song et al. 2021, eq. 6), eta = 0 the probability flow (their eq. 13); the
    family is in Zhang, Tao and Chen 2022 (arXiv 2206.05564).

    The state y is flat, (batch, dim), as torchsde wants it; the denoiser sees (batch, *shape), or the flat state where
    no shape is given, and the time t, a zero-dimensional tensor. Solvers should get their times s in float64, whatever
    the state's dtype: in float32, t = t_max - s keeps few digits as t approaches t_min.

    Args:
        diffusion: the schedule.
        denoiser: D(x, t) = E[x_0 | x_t = x].
        eta: stochasticity, >= 0.
        shape: event shape, whose product is dim; None for a denoiser of flat states.

    Raises:
        TypeError, ValueError: a denoiser that cannot be called or is a D(y, snr), an empty shape, a negative eta.
    """

    checked = True

    def __init__(
        self,
        diffusion: Diffusion,
        denoiser: Denoiser,
        eta: float = 1.0,
        *,
        shape: int | tuple[int, ...] | None = None,
    ) -> None:
        event = None if shape is None else check_shape("shape", shape)
        dim = None if event is None else math.prod(event)
        super().__init__("diagonal", "ito", dim=dim, noise_structure="additive")
        self.diffusion = diffusion
        self.denoiser = check_denoiser("denoiser", denoiser)
        self.shape = event
        self.eta = check_real("eta", eta, minimum=0.0)

    def __repr__(self) -> str:
        return f"ReverseDiffusion({self.diffusion!r}, eta={self.eta:g})"

    def diffusion_time(self, s: Tensor | float) -> Tensor:
        """t = t_max - s, in float64."""
        return self.diffusion.t_max - torch.as_tensor(s, dtype=torch.float64)

    def solver_time(self, t: Tensor | float) -> Tensor:
        """s = t_max - t, in float64."""
        return self.diffusion.t_max - torch.as_tensor(t, dtype=torch.float64)

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """Drift at solver time s = `t`, (batch, dim)."""
        diffusion, time = self.diffusion, self.diffusion_time(t)
        x = y if self.shape is None else y.reshape(-1, *self.shape)
        denoised = check_denoised(self.denoiser(x, time), x).reshape(y.shape).to(y)
        half_g2 = 0.5 * (1 + self.eta**2) * diffusion.squared_diffusion(time)
        score = (per_sample(diffusion.alpha(time), y) * denoised - y) / per_sample(diffusion.sigma(time), y) ** 2
        return per_sample(half_g2, y) * score - per_sample(diffusion.drift_coefficient(time), y) * y

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """eta g in every coordinate, at solver time s = `t`, (batch, dim)."""
        g = self.diffusion.squared_diffusion(self.diffusion_time(t)).sqrt()
        return like(per_sample(self.eta * g, y), y).expand_as(y)
