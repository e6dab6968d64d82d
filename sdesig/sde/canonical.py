"""The canonical reverse SDE, one for every schedule, and its Gaussian-reference variables.

With tau = alpha^2/sigma^2 (the SNR), lambda = log(tau)/2 and D = E[x_0 | x_t], the reverse SDE of stochasticity eta of
every linear-Gaussian diffusion becomes, in y = x exp(eta^2 lambda) / sigma,

    dy = D da + dM,    a = exp((1 + eta^2) lambda) = tau^((1 + eta^2)/2),    <M> = exp(2 eta^2 lambda) = tau^(eta^2),

a drift clock a and a noise clock <M>; given x_0, y ~ N(a x_0, <M> I). At eta = 1 both clocks are the SNR,
y = alpha x/sigma^2 and dy = D dtau + dB, which is stochastic localization (Montanari 2023, arXiv 2305.10690), and D is
a martingale: (d_tau + D . grad + Laplacian/2) D = 0.

A Gaussian reference N(mu, c) for the data turns this into the same equation with v = tau/(1 + c tau) for the SNR and
Q for D. With y and D centred by a mu and mu,

    u = y / (1 + c tau)^((1 + eta^2)/2),    Q = (1 + c tau) D - c tau^((1 - eta^2)/2) y,
    du = Q db + dM,    b = v^((1 + eta^2)/2),    <M> = v^(eta^2).

Q is the same function of (x, t) for every eta, vanishes when the data are N(mu, c), and is a martingale at eta = 1.

Range: the maps are products of powers, so their relative error is a few rounding units in any dtype while tau and y
stay representable (in float32, |log tau| < 80). Digits go in three differences only. v(tau_2) - v(tau_1) when
c tau >> 1: use `step_length`. 1 - c v there: use `advance`, not `snr`. Q: its rounding error is a few units times
c tau |D|, which step lengths of order 1/(c tau) make harmless in u.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sdesig._checks import check_floating, check_real, check_step
from sdesig.sde.diffusions import Denoiser, Diffusion, check_callable, per_sample


def _drift_power(eta: float) -> float:
    return 0.5 * (1 + check_real("eta", eta, minimum=0.0) ** 2)


def drift_clock(snr: Tensor | float, eta: float = 1.0) -> Tensor:
    """a = snr^((1 + eta^2)/2), or b from v in the place of the SNR; the shape of `snr`."""
    return check_step("snr", snr) ** _drift_power(eta)


def noise_clock(snr: Tensor | float, eta: float = 1.0) -> Tensor:
    """<M> = snr^(eta^2), with v in the place of the SNR for the reference variables; the shape of `snr`."""
    return check_step("snr", snr) ** (check_real("eta", eta, minimum=0.0) ** 2)


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


class CanonicalDenoiser(nn.Module):
    """A diffusion's denoiser as a function D(y, snr) of the canonical variables.

    Args:
        denoiser: D(x, t).
        diffusion: the schedule of x and t.
        eta: the stochasticity that y belongs to.

    Raises:
        TypeError, ValueError: a denoiser that cannot be called, a negative eta.
    """

    def __init__(self, denoiser: Denoiser, diffusion: Diffusion, eta: float = 1.0) -> None:
        super().__init__()
        self.denoiser = check_callable("denoiser", denoiser)
        self.diffusion = diffusion
        self.eta = check_real("eta", eta, minimum=0.0)

    def forward(self, y: Tensor, snr: Tensor | float) -> Tensor:
        """E[x_0 | y], shape (batch, *event), for y of that shape and snr of shape () or (batch,)."""
        return self.denoiser(*from_canonical(self.diffusion, y, snr, self.eta))


def _coordinates(name: str, value: float | Tensor, minimum: float) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(check_real(name, value, minimum=minimum), dtype=torch.float64)
    bad = ~(torch.isfinite(check_floating(name, value)) & (value >= minimum))
    if bool(bad.any()):
        raise ValueError(f"{name} must be finite and >= {minimum:g}; it contains {value[bad].flatten()[0].item()}")
    return value


class GaussianReference:
    """N(mean, variance): the Gaussian that the data are compared with. The module's docstring has the formulas.

    Coordinates are those of the state: to use a variance per principal component or per frequency, rotate the state
    into that orthonormal basis first. Tensors given here should have the states' dtype and device.

    Args:
        mean: mu, a float or a tensor that broadcasts against an event.
        variance: c >= 0, likewise. With c = 0, (u, v, Q) are the centred canonical variables (y, tau, D).

    Raises:
        TypeError, ValueError: unless both are finite and variance >= 0.
    """

    def __init__(self, mean: float | Tensor, variance: float | Tensor) -> None:
        self.mean = _coordinates("mean", mean, -math.inf)
        self.variance = _coordinates("variance", variance, 0.0)

    def clock(self, snr: Tensor | float) -> Tensor:
        """v = tau/(1 + c tau), shape snr.shape + variance.shape."""
        tau = self._outer("snr", snr)
        return tau / (1 + self.variance * tau)

    def step_length(self, start: Tensor | float, end: Tensor | float) -> Tensor:
        """v(end) - v(start) = (end - start)/((1 + c start)(1 + c end)) for two SNRs of one shape; shape of `clock`."""
        tau_1, tau_2 = self._outer("start", start), self._outer("end", end)
        return (tau_2 - tau_1) / (1 + self.variance * tau_1) / (1 + self.variance * tau_2)

    def snr(self, v: Tensor | float) -> Tensor:
        """tau = v/(1 - c v): inverse of `clock`, for v > 0 of a shape that broadcasts against variance's.

        Raises:
            ValueError: v at or beyond the clock's bound, 1/c.
        """
        return self._advance(torch.zeros((), dtype=torch.float64), check_step("v", v))

    def advance(self, snr: Tensor | float, step: Tensor | float) -> Tensor:
        """The SNR at which v exceeds v(snr) by step > 0, with G = 1 + c snr:

            (snr + G step) / (1 - c G step).

        `step` broadcasts against the shape of `clock`, which is that of the result.

        Raises:
            ValueError: if v would reach its bound, 1/c.
        """
        return self._advance(self._outer("snr", snr), check_step("step", step))

    def to_reference(self, y: Tensor, snr: Tensor | float, eta: float = 1.0) -> tuple[Tensor, Tensor]:
        """(u, v) from y, shape (batch, *event), and snr, () or (batch,): u is shaped as y, v as in `clock`."""
        centred, growth, _ = self._centred(y, snr, eta)
        return centred / growth ** _drift_power(eta), self.clock(snr)

    def from_reference(self, u: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """y from u and the SNR (v may differ between coordinates, so it is no argument): inverse of `to_reference`."""
        tau = per_sample(check_step("snr", snr), check_floating("u", u))
        return u * (1 + self.variance * tau) ** _drift_power(eta) + drift_clock(tau, eta) * self.mean

    def drift(self, denoised: Tensor, y: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """Q = (1 + c tau)(D - mu) - c tau^((1 - eta^2)/2) (y - a mu), shape (batch, *event), from D and y."""
        centred, growth, slope = self._centred(y, snr, eta)
        return growth * (denoised - self.mean) - slope * centred

    def denoised(self, drift: Tensor, y: Tensor, snr: Tensor | float, eta: float = 1.0) -> Tensor:
        """D from Q and y: inverse of `drift`."""
        centred, growth, slope = self._centred(y, snr, eta)
        return self.mean + (drift + slope * centred) / growth

    def _outer(self, name: str, snr: Tensor | float) -> Tensor:
        """The SNR with one trailing axis per axis of the variance."""
        tau = check_step(name, snr)
        return tau.reshape(tau.shape + (1,) * self.variance.ndim)

    def _centred(self, y: Tensor, snr: Tensor | float, eta: float) -> tuple[Tensor, Tensor, Tensor]:
        """y - a mu, 1 + c tau, and the slope c tau^((1 - eta^2)/2) = c tau/a of Q, shaped to multiply y."""
        tau = per_sample(check_step("snr", snr), check_floating("y", y))
        a = drift_clock(tau, eta)
        return y - a * self.mean, 1 + self.variance * tau, self.variance * tau / a

    def _advance(self, tau: Tensor, step: Tensor) -> Tensor:
        growth_step = (1 + self.variance * tau) * step
        remaining = 1 - self.variance * growth_step
        if not bool((remaining > 0).all()):
            raise ValueError(f"v must stay below 1/variance = {(1 / self.variance.max()).item():g}; a step goes beyond")
        return (tau + growth_step) / remaining
