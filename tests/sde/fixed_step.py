"""Fixed-step schemes written out, coupled Brownian increments, and strong-order slopes with a confidence interval."""

import math
from collections.abc import Callable

import scipy.stats
import torch
from torch import Tensor


def increments(paths: int, steps: int, noise_dim: int, t1: float, seed: int) -> Tensor:
    """(steps, paths, noise_dim), N(0, t1/steps)."""
    generator = torch.Generator().manual_seed(seed)
    return math.sqrt(t1 / steps) * torch.randn(steps, paths, noise_dim, generator=generator, dtype=torch.float64)


def coarsen(dw: Tensor, factor: int) -> Tensor:
    """Increments of the same path over steps `factor` times as long."""
    return dw.unflatten(0, (-1, factor)).sum(1)


def noise_term(sde, t: float, y: Tensor, dw: Tensor) -> Tensor:
    """g dW."""
    g = sde.g(t, y)
    return g * dw if sde.noise_type == "diagonal" else (g @ dw.unsqueeze(-1)).squeeze(-1)


def euler_maruyama(sde, t: float, y: Tensor, h: float, dw: Tensor) -> Tensor:
    """Ito, strong order 1/2."""
    return y + h * sde.f(t, y) + noise_term(sde, t, y, dw)


def heun(sde, t: float, y: Tensor, h: float, dw: Tensor) -> Tensor:
    """Stratonovich, strong order 1 for commutative noise, else 1/2."""
    f, noise = sde.f(t, y), noise_term(sde, t, y, dw)
    ahead = y + h * f + noise
    return y + h / 2 * (f + sde.f(t + h, ahead)) + (noise + noise_term(sde, t + h, ahead, dw)) / 2


def solve(step: Callable[..., Tensor], sde, y0: Tensor, t1: float, dw: Tensor) -> Tensor:
    """Y(t1) from increments of shape (steps, paths, noise_dim)."""
    h = t1 / len(dw)
    y = y0
    for n, dw_n in enumerate(dw):
        y = step(sde, n * h, y, h, dw_n)
    return y


def strong_slope(steps: list[int], errors: Tensor, groups: int = 20) -> tuple[float, float]:
    """Slope of log2 RMS error against log2 h, and the half-width of its 99.99 % confidence interval.

    Args:
        steps: numbers of steps, one per level.
        errors: (levels, paths, dim), differences of the solutions; slopes are fitted within `groups` groups of paths.
    """
    rms = errors.unflatten(1, (groups, -1)).square().sum(-1).mean(-1).sqrt().log2()
    x = -torch.tensor(steps, dtype=errors.dtype).log2()
    x = x - x.mean()
    slopes = (x[:, None] * rms).sum(0) / (x**2).sum()
    half_width = scipy.stats.t.ppf(1 - 0.5e-4, groups - 1) * slopes.std() / math.sqrt(groups)
    return slopes.mean().item(), half_width.item()


def z_scores(samples: Tensor, expected: Tensor) -> Tensor:
    """(sample mean - expected) / standard error over the first axis; 0 where samples are constant and right."""
    gap = samples.mean(0) - expected
    error = samples.std(0) / math.sqrt(len(samples))
    return torch.where(gap.abs() < 1e-12, 0.0, gap / error)
