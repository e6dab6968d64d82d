"""Clocks: where a path's master grid lies, and how much variance passes between two times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

Times = Any
"""One time (a float), or float64 times (a tensor or a numpy array); a length is of the same kind, or a tensor."""


@runtime_checkable
class Clock(Protocol):
    """What a `BrownianPath` needs to know of time.

    `position` and `time` map a query time in [t0, t1] to [0, 1] and back (float64 arrays); the master grid is uniform
    in the position. `length` is the variance of the increment over [s, t]: the step length h.
    """

    @property
    def variances(self) -> Tensor | None:
        """c, one per coordinate, where a length is the tensor (t - s)/((1 + c s)(1 + c t)); None for other clocks."""

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

    variances: Tensor | None = field(default=None, init=False, repr=False)

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
