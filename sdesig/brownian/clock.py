"""Clocks: where a path's master grid lies, and how much variance passes between two times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_real

Times = Any
"""One time (a float), or float64 times (a tensor or a numpy array); a length is of the same kind, or a tensor."""


@runtime_checkable
class Clock(Protocol):
    """What a `BrownianPath` needs to know of time.

    `position` and `time` map a query time in [t0, t1] to [0, 1] and back (float64 arrays); the master grid is uniform
    in the position. `length` is the variance of the increment over [s, t]: the step length h.
    """

    @property
    def self_similar(self) -> bool:
        """Whether cells of one level all bisect in the same ratio of lengths."""

    def check(self, t0: float, t1: float) -> None:
        """Raise ValueError if the clock cannot run from t0 to t1."""

    def position(self, t: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """Position in [0, 1] of the time t."""

    def time(self, position: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """Time at a position in [0, 1]."""

    def length(self, s: Times, t: Times) -> Times:
        """Step length of [s, t]: float64, the shape of s and t, then that of one value if it differs by coordinate."""

    def identity(self) -> dict[str, object]:
        """JSON-serializable description; equal exactly for equal clocks."""


@dataclass(frozen=True)
class UniformClock:
    """Master grid uniform in t; h = t - s: an ordinary Brownian motion."""

    self_similar: bool = field(default=True, init=False, repr=False)

    def check(self, t0: float, t1: float) -> None:
        """Accept any interval."""

    def position(self, t: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """(t - t0) / (t1 - t0)."""
        return np.asarray((t - t0) / (t1 - t0))

    def time(self, position: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """t0 (1 - x) + t1 x, exact at both ends."""
        return np.asarray(t0 * (1.0 - position) + t1 * position)

    def length(self, s: Times, t: Times) -> Times:
        """t - s."""
        return t - s

    def identity(self) -> dict[str, object]:
        """The clock's name."""
        return {"name": "uniform"}


@dataclass(frozen=True, eq=False)
class SNRClock:
    """For reverse diffusions, whose time is the signal-to-noise ratio: master grid uniform in log t.

    With a Gaussian reference of variance c the path is that of the martingale M of du = Q dv + dM (see
    `sdesig.sde.reference`), <M> = v = t/(1 + c t): times remain SNRs, and
    h = v(t) - v(s) = (t - s)/((1 + c s)(1 + c t)), free of cancellation. c = 0 is the canonical form dy = D dt + dB.
    A stochasticity eta other than 1 has <M> = v^power with power = eta^2.

    Args:
        variance: c >= 0, a float or a tensor broadcastable to one value (one variance per coordinate).
        power: > 0.

    Raises:
        ValueError, TypeError: a negative or non-finite variance, a power that is not > 0, or (from a path) t0 <= 0.
    """

    variance: float | Tensor = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        check_real("power", self.power, minimum=0.0, strict=True)
        if not isinstance(self.variance, Tensor):
            check_real("variance", self.variance, minimum=0.0)
        elif not bool((torch.isfinite(self.variance) & (self.variance >= 0)).all()):
            raise ValueError(f"variance must be finite and >= 0 everywhere; got {self.variance}")

    @property
    def self_similar(self) -> bool:
        """True without a reference: then all cells span the same ratio of times."""
        return not isinstance(self.variance, Tensor) and self.variance == 0.0

    def check(self, t0: float, t1: float) -> None:
        """Raise ValueError unless 0 < t0 and t1/t0 is finite."""
        if t0 <= 0:
            raise ValueError(f"t0 must be > 0 for an SNRClock (its grid is uniform in log t); got {t0}")
        if t1 / t0 == math.inf:
            raise ValueError(f"t1/t0 must be a finite number for an SNRClock; got {t1} and {t0}")

    def position(self, t: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """log(t/t0) / log(t1/t0)."""
        return np.log(np.asarray(t) / t0) / np.log(t1 / t0)

    def time(self, position: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """t0^(1-x) t1^x, exact at both ends."""
        position = np.asarray(position)
        inner = t0 * np.exp(position * np.log(t1 / t0))
        return np.where(position == 0.0, t0, np.where(position == 1.0, t1, inner))

    def length(self, s: Times, t: Times) -> Times:
        """v(t)^power - v(s)^power, from v(t) - v(s) = (t - s) / ((1 + c s)(1 + c t))."""
        c = self.variance
        if isinstance(c, Tensor):
            c = c.to(torch.float64)
            s, t = (torch.as_tensor(x, dtype=torch.float64, device=c.device) for x in (s, t))
            s, t = (x.reshape(*x.shape, *[1] * c.ndim) for x in (s, t))
        length = (t - s) / ((1.0 + c * s) * (1.0 + c * t))
        if self.power == 1.0:
            return length
        v = s / (1.0 + c * s)
        xp: Any = torch if isinstance(length, Tensor) else np
        return v**self.power * xp.expm1(self.power * xp.log1p(length / v))

    def identity(self) -> dict[str, object]:
        """The clock's name, reference variance and power."""
        c = self.variance
        variance = c.tolist() if isinstance(c, Tensor) else float(c)
        return {"name": "snr", "variance": variance, "power": float(self.power)}
