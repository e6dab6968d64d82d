"""Rows of a report on a law: averages of statistics, their expectations under the law, standard errors and z-scores."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Some rows of a report."""

    names: list[str]
    expected: Tensor
    estimates: Tensor
    standard_errors: Tensor
    z_scores: Tensor


def _compare(names: list[str], expected: Tensor, estimates: Tensor, errors: Tensor) -> Rows:
    return Rows(names, expected, estimates, errors, _ratio(estimates - expected, errors))


def _ratio(x: Tensor, error: Tensor) -> Tensor:
    """x/error; 0 where both are 0. Errors include rounding: one of 0 stands beside x = 0 only."""
    return x / torch.where(error > 0, error, 1.0)


def studentized(names: list[str], samples: Tensor, expected: Tensor, rounding: float) -> Rows:
    """Rows for the averages of `samples` (n, k), by sample standard errors and Hall's transformation."""
    n, means = len(samples), samples.mean(0)
    centred = samples - means
    floor = rounding * torch.maximum(samples.abs().amax(0), expected.abs())
    errors = torch.maximum(centred.square().sum(0).sqrt() / n, floor)
    t = _ratio(means - expected, errors)
    g = _ratio(centred, errors * math.sqrt(n)).pow(3).mean(0) / math.sqrt(n)
    return Rows(names, expected, means, errors, t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6)


def standardized(names: list[str], samples: Tensor, expected: Tensor, variance: Tensor, rounding_error: Tensor) -> Rows:
    """Rows for the averages of `samples` (n, k), of known variances and with known rounding errors, (k,)."""
    errors = torch.maximum((variance / len(samples)).sqrt(), rounding_error)
    return _compare(names, expected, samples.mean(0), errors)


def deterministic(name: str, deviation: Tensor, scale: Tensor) -> Rows:
    """A row for a deviation that must vanish up to rounding errors of size `scale`."""
    return _compare([name], torch.zeros(1, dtype=torch.float64), deviation.reshape(1), scale.reshape(1))


def gaussian_rows(names: list[str], x: Tensor, covariance: Tensor, rounding: float) -> list[Rows]:
    """The statistics of `check_gaussian`."""
    variances = covariance.diagonal().clamp_min(0.0)
    scale = torch.where(variances > 0, variances.rsqrt(), 0.0)
    correlation = covariance * scale * scale.unsqueeze(-1)
    largest = x.abs().amax(0)
    zeros = torch.zeros_like(variances)
    rows = [standardized(names, x, zeros, variances, rounding * largest)]
    for i, name in enumerate(names):
        later = names[i:]
        product = x[:, i, None] * x[:, i:]
        cross = covariance[i, i:]
        spread = variances[i] * variances[i:] + cross.square()
        labels = [f"{name} {other}" for other in later]
        rows.append(standardized(labels, product, cross, spread, rounding * largest[i] * largest[i:]))

        angle = x[:, i, None] * scale[i] + x[:, i:] * scale[i:]
        error = rounding * (1 + largest[i] * scale[i] + largest[i:] * scale[i:])
        variance = (correlation[i, i] + 2 * correlation[i, i:] + correlation.diagonal()[i:]).clamp_min(0.0)
        cosine, doubled = torch.exp(-variance / 2), torch.exp(-2 * variance)
        spread = ((1 + doubled) / 2 - cosine.square()).clamp_min(0.0)
        labels = [f"cos({name}/s + {other}/s)" for other in later]
        rows.append(standardized(labels, angle.cos(), cosine, spread, error))
        labels = [f"sin({name}/s + {other}/s)" for other in later]
        rows.append(standardized(labels, angle.sin(), zeros[i:], (1 - doubled) / 2, error))
    return rows
