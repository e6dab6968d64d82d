"""The families of diffusions: variance preserving, sub-variance preserving, variance exploding, EDM's, that of flow
matching, and that of a discrete table, such as a DDPM's, on a continuous index.

The first two have a rate beta(t), with its integral B(t) = int_0^t beta and the inverse of that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from sdesig._checks import check_real, check_step, readable
from sdesig._devices import to_device
from sdesig.sde.diffusions import Diffusion

_SLACK = 1e-6
"""Times and SNRs beyond an end of a table by this share, or less, are taken for the end: float32 rounding of values in
between."""

BetaDiffusionT = TypeVar("BetaDiffusionT", bound="_BetaDiffusion")


class BetaSchedule(ABC):
    """A rate beta(t), its integral B(t) = int_0^t beta, and the inverse of B.

    t_max is the end of the published schedule; the formulas hold on [0, t_bound).
    """

    t_max: ClassVar[float]
    t_bound: ClassVar[float]

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """beta(t)."""

    @abstractmethod
    def integral(self, t: Tensor) -> Tensor:
        """B(t)."""

    @abstractmethod
    def time(self, integral: Tensor) -> Tensor:
        """The t at which B(t) = integral."""


@dataclass(frozen=True)
class LinearBeta(BetaSchedule):
    """beta(t) = beta_min + (beta_max - beta_min) t on [0, 1] (Song et al. 2021, arXiv 2011.13456, eq. 32).

    Raises:
        ValueError: unless 0 < beta_min < beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_max = 1.0
    t_bound = math.inf

    def __post_init__(self) -> None:
        check_real("beta_min", self.beta_min, minimum=0.0, strict=True)
        check_real("beta_max", self.beta_max, minimum=self.beta_min, strict=True)

    def rate(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        """B(t) = beta_min t + (beta_max - beta_min) t^2 / 2."""
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def time(self, integral: Tensor) -> Tensor:
        """The t at which B(t) = integral: the positive root, written without cancellation."""
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)


