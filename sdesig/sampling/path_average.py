"""The path-average scheme for reverse diffusions: one evaluation of the denoiser a step, strong order 1.5."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesig._checks import check_real
from sdesig._devices import beside, plus
from sdesig.brownian import BrownianPath
from sdesig.sampling.canonical import CanonicalSDE, ReverseScheme
from sdesig.sampling.gaussian_reference import clock_length, drift_clock
from sdesig.sde.base import SDELike
from sdesig.signature.legendre import gauss_legendre, orthonormal_legendre
from sdesig.signature.partial_signature import PartialSignature
from sdesig.solvers.base import strong_orders

CORRECTION = 0.2
"""Default of kappa: see experiments/few_steps."""
_NODES = 64


class PathAverage(ReverseScheme):
    """The denoiser is asked once a step, at the average of the driving path over it. At eta = 1:

        u* = u_n + [v(tau*) - v_n] Q_{n-1} + (1/h) int (M - M_n) dv,    v(tau*) = v_n + h/3,
        u_{n+1} = u_n + h Q(u*, tau*) + dM,    h = dv,    Q_{-1} = 0: D = the reference's mean.

    Why h/3: along the true path Q is a martingale, so Q(u*, tau*) has the mean of Q up to O(h^2) if time, mean
    displacement and variance of the displacement have advanced by as much, and the average's variance is h/3. The mean
    local error is O(h^3), its mean square O(h^4): strong order 1.5 and weak order 2. With Gaussian data of the
    reference's law Q = 0, and the scheme is exact at any number of steps.

    Where coordinates have different clocks, each moves by its own clock and averages its own noise; tau* comes from the
    clock of the mean variance, which changes the mean local error in O(h^3) only.

    For eta != 1 Q is no martingale. In the drift clock b, with p = 1/2 - eta^2/6 for 1/3,

        u* = u_n + [b(tau*) - b_n] Q_{n-1} + eta^2 (eta^2 - 1)/(6 (1 + eta^2)) db (Q_{n-1} - u_n/b(tau*))
           + (1/db) int (M - M_n) db,    b(tau*) = b_n + p db,    u_{n+1} = u_n + db Q(u*, tau*) + dM

    has the same orders; eta = 0 is the midpoint rule. (u_n/b_n would do for u_n/b(tau*), but grows without bound with
    the step.) The average over the drift clock is not a combination of finitely many Legendre coefficients of M; its
    conditional mean given those of the path stands for it, which neglects a variance of relative order h^2 at depth 2.

    With a correction kappa the state goes on along the change of Q before the next step begins,

        u_{n+1} <- u_{n+1} + kappa (1 - tau_n/tau_{n+1})^2 db (Q_n - Q_{n-1}).

    At eta = 1 Q is a martingale, so the mean stays, and some of the variance comes back that is lost as Q_{n-1} in u*
    lags behind. The gate vanishes with the step: orders stay, without it the strong order is 1. The last state is not
    moved, as no step follows: beyond the last evaluation there is no more to see than grain.

    Args:
        correction: kappa >= 0.

    Raises:
        TypeError, ValueError: not a number, or below 0.
    """

    strong_order = strong_orders(1.5, ("additive",))
    weak_order = 2.0
    word_order = 1.5

    def __init__(self, correction: float = CORRECTION) -> None:
        self.correction = check_real("correction", correction, minimum=0.0)

    def __repr__(self) -> str:
        return f"PathAverage(correction={self.correction:g})"

    def check(self, sde: SDELike, y0: Tensor, path: BrownianPath) -> str:
        """The noise structure, checked as for every reverse scheme; raise ValueError also where p is not positive."""
        structure = super().check(sde, y0, path)
        if isinstance(sde, CanonicalSDE):
            check_eta(sde.eta)
        return structure

    def noise(self, structure: str, signatures: PartialSignature) -> tuple[Tensor, ...]:
        """sqrt(h) xi_0, sqrt(h) xi_1, ...: (n, depth, *shape), the first of them the increment."""
        return ((signatures.h.sqrt() * signatures.coefficients).movedim(0, 1),)

    def start(self, sde: SDELike, t: Tensor, y: Tensor) -> tuple[Tensor, None]:
        """Q_{-1} = 0, and no correction."""
        return torch.zeros_like(y), None

    def advance(
        self,
        sde: CanonicalSDE,
        start: Tensor,
        end: Tensor,
        u: Tensor,
        memory: tuple[Tensor, Tensor | None],
        noise: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """u + Q db + dM, with Q at the evaluation point; the memory is Q, and the correction for the next step."""
        last, correction = memory
        if correction is not None:
            u = u + correction
        time = evaluation_snr(sde, start, end, evaluation_fraction(sde.eta))
        point = self.evaluation_point(sde, start, time, end, u, last, noise)
        drift = sde.drift(point, time)
        if self.correction:
            gated = self.correction * (1 - start / end) ** 2 * (drift - last)
            correction = beside(sde.drift_clock.length(start, end), u) * gated
        return sde.moved(start, end, u, drift, noise[0][0]), (drift, correction)

    def evaluation_point(
        self,
        sde: CanonicalSDE,
        start: Tensor | float,
        time: Tensor | float,
        end: Tensor | float,
        u: Tensor,
        memory: Tensor,
        noise: tuple[Tensor, ...],
    ) -> Tensor:
        """u* at tau* = `time`, the point at which the step from u evaluates the denoiser; `memory` is Q_{n-1}."""
        (scaled,) = noise
        eta = sde.eta
        point = plus(u, beside(sde.drift_clock.length(start, time), u), memory)
        if eta == 1.0:
            point = point + 1 / 2 * scaled[0]
            return point - math.sqrt(1 / 12) * scaled[1]
        if eta > 0.0:
            slope = u / beside(drift_clock(sde.reference.clock(time), eta), u)
            factor = eta**2 * (eta**2 - 1) / (6 * (1 + eta**2)) * beside(sde.drift_clock.length(start, end), u)
            point = point + factor * (memory - slope)
            weights = average_weights(sde, start, end, len(scaled)).to(u.dtype)  # numbers where the variance is one
            for weight, coefficient in zip(weights, scaled, strict=True):
                point = point + weight * coefficient
        return point


def check_eta(eta: float) -> None:
    """Raise ValueError where p = 1/2 - eta^2/6 would not be positive."""
    if eta >= math.sqrt(3):
        raise ValueError(f"PathAverage needs eta < sqrt(3); the SDE's is {eta}")


def evaluation_fraction(eta: float) -> float:
    """p = 1/2 - eta^2/6, the part of a step's drift clock that has passed at tau*."""
    return 1 / 2 - eta**2 / 6


