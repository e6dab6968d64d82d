"""The clocks of reverse diffusions: time is the signal-to-noise ratio, variance passes as in a Gaussian reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesig._checks import check_real, check_step, readable
from sdesig._devices import to_device
from sdesig.brownian.clock import Times


def drift_power(eta: float) -> float:
    """(1 + eta^2)/2, the power of the SNR that is the drift clock."""
    return 1.0 if eta == 1.0 else 0.5 * (1 + check_real("eta", eta, minimum=0.0) ** 2)


def drift_clock(snr: Tensor | float, eta: float = 1.0) -> Tensor:
    """a = snr^((1 + eta^2)/2), or b from v in the place of the SNR; the shape of `snr`."""
    return check_step("snr", snr) ** drift_power(eta)


def noise_clock(snr: Tensor | float, eta: float = 1.0) -> Tensor:
    """<M> = snr^(eta^2), with v in the place of the SNR for the reference variables; the shape of `snr`."""
    return check_step("snr", snr) ** (check_real("eta", eta, minimum=0.0) ** 2)


def clock_length(start: Times, end: Times, c: Times) -> Times:
    """v(end) - v(start) = (end - start)/((1 + c start)(1 + c end)), v = t/(1 + c t): free of cancellation.

    The last bits of the paths of a seed depend on its rounding, so it must not change.
    """
    return (end - start) / ((1.0 + c * start) * (1.0 + c * end))


def _outer(times: Tensor, c: Tensor) -> Tensor:
    """Times with an axis for each of a variance, to compute with it; one time on the CPU needs none."""
    if times.ndim == 0 and times.device.type == "cpu":
        return times
    return to_device(times, c.device).reshape(*times.shape, *[1] * c.ndim)


@dataclass(frozen=True, eq=False)
class SNRClock:
    """The clock of reverse diffusions, whose time is the signal-to-noise ratio; the master grid is uniform in log t.

    With a Gaussian reference of variance c the path is that of the martingale M of du = Q dv + dM (see
    `sdesig.sampling.gaussian_reference`), <M> = v = t/(1 + c t): times remain SNRs, and
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
        elif readable(self.variance) and not bool((torch.isfinite(self.variance) & (self.variance >= 0)).all()):
            raise ValueError(f"variance must be finite and >= 0 everywhere; got {self.variance}")

    @property
    def variances(self) -> Tensor | None:
        """The variance, if there is one for each coordinate and the power is 1."""
        return self.variance if isinstance(self.variance, Tensor) and self.power == 1.0 else None

    def check(self, t0: float, t1: float) -> None:
        """Raise ValueError unless 0 < t0 and t1/t0 is finite."""
        if t0 <= 0:
            raise ValueError(f"t0 must be > 0 for an SNRClock (its grid is uniform in log t); got {t0}")
        if t1 / t0 == math.inf:
            raise ValueError(f"t1/t0 must be a finite number for an SNRClock; got {t1} and {t0}")

    def position(self, t: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """The position log(t/t0) / log(t1/t0) of a time."""
        return np.log(np.asarray(t) / t0) / np.log(t1 / t0)

    def time(self, position: np.ndarray | float, t0: float, t1: float) -> np.ndarray:
        """The time t0^(1-x) t1^x at a position x, exact at both ends."""
        position = np.asarray(position)
        inner = t0 * np.exp(position * np.log(t1 / t0))
        return np.where(position == 0.0, t0, np.where(position == 1.0, t1, inner))

    def length(self, s: Times, t: Times) -> Times:
        """v(t)^power - v(s)^power, from v(t) - v(s) = (t - s) / ((1 + c s)(1 + c t))."""
        c = self.variance
        if isinstance(c, Tensor):
            c = c.to(torch.float64)
            s, t = (_outer(torch.as_tensor(x, dtype=torch.float64), c) for x in (s, t))
        length = clock_length(s, t, c)
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
