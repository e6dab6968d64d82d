"""Denoisers D(x, t) = E[x_0 | x_t = x] from networks that predict eps, x_0, v, a velocity, the score, or EDM's F."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdesig._checks import check_denoiser, check_instance, check_real, per_sample
from sdesig._devices import per_row, plus
from sdesig.sde.diffusions import Diffusion

Network = Callable[..., Tensor]


class _NetworkDenoiser(nn.Module):
    """A denoiser made of a network and the diffusion that it was trained on.

    Args:
        network: called as network(x, t, *inputs) with x of shape (batch, *event) and t of shape (batch,), in x's
            dtype: the diffusion's own time unless said otherwise. Compose it with a function of t where the network
            was trained with another time, such as the index of a discrete step. `inputs` are what the denoiser is
            given beyond x and t: labels, or the extra inputs of a student.
        diffusion: the schedule.

    Raises:
        TypeError: a network that cannot be called, a diffusion that is none.
    """

    denoised: Callable[[Tensor, Tensor, Tensor | float, Tensor | float], Tensor]

    def __init__(self, network: Network, diffusion: Diffusion) -> None:
        super().__init__()
        self.network = check_denoiser("network", network)
        self.diffusion = check_instance("diffusion", diffusion, Diffusion)

    def forward(self, x: Tensor, t: Tensor, *inputs: object) -> Tensor:
        """D(x, t), shape (batch, *event)."""
        alpha, sigma = self._alpha_sigma(x, t)
        return self.denoised(x, self._predict(x, t, inputs), alpha, sigma)

    def _predict(self, x: Tensor, t: Tensor, inputs: tuple[object, ...]) -> Tensor:
        return self.network(x, per_row(t, x), *inputs)

    def _alpha_sigma(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return per_sample(self.diffusion.alpha(t), x), per_sample(self.diffusion.sigma(t), x)


class EpsilonDenoiser(_NetworkDenoiser):
    """From eps(x, t) = E[eps | x_t = x] (Ho et al. 2020): D = (x - sigma eps) / alpha."""

    @staticmethod
    def denoised(x: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """D of a sample and what was predicted at it, where alpha and sigma are known."""
        return plus(x, -sigma, eps) / alpha


class X0Denoiser(_NetworkDenoiser):
    """From a network that predicts x_0 itself: D = network."""

    @staticmethod
    def denoised(x: Tensor, x0: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """The prediction itself."""
        return x0


class VDenoiser(_NetworkDenoiser):
    """From v(x, t) = E[alpha eps - sigma x_0 | x_t = x] (Salimans and Ho 2022, arXiv 2202.00512).

    alpha x - sigma v = (alpha^2 + sigma^2) x_0 for every schedule, so D = (alpha x - sigma v) / (alpha^2 + sigma^2).
    """

    @staticmethod
    def denoised(x: Tensor, v: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """D of a sample and what was predicted at it, where alpha and sigma are known."""
        return (alpha * x - sigma * v) / (alpha**2 + sigma**2)


class FlowDenoiser(_NetworkDenoiser):
    """From a velocity, u(x, t) = E[eps - x_0 | x_t = x] (Esser et al. 2024, arXiv 2403.03206, section 2).

    With `Flow` it is dx/dt of the probability flow. x - sigma u = (alpha + sigma) x_0 for every schedule, so
    D = (x - sigma u) / (alpha + sigma).
    """

    @staticmethod
    def denoised(x: Tensor, velocity: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """D of a sample and what was predicted at it, where alpha and sigma are known."""
        return plus(x, -sigma, velocity) / (alpha + sigma)


class ScoreDenoiser(_NetworkDenoiser):
    """From the score, grad log p_t(x): D = (x + sigma^2 score) / alpha (Tweedie's formula, Efron 2011)."""

    @staticmethod
    def denoised(x: Tensor, score: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """D of a sample and what was predicted at it, where alpha and sigma are known."""
        return (x + sigma**2 * score) / alpha


class EDMDenoiser(_NetworkDenoiser):
    """From EDM's preconditioned network F (Karras et al. 2022, arXiv 2206.00364, eq. 7 and table 1).

    With z = x/alpha and s = sigma/alpha, which is EDM's own schedule,

        D = c_skip z + c_out F(c_in z, c_noise),    c_skip = sigma_data^2 / (s^2 + sigma_data^2),
        c_in = 1/sqrt(s^2 + sigma_data^2),  c_out = s sigma_data c_in,  c_noise = log(s)/4.

    Args:
        network: F, called as F(c_in z, c_noise) with c_noise of shape (batch,).
        diffusion: the schedule of x and t; any, since z and s do not depend on it.
        sigma_data: standard deviation of the data, > 0.
    """

    def __init__(self, network: Network, diffusion: Diffusion, *, sigma_data: float = 0.5) -> None:
        super().__init__(network, diffusion)
        self.sigma_data = check_real("sigma_data", sigma_data, minimum=0.0, strict=True)

    def forward(self, x: Tensor, t: Tensor, *inputs: object) -> Tensor:
        """D(x, t), shape (batch, *event)."""
        alpha, sigma = self._alpha_sigma(x, t)
        c_noise = -0.125 * self.diffusion.log_snr(t)
        return self.preconditioned(x / alpha, sigma / alpha, c_noise, *inputs)

    def preconditioned(self, z: Tensor, s: Tensor, c_noise: Tensor, *inputs: object) -> Tensor:
        """D from z = x/alpha, (batch, *event), s shaped to multiply it, and c_noise, () or (batch,)."""
        c_in = torch.rsqrt(s**2 + self.sigma_data**2)
        return (self.sigma_data * c_in) ** 2 * z + s * self.sigma_data * c_in * self._predict(c_in * z, c_noise, inputs)
