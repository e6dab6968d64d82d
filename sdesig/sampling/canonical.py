"""The canonical form of the reverse SDE: one equation for every schedule, its denoisers D(y, snr), the SDE, and
the base class of schemes for it.

With tau = alpha^2/sigma^2 (the SNR), lambda = log(tau)/2 and D = E[x_0 | x_t], the reverse SDE of stochasticity eta of
every linear-Gaussian diffusion becomes, in y = x exp(eta^2 lambda) / sigma,

    dy = D da + dM,    a = exp((1 + eta^2) lambda) = tau^((1 + eta^2)/2),    <M> = exp(2 eta^2 lambda) = tau^(eta^2),

a drift clock a and a noise clock <M>; given x_0, y ~ N(a x_0, <M> I). At eta = 1 both clocks are the SNR,
y = alpha x/sigma^2 and dy = D dtau + dB, which is stochastic localization (Montanari 2023, arXiv 2305.10690), and D is
a martingale: (d_tau + D . grad + Laplacian/2) D = 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdesig._checks import (
    check_denoised,
    check_denoiser,
    check_floating,
    check_instance,
    check_real,
    check_step,
    per_sample,
)
from sdesig._devices import beside, like, plus
from sdesig.brownian import BrownianPath
from sdesig.sampling.gaussian_reference import GaussianReference, SNRClock, drift_clock, drift_power
from sdesig.sde.base import SDE, Denoiser, SDELike
from sdesig.sde.diffusions import Diffusion
from sdesig.solvers.base import Scheme, strong_orders


class SNRDenoiser(nn.Module):
    """A denoiser D(y, snr) = E[x_0 | y] in the canonical variables.

    The type tells it from a D(x, t), which has the same signature: `SNRDenoiser(f)` for a function f(y, snr),
    `CanonicalDenoiser(D, diffusion)` for a D(x, t).

    Args:
        denoiser: f(y, snr), for y of shape (batch, *event) and snr () or (batch,); returns (batch, *event). A module is
            a part of this one: its parameters are this one's.
        eta: the stochasticity that y belongs to.

    Raises:
        TypeError, ValueError: an object that cannot be called or is a D(y, snr) already, a negative eta.
    """

    variables = "y, snr"

    def __init__(self, denoiser: Callable[..., Tensor], eta: float = 1.0) -> None:
        super().__init__()
        self.denoiser = check_denoiser("denoiser", denoiser, "y, snr")
        self.eta = check_real("eta", eta, minimum=0.0)

    def __repr__(self) -> str:
        name = getattr(self.denoiser, "__qualname__", type(self.denoiser).__name__)
        numbers = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}({name}, eta={self.eta:g}, {numbers} parameters)"

    def forward(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        """E[x_0 | y], shape (batch, *event), for y of that shape and snr () or (batch,); `inputs` are handed on.

        Raises:
            TypeError, ValueError: what is wrapped returns no tensor, or another shape.
        """
        return check_denoised(self._denoise(y, snr, *inputs), y)

    def _denoise(self, y: Tensor, snr: Tensor | float, *inputs: object) -> Tensor:
        return self.denoiser(y, snr, *inputs)


def check_snr_denoiser(name: str, value: object, eta: float = 1.0) -> SNRDenoiser:
    """Return `value`; raise TypeError unless it is a D(y, snr), marked as such, ValueError if it is for another eta."""
    if not isinstance(value, SNRDenoiser):
        raise TypeError(
            f"{name} must be a D(y, snr): SNRDenoiser(f) for a function f(y, snr) of the canonical variables, "
            f"CanonicalDenoiser(D, diffusion) for a D(x, t); got {type(value).__name__}"
        )
    if value.eta != eta:
        raise ValueError(f"eta must be the {name}'s, {value.eta:g}; got {eta:g}")
    return value


def at_eta(denoiser: SNRDenoiser, eta: float) -> SNRDenoiser:
    """The D(y, snr) of eta = 1 for the y of an eta, which is tau^((eta^2 - 1)/2) times that of eta = 1."""
    if eta == 1.0:
        return denoiser
    return SNRDenoiser(lambda y, snr: denoiser(y * snr.item() ** ((1 - eta**2) / 2), snr), eta)


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


class CanonicalSDE(SDE):
    """du = Q db + dM in the time tau, the SNR: the reverse diffusion of a denoiser, which samples its data.

    b = v^((1 + eta^2)/2) is the drift clock and <M> = v^(eta^2) the noise clock, v = tau/(1 + c tau), and Q comes from
    the denoiser, as `sdesig.sampling.gaussian_reference` says. The states are u, (batch, *event), in the
    coordinates of the reference's basis. Without a reference u is y itself, and at eta = 1 then dy = D dtau + dB.

    Schemes for reverse diffusions (`ReverseScheme`) run on a path of M, which has this SDE's `clock`. All
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
        self.drift_clock = self.reference.snr_clock(self.drift_power)

    def __repr__(self) -> str:
        return f"CanonicalSDE({self.denoiser!r}, reference={self.reference!r}, eta={self.eta:g})"

    @property
    def clock(self) -> SNRClock:
        """The clock of a path of M.

        Raises:
            ValueError: eta = 0, where there is no M; any path will do for the probability flow.
        """
        if self.eta == 0:
            raise ValueError("eta must be > 0 for a noise clock; any path will do for the probability flow, eta = 0")
        return self.reference.snr_clock(self.eta**2)

    def drift(self, u: Tensor, snr: Tensor) -> Tensor:
        """Q at (u, tau), one evaluation of the denoiser: (batch, *event)."""
        y = self.reference.from_reference(u, snr, self.eta)
        return self.reference.drift(self.denoiser(y, snr).to(y), y, snr, self.eta)

    def moved(self, start: Tensor | float, end: Tensor | float, u: Tensor, drift: Tensor, increment: Tensor) -> Tensor:
        """u + Q db + dM, the state at the SNR `end`, from a value of Q; at eta = 0 there is no dM."""
        moved = plus(u, beside(self.drift_clock.length(start, end), u), drift)
        return moved + increment if self.eta > 0 else moved

    def f(self, t: Tensor | float, y: Tensor) -> Tensor:
        """The drift Q db/dtau, with t = tau and y = u."""
        snr = torch.as_tensor(t)
        return self.drift(y, snr) * beside(self._rate(snr, self.drift_power), y)

    def g(self, t: Tensor | float, y: Tensor) -> Tensor:
        """The diffusion coefficient sqrt(d<M>/dtau) of every coordinate."""
        if self.eta == 0:
            return torch.zeros_like(y)
        return like(self._rate(torch.as_tensor(t), self.eta**2).sqrt(), y).expand_as(y)

    def start(self, noise: Tensor, snr: Tensor | float) -> Tensor:
        """u at the first SNR, N(0, <M>), from N(0, I): its law if the data are the reference, else up to O(tau)."""
        return self.reference.start(noise, snr, self.eta)

    def noisy_data(self, u: Tensor, snr: Tensor | float) -> Tensor:
        """y/a = x/alpha, in law x_0 + N(0, I/tau): data with the noise that is left at this SNR."""
        return self.reference.from_reference(u, snr, self.eta) / beside(drift_clock(snr, self.eta), u)

    def denoised(self, u: Tensor, snr: Tensor | float) -> Tensor:
        """D = E[x_0 | u] at an SNR: one evaluation of the denoiser."""
        tau = torch.as_tensor(snr, dtype=torch.float64)
        return self.denoiser(self.reference.from_reference(u, tau, self.eta), tau)

    def _rate(self, snr: Tensor, power: float) -> Tensor:
        """The derivative d(v^power)/dtau."""
        v = self.reference.clock(snr)
        return power * v ** (power - 1) * (v / snr) ** 2


