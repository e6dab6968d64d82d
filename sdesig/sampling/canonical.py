"""The canonical variables of the reverse SDE, one equation for every schedule.

With tau = alpha^2/sigma^2 (the SNR), lambda = log(tau)/2 and D = E[x_0 | x_t], the reverse SDE of stochasticity eta of
every linear-Gaussian diffusion becomes, in y = x exp(eta^2 lambda) / sigma,

    dy = D da + dM,    a = exp((1 + eta^2) lambda) = tau^((1 + eta^2)/2),    <M> = exp(2 eta^2 lambda) = tau^(eta^2),

a drift clock a and a noise clock <M>; given x_0, y ~ N(a x_0, <M> I). At eta = 1 both clocks are the SNR,
y = alpha x/sigma^2 and dy = D dtau + dB, which is stochastic localization (Montanari 2023, arXiv 2305.10690), and D is
a martingale: (d_tau + D . grad + Laplacian/2) D = 0.
"""

from __future__ import annotations

from torch import Tensor

from sdesig._checks import check_floating, check_instance, check_real, check_step, per_sample
from sdesig.sampling.snr_denoiser import SNRDenoiser
from sdesig.sde.base import Denoiser
from sdesig.sde.diffusions import Diffusion


def _scale(diffusion: Diffusion, t: Tensor, eta: float, x: Tensor) -> Tensor:
    """y/x = exp(eta^2 lambda)/sigma, shaped to multiply x."""
    alpha, sigma = diffusion.alpha(t), diffusion.sigma(t)
    return per_sample((alpha / sigma) ** (check_real("eta", eta, minimum=0.0) ** 2) / sigma, x)


def to_canonical(diffusion: Diffusion, x: Tensor, t: Tensor | float, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(y, tau) from a state x, (batch, *event), at time t, () or (batch,).

    Raises:
        TypeError, ValueError: a time outside the schedule or without noise (sigma = 0), a negative eta.
    """
    check_floating("x", x)
    t = diffusion.check_time(t)
    snr = check_step("snr(t)", diffusion.snr(t))
    return _scale(diffusion, t, eta, x) * x, snr


def from_canonical(diffusion: Diffusion, y: Tensor, snr: Tensor | float, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(x, t) from (y, tau): the inverse of `to_canonical`."""
    check_floating("y", y)
    t = diffusion.time(snr)
    return y / _scale(diffusion, t, eta, y), t


class CanonicalDenoiser(SNRDenoiser):
    """D(y, snr) of a diffusion's denoiser D(x, t).

    Args:
        denoiser: D(x, t).
        diffusion: the schedule of x and t.
        eta: the stochasticity that y belongs to.

    Raises:
        TypeError, ValueError: a denoiser that cannot be called or is a D(y, snr) already, a diffusion of another type,
            a negative eta.
    """

    def __init__(self, denoiser: Denoiser, diffusion: Diffusion, eta: float = 1.0) -> None:
        super().__init__(denoiser, eta)
        self.diffusion = check_instance("diffusion", diffusion, Diffusion)

    def _denoise(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        return self.denoiser(*from_canonical(self.diffusion, y, snr, self.eta), *inputs)