@dataclass(frozen=True)
class CosineBeta(BetaSchedule):
    """exp(-B(t)) = cos^2(theta) / cos^2(theta_0), theta = (pi/2)(t + offset)/(1 + offset), theta_0 = theta(0).

    Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17. beta(t) = pi/(1 + offset) tan(theta) diverges at t = 1,
    so their discrete schedule clips 1 - exp(-int beta) at .999 on each step. With their 1000 steps the clip acts on
    the last step only. Nothing is clipped here: the schedule ends at t_max = .999, one of those steps earlier.

    Raises:
        ValueError: unless offset > 0.
    """

    offset: float = 0.008
    t_max = 0.999
    t_bound = 1.0

    def __post_init__(self) -> None:
        check_real("offset", self.offset, minimum=0.0, strict=True)

    @property
    def _frequency(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    def _cosine(self, t: Tensor) -> Tensor:
        """cos(theta), accurate in relative terms as t -> 1."""
        return torch.sin(self._frequency * (1 - t))

    def rate(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return 2 * self._frequency * torch.sin(self._frequency * (t + self.offset)) / self._cosine(t)

    def integral(self, t: Tensor) -> Tensor:
        """B(t) = log(1 + sin(theta - theta_0) sin(theta + theta_0) / cos^2(theta))."""
        difference = self._frequency * t
        product = torch.sin(difference) * torch.sin(difference + 2 * self._frequency * self.offset)
        return torch.log1p(product / self._cosine(t) ** 2)

    def time(self, integral: Tensor) -> Tensor:
        """The t at which B(t) = integral, from sin(theta - theta_0) and cos(theta - theta_0) without cancellation."""
        theta_0 = self._frequency * self.offset
        cos_0, sin_0 = math.cos(theta_0), math.sin(theta_0)
        rise = -torch.expm1(-integral) * cos_0**2  # sin^2(theta) - sin^2(theta_0)
        cos, sin = cos_0 * torch.exp(-0.5 * integral), torch.sqrt(rise + sin_0**2)
        difference = torch.atan2(rise / (sin * cos_0 + cos * sin_0), cos * cos_0 + sin * sin_0)
        return difference / self._frequency


@dataclass(frozen=True)
class _BetaDiffusion(Diffusion):
    """alpha = exp(-B/2) with a rate beta and B = int_0^t beta."""

    schedule: BetaSchedule = field(default_factory=LinearBeta)
    t_min = 1e-3  # where Song et al. 2021 (appendix C) stop their samplers

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, BetaSchedule):
            raise TypeError(f"schedule must be a BetaSchedule; got {self.schedule!r}")

    @classmethod
    def linear(cls: type[BetaDiffusionT], beta_min: float = 0.1, beta_max: float = 20.0) -> BetaDiffusionT:
        """With the linear schedule `LinearBeta`."""
        return cls(LinearBeta(beta_min, beta_max))

    @classmethod
    def cosine(cls: type[BetaDiffusionT], offset: float = 0.008) -> BetaDiffusionT:
        """With the cosine schedule `CosineBeta`."""
        return cls(CosineBeta(offset))

    @property
    def t_max(self) -> float:
        return self.schedule.t_max

    @property
    def _domain(self) -> tuple[float, float]:
        return 0.0, self.schedule.t_bound

    def _integral(self, t: Tensor | float) -> Tensor:
        return self.schedule.integral(self.check_time(t))

    def alpha(self, t: Tensor | float) -> Tensor:
        """exp(-B(t)/2)."""
        return torch.exp(-0.5 * self._integral(t))

    def drift_coefficient(self, t: Tensor | float) -> Tensor:
        """f(t) = -beta(t)/2."""
        return -0.5 * self.schedule.rate(self.check_time(t))


@dataclass(frozen=True)
class VP(_BetaDiffusion):
    """Variance preserving: dx = -beta/2 x dt + sqrt(beta) dW, alpha = exp(-B/2), sigma^2 = 1 - exp(-B).

    Song et al. 2021 (arXiv 2011.13456), eqs. 11 and 29. `VP()` = `VP.linear()` has their beta from .1 to 20;
    `VP.cosine()` has the schedule of Nichol and Dhariwal.
    """

    def sigma(self, t: Tensor | float) -> Tensor:
        """sqrt(1 - exp(-B(t)))."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def time(self, snr: Tensor | float) -> Tensor:
        """snr = 1/(exp(B) - 1), so B = log(1 + 1/snr)."""
        return self.schedule.time(torch.log1p(1 / check_step("snr", snr)))

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = beta(t)."""
        return self.schedule.rate(self.check_time(t))


@dataclass(frozen=True)
class SubVP(_BetaDiffusion):
    """Sub-variance preserving: dx = -beta/2 x dt + sqrt(beta (1 - exp(-2B))) dW, sigma = 1 - exp(-B).

    Song et al. 2021 (arXiv 2011.13456), eqs. 12 and 29; schedules as in `VP`.
    """

    def sigma(self, t: Tensor | float) -> Tensor:
        """1 - exp(-B(t))."""
        return -torch.expm1(-self._integral(t))

    def time(self, snr: Tensor | float) -> Tensor:
        """sqrt(snr) = 1/(2 sinh(B/2)), so B = 2 asinh(1/(2 sqrt(snr)))."""
        return self.schedule.time(2 * torch.asinh(0.5 / torch.sqrt(check_step("snr", snr))))

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = beta(t) (1 - exp(-2 B(t)))."""
        return -self.schedule.rate(self.check_time(t)) * torch.expm1(-2 * self._integral(t))


@dataclass(frozen=True)
class _UnscaledDiffusion(Diffusion):
    """alpha = 1: noise is added to the data, from sigma_min up to sigma_max."""

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        check_real("sigma_min", self.sigma_min, minimum=0.0, strict=True)
        check_real("sigma_max", self.sigma_max, minimum=self.sigma_min, strict=True)

    def alpha(self, t: Tensor | float) -> Tensor:
        """1."""
        return torch.ones_like(self.check_time(t))

    def drift_coefficient(self, t: Tensor | float) -> Tensor:
        """f = 0."""
        return torch.zeros_like(self.check_time(t))


@dataclass(frozen=True)
class VE(_UnscaledDiffusion):
    """Variance exploding: alpha = 1, sigma(t) = sigma_min (sigma_max/sigma_min)^t on [0, 1].

    Song et al. 2021 (arXiv 2011.13456), eqs. 30 and 31. sigma(0) = sigma_min: the marginals are those of the SDE
    started at time 0 from x_0 + sigma_min eps, not from x_0. The formulas extend to every real t.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min, t_max = 0.0, 1.0
    _domain = -math.inf, math.inf

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma_min (sigma_max/sigma_min)^t."""
        return self.sigma_min * torch.exp(self._log_ratio * self.check_time(t))

    def time(self, snr: Tensor | float) -> Tensor:
        """snr = 1/sigma^2, so t = -log(sigma_min^2 snr) / (2 log(sigma_max/sigma_min))."""
        return -torch.log(self.sigma_min**2 * check_step("snr", snr)) / (2 * self._log_ratio)

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = 2 log(sigma_max/sigma_min) sigma(t)^2."""
        return 2 * self._log_ratio * self.sigma(t) ** 2


@dataclass(frozen=True)
class EDM(_UnscaledDiffusion):
    """alpha = 1, sigma(t) = t, reverse simulations from sigma_max down to sigma_min.

    Karras et al. 2022 (arXiv 2206.00364), table 1, column "Ours".

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    _domain = 0.0, math.inf

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def sigma(self, t: Tensor | float) -> Tensor:
        """t."""
        return self.check_time(t)

    def time(self, snr: Tensor | float) -> Tensor:
        """t = 1/sqrt(snr)."""
        return torch.rsqrt(check_step("snr", snr))

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = 2 t."""
        return 2 * self.check_time(t)


@dataclass(frozen=True)
class Flow(Diffusion):
    """alpha = 1 - t, sigma = t on [0, 1): the straight path of flow matching and rectified flow.

    Lipman et al. 2023 (arXiv 2210.02747) and Liu et al. 2023 (arXiv 2209.03003), in the time of Esser et al. 2024
    (arXiv 2403.03206, section 2): the data are at t = 0, the noise at t = 1, where the SNR is 0 and has no logarithm.
    So the schedule ends at t_max = .999, at the SNR 1e-6. A shift of the times, t -> s t/(1 + (s - 1) t), changes which
    times are asked and trained, but not the law of x at a time.
    """

    t_min, t_max = 1e-3, 0.999
    _domain = 0.0, 1.0

    def alpha(self, t: Tensor | float) -> Tensor:
        """1 - t."""
        return 1 - self.check_time(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        """t."""
        return self.check_time(t)

    def time(self, snr: Tensor | float) -> Tensor:
        """snr = ((1 - t)/t)^2, so t = 1/(1 + sqrt(snr))."""
        return 1 / (1 + torch.sqrt(check_step("snr", snr)))

    def drift_coefficient(self, t: Tensor | float) -> Tensor:
        """f = -1/(1 - t)."""
        return -1 / (1 - self.check_time(t))

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = 2 t/(1 - t)."""
        t = self.check_time(t)
        return 2 * t / (1 - t)


class TabulatedVP(Diffusion):
    """alpha^2 = alphas_cumprod[t] and sigma^2 = 1 - alphas_cumprod[t] at the indices t = 0, 1, ..., T - 1.

    Between them the logarithm of the SNR is linear in t, so that it stays monotone and its inverse is exact. At the
    indices alpha and sigma are those of the table to a few rounding units of float64 (to 1e-14, relative), whatever the
    precision in which it was made.

    A table whose last entries are zero (zero terminal SNR: Lin et al. 2024, arXiv 2305.08891) ends at its last positive
    one: the SNR has no logarithm beyond. Times outside [0, T - 1] and SNRs outside `snr_range` are refused.

    Args:
        alphas_cumprod: (T >= 2,), strictly decreasing, in (0, 1): prod_{s <= t} (1 - beta_s) of Ho et al. 2020 (arXiv
            2006.11239, eq. 4) or `scheduler.alphas_cumprod` of diffusers.

    Raises:
        ValueError: another table.
    """

    t_min = 0.0  # the first index; its sigma is positive

    def __init__(self, alphas_cumprod: Sequence[float] | Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).detach().cpu()
        if table.ndim == 1 and bool((table == 0).any()):
            table = table[: int((table != 0).nonzero().max()) + 1 if bool(table.any()) else 0]
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(
                f"alphas_cumprod must have two positive entries or more, in one row; got shape {tuple(table.shape)}"
            )
        for what, bad in (
            ("in (0, 1)", ~((table > 0) & (table < 1))),
            ("strictly decreasing", torch.cat([torch.tensor([False]), table.diff() >= 0])),
        ):
            if bool(bad.any()):
                k = int(bad.nonzero()[0])
                raise ValueError(f"alphas_cumprod must be {what}; entry {k} is {table[k].item()}")
        self._log_snr = table.log() - torch.log1p(-table)

    def __repr__(self) -> str:
        return f"TabulatedVP({len(self._log_snr)} entries)"

    @property
    def t_max(self) -> float:
        """The last index with a positive alpha."""
        return float(len(self._log_snr) - 1)

    @property
    def snr_range(self) -> tuple[float, float]:
        """Least and largest SNR, at t_max and at t_min."""
        return self._log_snr[-1].exp().item(), self._log_snr[0].exp().item()

    @property
    def _domain(self) -> tuple[float, float]:
        return 0.0, self.t_max * (1 + _SLACK)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Linear between the entries."""
        t = self.check_time(t)
        return self._interpolated(t).to(t.dtype)

    def alpha(self, t: Tensor | float) -> Tensor:
        """sqrt(alphas_cumprod)."""
        t = self.check_time(t)
        return torch.sigmoid(self._interpolated(t)).sqrt().to(t.dtype)

    def sigma(self, t: Tensor | float) -> Tensor:
        """sqrt(1 - alphas_cumprod)."""
        t = self.check_time(t)
        return torch.sigmoid(-self._interpolated(t)).sqrt().to(t.dtype)

    def time(self, snr: Tensor | float) -> Tensor:
        """The index at which log SNR has this value.

        Raises:
            TypeError, ValueError: unless snr is in `snr_range`.
        """
        tau = check_step("snr", snr)
        low, high = self.snr_range
        outside = (tau < low * (1 - _SLACK)) | (tau > high * (1 + _SLACK))
        if readable(tau) and bool(outside.any()):
            raise ValueError(
                f"snr must be in [{low:.6g}, {high:.6g}], the range of {self!r}; got {tau[outside].flatten()[0].item()}"
            )
        table, value = to_device(self._log_snr, tau.device), tau.double().log()
        left = (torch.searchsorted(-table, -value, right=True) - 1).clamp(0, len(table) - 2)
        share = (value - table[left]) / (table[left + 1] - table[left])
        return (left + share.clamp(0, 1)).to(tau.dtype)

    def drift_coefficient(self, t: Tensor | float) -> Tensor:
        """f = sigma^2/2 d(log SNR)/dt, the derivative from the right (at t_max from the left)."""
        return -self.squared_diffusion(t) / 2

    def squared_diffusion(self, t: Tensor | float) -> Tensor:
        """g^2 = -2 f."""
        t = self.check_time(t)
        table, left = self._left(t)
        slope = table[left + 1] - table[left]
        return (-slope * torch.sigmoid(-self._interpolated(t))).to(t.dtype)

    def _left(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The table on the device of t, and the index of the entry at or before t, but the last."""
        return to_device(self._log_snr, t.device), t.floor().long().clamp(0, len(self._log_snr) - 2)

    def _interpolated(self, t: Tensor) -> Tensor:
        """log SNR at times that are checked, in float64."""
        table, left = self._left(t)
        return torch.lerp(table[left], table[left + 1], (t.double() - left).clamp(0, 1))
