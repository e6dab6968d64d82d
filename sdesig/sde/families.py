"""The families of diffusions: variance preserving, sub-variance preserving, variance exploding, and EDM's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from sdesig._checks import check_real, check_step
from sdesig.sde.diffusions import Diffusion
from sdesig.sde.schedules import BetaSchedule, CosineBeta, LinearBeta

BetaDiffusionT = TypeVar("BetaDiffusionT", bound="_BetaDiffusion")


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
