"""Rates beta(t) of the variance-preserving diffusions, with their integrals B(t) = int_0^t beta and the inverse."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdesig._checks import check_real


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
