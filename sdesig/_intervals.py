"""95 % intervals of means that a few samples may carry.

Errors of an SDE with multiplicative noise, and their squares more so, have heavy tails: the sum over n samples is made
by a few of them, whose variance is known no better than from a few, and whose skewness no normal law has. So the
quantile is Student's with as many degrees of freedom as samples make the variance, `effective_number`, and a mean has
P. Hall's correction for skewness. `validation.coverage` counts how often these intervals hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVEL = 0.95
NORMAL = torch.special.ndtri(torch.tensor((1 + LEVEL) / 2, dtype=torch.float64)).item()
"""1.96: value +- NORMAL standard errors is the interval."""
RESAMPLES = 1000
FEWEST_EFFECTIVE = 20
"""Smallest effective number of errors for an interval: fewer carry the mean square alone."""


def effective_number(values: Tensor) -> Tensor:
    """(sum v^2)^2 / sum v^4 over the last axis, (..., n) to (...): n if all |v| are equal, 1 if one is all; n of zeros.

    n/3 of normal values.
    """
    squares = (values / values.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)).square()
    fourth = squares.square().sum(-1)
    return torch.where(fourth > 0, squares.sum(-1).square() / torch.where(fourth > 0, fourth, 1.0), values.shape[-1])


def standard_error(influence: Tensor) -> Tensor:
    """Standard error of an estimate from the influences of n samples on it, of mean 0: (..., n) to (...).

    `NORMAL` times it is half the length of Student's interval.
    """
    n = influence.shape[-1]
    return (influence.square().sum(-1) / (n * (n - 1))).sqrt() * _student(effective_number(influence)) / NORMAL


def mean_interval(samples: Tensor, quantile: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ends of the interval of a mean, (...) each, with P. Hall's correction for skewness.

    Args:
        samples: n >= 2 independent samples along the last axis, (..., n).
        quantile: quantile of the t statistic at both ends, (...). Default: Student's for 95 %, with the
            `effective_number` of the deviations from the mean, less 1, for its degrees of freedom.
    """
    mean = samples.mean(-1)
    centred = samples - mean[..., None]
    deviation = centred.square().mean(-1).sqrt()
    scale = torch.where(deviation > 0, deviation, 1.0)
    error = deviation / math.sqrt(samples.shape[-1])
    g = (centred / scale[..., None]).pow(3).mean(-1) / math.sqrt(samples.shape[-1])
    if quantile is None:
        quantile = _student(effective_number(centred) - 1)  # one for the mean
    return mean - error * hall(g, quantile), mean - error * hall(g, -quantile)


def rms_interval(errors: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the 95 % interval of sqrt(E error^2) from n >= 2 independent errors, (..., n) to (...) each.

    Where `effective_number` of the errors is below 10, no interval from them holds: this one is too short too.
    """
    low, high = mean_interval(errors.square())
    return low.clamp_min(0.0).sqrt(), high.sqrt()


def rms_and_error(errors: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(mean error^2) and its standard error, (..., n) to (...) each: value +- 1.96 errors contains the interval."""
    value = errors.square().mean(-1).sqrt()
    low, high = rms_interval(errors)
    return value, torch.maximum(high - value, value - low) / NORMAL


def root_mean_square(errors: Tensor) -> tuple[float, float]:
    """sqrt(mean errors^2) and its standard error by the delta method, for independent errors (n >= 2,)."""
    squares = errors.double().square()
    value = squares.mean().sqrt().item()
    return value, 0.0 if value == 0.0 else squares.std().item() / len(errors) ** 0.5 / (2 * value)


def root_mean_square_interval(errors: Tensor) -> tuple[float, float] | None:
    """A 95 % interval of sqrt(E e^2) from independent errors, (n,), that may have heavy tails.

    Measured coverage, where there are 20 effective errors or more: 96 % of normal errors, of log-normal ones of shape
    .8 and of errors of which one in twenty carries all, 95 % of log-normal ones of shape 1, n = 2000.

    Returns:
        low, high; None for one error, and where too few of those that differ carry the mean square: `effective_number`
        is below `FEWEST_EFFECTIVE`, or the interval of the mean square reaches to zero.
    """
    if len(errors) < 2:
        return None
    magnitudes = errors.double().abs()
    if magnitudes.max() - magnitudes.min() <= 1e-12 * magnitudes.max():
        return magnitudes.max().item(), magnitudes.max().item()
    if effective_number(magnitudes) < FEWEST_EFFECTIVE:
        return None
    low, high = rms_interval(magnitudes)
    return (low.item(), high.item()) if low > 0 else None


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


def hall(g: Tensor, quantile: Tensor) -> Tensor:
    """The t statistic whose transform t + g t^2/3 + g^2 t^3/27 + g/6 is the quantile; g is the skewness over sqrt n.

    P. Hall, J. R. Statist. Soc. B 54 (1992): the transform is nearly free of the skewness of the samples. It is
    ((1 + g t/3)^3 - 1)/g + g/6, solved here without cancellation, so that g -> 0 gives t = quantile.
    """
    target = quantile - g / 6
    cube = 1 + g * target
    root = cube.sign() * cube.abs().pow(1 / 3)
    return 3 * target / (root.square() + root + 1)


def _student(degrees: Tensor) -> Tensor:
    """Quantile of Student's law with these degrees of freedom, not below 1/2, (...)."""
    from scipy.special import stdtrit  # a quarter of a second

    return torch.as_tensor(stdtrit(degrees.detach().clamp_min(0.5).cpu().double().numpy(), (1 + LEVEL) / 2)).to(degrees)
