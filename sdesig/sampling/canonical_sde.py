"""The canonical reverse SDE as an SDE whose time is the SNR, for one denoiser and one Gaussian reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sdesig._checks import check_real
from sdesig.sampling.gaussian_reference import GaussianReference
from sdesig.sampling.snr_clock import SNRClock, drift_clock, drift_power
from sdesig.sampling.snr_denoiser import SNRDenoiser, check_snr_denoiser
from sdesig.sde.base import SDE


class CanonicalSDE(SDE):
    """du = Q db + dM in the time tau, the SNR: the reverse diffusion of a denoiser, which samples its data.

    b = v^((1 + eta^2)/2) is the drift clock and <M> = v^(eta^2) the noise clock, v = tau/(1 + c tau), and Q comes from
    the denoiser; see `sdesig.sampling.canonical` and `sdesig.sampling.gaussian_reference`. The states are u,
    (batch, *event), in the coordinates of the reference's basis. Without a reference u is y itself, and at eta = 1 then
    dy = D dtau + dB.

    The schemes for reverse diffusions (`sdesig.sampling.reverse`) run on a path of M, which has this SDE's `clock`. All
    others see an SDE like any other, f = Q db/dtau and g = sqrt(d<M>/dtau), driven by an ordinary Brownian motion in
    tau; for eta = 1 and c = 0 both are the same.

    Args:
        denoiser: D(y, tau) = E[x_0 | y]: `CanonicalDenoiser(D, diffusion, eta)` for a D(x, t), `SNRDenoiser(f, eta)`
            for a function f(y, tau), or for eta = 1 `SNRDenoiser(mixture.denoise_y)`.
        reference: the Gaussian reference N(mu, c); default N(0, 0), which leaves the variables y and D.
        eta: stochasticity >= 0 of the y that the denoiser takes; 0 is the probability flow.

    Raises:
        TypeError, ValueError: a denoiser that is not one of these or is for another eta, a reference of another type,
            a negative eta.
    """

    reference: GaussianReference
    drift_clock: SNRClock
    """The drift clock: `drift_clock.length(start, end)` is b(end) - b(start), of the shape of the variance."""
    checked = True

    def __init__(self, denoiser: SNRDenoiser, *, reference: GaussianReference | None = None, eta: float = 1.0) -> None:
        super().__init__("diagonal", "ito", dim=None, noise_structure="additive")
        if reference is not None and not isinstance(reference, GaussianReference):
            raise TypeError(f"reference must be a GaussianReference or None; got {reference!r}")
        self.eta = check_real("eta", eta, minimum=0.0)
        self.denoiser = check_snr_denoiser("denoiser", denoiser, self.eta)
        self.reference = GaussianReference(0.0, 0.0) if reference is None else reference
        self.drift_power = drift_power(eta)
        self.drift_clock = replace(self.reference.noise_clock(), power=self.drift_power)

    @property
    def clock(self) -> SNRClock:
        """The clock of a path of M.

        Raises:
            ValueError: eta = 0, where there is no M; any path will do for the probability flow.
        """
        if self.eta == 0:
            raise ValueError("eta must be > 0 for a noise clock; any path will do for the probability flow, eta = 0")
        return self.reference.noise_clock(self.eta)

    def drift(self, u: Tensor, snr: Tensor) -> Tensor:
        """Q at (u, tau), one evaluation of the denoiser: (batch, *event)."""
        return self.reference.drift_at(self.denoiser, u, snr, self.eta)

    def moved(self, start: Tensor, end: Tensor, u: Tensor, drift: Tensor, increment: Tensor) -> Tensor:
        """u + Q db + dM, the state at the SNR `end`, from a value of Q; at eta = 0 there is no dM."""
        moved = u + self.drift_clock.length(start, end).to(u) * drift
        return moved + increment if self.eta > 0 else moved

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """The drift Q db/dtau, with t = tau and y = u."""
        snr = torch.as_tensor(t)
        return self.drift(y, snr) * self._rate(snr, self.drift_power).to(y)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """The diffusion coefficient sqrt(d<M>/dtau) of every coordinate."""
        if self.eta == 0:
            return torch.zeros_like(y)
        return self._rate(torch.as_tensor(t), self.eta**2).sqrt().to(y).expand_as(y)

    def start(self, noise: Tensor, snr: Tensor | float) -> Tensor:
        """u at the first SNR, N(0, <M>), from N(0, I): its law if the data are the reference, else up to O(tau)."""
        return self.reference.start(noise, snr, self.eta)

    def noisy_data(self, u: Tensor, snr: Tensor | float) -> Tensor:
        """y/a = x/alpha, in law x_0 + N(0, I/tau): data with the noise that is left at this SNR."""
        return self.reference.from_reference(u, snr, self.eta) / drift_clock(snr, self.eta).to(u)

    def denoised(self, u: Tensor, snr: Tensor | float) -> Tensor:
        """D = E[x_0 | u] at an SNR: one evaluation of the denoiser."""
        tau = torch.as_tensor(snr, dtype=torch.float64)
        return self.denoiser(self.reference.from_reference(u, tau, self.eta), tau)

    def _rate(self, snr: Tensor, power: float) -> Tensor:
        """The derivative d(v^power)/dtau."""
        v = self.reference.clock(snr)
        return power * v ** (power - 1) * (v / snr) ** 2
