"""Root mean squares and ratios of pathwise errors, with intervals that hold for heavy tails."""

from __future__ import annotations

import math

import torch
from scipy.special import stdtrit
from torch import Tensor

RESAMPLES = 1000
FEWEST_EFFECTIVE = 20
"""Effective errors, (sum e^2)^2 / sum e^4, below which no interval is given: so few carry the mean square."""


def root_mean_square(errors: Tensor) -> tuple[float, float]:
    """sqrt(mean errors^2) and its standard error by the delta method, for independent errors (n >= 2,)."""
    squares = errors.double().square()
    value = squares.mean().sqrt().item()
    return value, 0.0 if value == 0.0 else squares.std().item() / len(errors) ** 0.5 / (2 * value)


def root_mean_square_interval(errors: Tensor) -> tuple[float, float] | None:
    """A 95 % interval of sqrt(E e^2) from independent errors, (n,), that may have heavy tails.

    Hall's transformation takes the skewness out of the t-statistic of the mean square (Hall 1992, Journal of the Royal
    Statistical Society B 54, p. 221), whose degrees of freedom are the effective number of errors,
    n_eff = (sum e^2)^2 / sum e^4, less one. Measured coverage: 92-96 % where n_eff is 20 or more, of errors of which
    one in twenty carries all and of log-normal ones of shape .8; 91 % at shape 1, n = 2000, where normal theory has
    87 %.

    Returns:
        low, high; None where n_eff < `FEWEST_EFFECTIVE` and the errors differ: too few of them carry the mean square.
    """
    squares = errors.double().square()
    mean, n = squares.mean(), len(squares)
    centred = squares - mean
    spread = centred.square().mean().sqrt()
    if spread <= 1e-12 * mean:
        return mean.sqrt().item(), mean.sqrt().item()
    effective = (squares.sum().square() / squares.square().sum()).item()
    if effective < FEWEST_EFFECTIVE:
        return None
    skewness = (centred / spread).pow(3).mean().item() / math.sqrt(n)
    t = float(stdtrit(effective - 1, 0.975))
    low, high = (mean.item() - _untransformed(x, skewness) * spread.item() / math.sqrt(n) for x in (t, -t))
    return math.sqrt(max(0.0, low)), math.sqrt(high)


def _untransformed(x: float, g: float) -> float:
    """The t whose t + g t^2/3 + g^2 t^3/27 + g/6, which is ((1 + g t/3)^3 - 1)/g + g/6, is x."""
    return x if abs(g) < 1e-9 else 3 * (math.cbrt(1 + g * (x - g / 6)) - 1) / g


def paired_ratio(errors: Tensor, others: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """The ratio of two root mean squares over the same paths, (n,) each, with a 95 % interval by paired bootstrap."""
    if errors.shape != others.shape or errors.ndim != 1:
        raise ValueError(f"errors must both have shape (n,); got {tuple(errors.shape)} and {tuple(others.shape)}")
    squares = torch.stack([errors, others]).cpu().double().square()
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [squares[:, torch.randint(len(errors), (len(errors),), generator=generator)].mean(1) for _ in range(RESAMPLES)]
    )
    low, high = (means[:, 0] / means[:, 1]).sqrt().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return (squares[0].mean() / squares[1].mean()).sqrt().item(), low, high