def evaluation_snr(sde: CanonicalSDE, start: Tensor, end: Tensor, fraction: float | Tensor) -> Tensor:
    """The SNR at which the drift clock of the reference's mean variance has passed a fraction of the step, float64."""
    c, power = sde.reference.mean_variance, sde.drift_power
    growth = 1 + c * start
    v, step = start / growth, clock_length(start, end, c)
    # b = v^power: the fraction of the step in b as a step in v, without cancellation
    grown = torch.expm1(power * torch.log1p(step / v))
    step = growth * (v * torch.expm1(torch.log1p(fraction * grown) / power))
    return (start + step) / (1 - c * step)


def average_weights(sde: CanonicalSDE, start: Tensor | float, end: Tensor | float, depth: int) -> Tensor:
    """w_k with E[(1/db) int (M - M_n) db | xi_0, ..., xi_{depth-1}] = sqrt(h) sum_k w_k xi_k, for eta > 0.

    w_k is the integral over the step of phi_k [b(end) - b]/db, phi_k orthonormal in the noise clock: 1/2, -1/sqrt(12)
    and zeros at eta = 1, where the average is W/2 + H.

    Returns:
        (depth, *shape), float64; shape broadcasts to that of the reference's variance.
    """
    c = sde.reference.variance
    if sde.eta == 1:
        weights = torch.zeros(depth, *[1] * c.ndim, dtype=torch.float64, device=c.device)
        weights[0], weights[1] = 1 / 2, -math.sqrt(1 / 12)
        return weights
    x, quadrature = (values.reshape(_NODES, *[1] * c.ndim) for values in gauss_legendre(_NODES, c.device))
    growth = torch.log1p(sde.reference.step_length(start, end).double() / sde.reference.clock(start).double())
    power, noise_power = sde.drift_power, sde.eta**2
    passed = power / noise_power * torch.log1p(x * torch.expm1(noise_power * growth))  # log b - log b(start)
    remaining = torch.expm1(passed - power * growth) / torch.expm1(-power * growth)
    return (orthonormal_legendre(x, depth) * quadrature * remaining).sum(1)