class ReverseScheme(Scheme):
    """A scheme for du = Q db + dM with one evaluation of the denoiser a step, which it keeps in its memory.

    Its path has the SDE's own clock; at eta = 0, where there is no M, any path does, and its values do not matter.
    Unless it says otherwise it has strong order 1 and weak order 1.

    Attributes:
        own_noise: whether its limit for many steps is another process of the same marginals, not the SDE's solution.
    """

    own_noise: ClassVar[bool] = False
    sde_type = "ito"
    strong_order = strong_orders(1.0, ("additive",))
    weak_order = 1.0

    @abstractmethod
    def advance(
        self, sde: CanonicalSDE, start: Tensor, end: Tensor, u: Tensor, memory: Any, noise: tuple[Tensor, ...]
    ) -> tuple[Tensor, Any]:
        """The state u at the SNR `end` from that at `start`, and the new memory."""

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """The noise structure, checked as for every scheme; raise ValueError also unless the SDE is a `CanonicalSDE`
        whose reference fits the states and whose clock the path has."""
        if not isinstance(sde, CanonicalSDE):
            raise ValueError(f"{type(self).__name__} needs a CanonicalSDE, a reverse diffusion; got {sde!r}")
        structure = super().check(sde, y0, path)
        sde.reference.check_event(y0)
        if sde.eta > 0 and path.clock.identity() != sde.clock.identity():
            raise ValueError(
                f"path must run in the SDE's `clock`, {sde.clock}, for {type(self).__name__}; this one runs in "
                f"{path.clock}"
            )
        return structure

    def check_clock(self, path: BrownianPath) -> None:
        """Accept any clock here: the path runs in the clock of M, which `check` compares with the SDE's."""
