"""From errors per level and path to an order with a confidence interval: pure functions, no SDE in sight."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import scipy.stats
import torch
from torch import Tensor

from sdesig._checks import check_floating, check_integer
from sdesig.convergence.estimate import OrderEstimate

BLOCKS = 200
RESAMPLES = 1000
_GAUSS_NEWTON = 8
CURVATURE = 0.02
"""By how much (relative, rms) an error may be off the power law. It keeps the fit off differences between levels that
are so correlated that their noise cancels, where it would see little but the curvature of the power law."""

MASK_REFERENCE = 8.0
"""A level counts only above this multiple of the error of its reference. Errors of level and reference that are
independent then move log2 error by .01, fully coherent ones by .19; of the slope over 5 levels that is .04 at most."""

MASK_NOISE = 3.0
"""A weak error counts only above this multiple of its standard error."""


def fit_strong(errors: Tensor, steps: Sequence[int], *, floors: Tensor | float = 0.0) -> OrderEstimate:
    """Strong order from pathwise errors: the error of a level is sqrt(E error^2).

    Args:
        errors: norms |Y_N - Y| per level and path, (levels, paths), the same paths on all levels.
        steps: numbers of steps N, one per level, increasing.
        floors: per level, (levels,) or a number: what the reference's own error makes of the RMS error, and rounding.
            The coarsest levels are used until the first that is not above `MASK_REFERENCE` floors.

    Raises:
        TypeError, ValueError: errors or steps that do not fit; fewer than two levels above the floor.
    """
    levels = _check(errors, steps, 2)
    squares, resampled = _bootstrap(errors[..., None].square())
    sizes, resampled_sizes = squares.sqrt().squeeze(-1), resampled.sqrt().squeeze(-1)
    thresholds = MASK_REFERENCE * torch.as_tensor(floors).to(sizes).expand(levels)
    standard_errors = resampled_sizes.std(0)
    used = (sizes > thresholds).cumprod(0).bool()
    return _line("strong", steps, sizes, standard_errors, resampled_sizes, thresholds, used, errors.shape[1])


def fit_weak(errors: Tensor, steps: Sequence[int], *, floors: Tensor | float = 0.0) -> OrderEstimate:
    """Weak order from samples whose means are the errors: the error of a level is |E sample|, Euclidean.

    A level is at the Monte-Carlo floor if its error is not above `MASK_NOISE` standard errors. All levels finer than
    the first such one are masked with it, however large chance made them; levels just above the floor weigh little.
    Levels coarser than a change of sign (for k > 1: of direction, by more than a right angle) are masked too: the
    leading term of the error does not rule there.

    Args:
        errors: e.g. phi(Y_N) - phi(Y) per level and sample, (levels, samples) or (levels, samples, k).
        steps, floors: as in `fit_strong`; the standard errors are found here.

    Raises:
        TypeError, ValueError: as `fit_strong`.
    """
    levels = _check(errors, steps, 3)
    means, resampled = _bootstrap(errors.reshape(*errors.shape[:2], -1))
    sizes = means.norm(dim=-1)
    standard_errors = resampled.var(0).sum(-1).sqrt()
    references = MASK_REFERENCE * torch.as_tensor(floors).to(sizes).expand(levels)
    thresholds = torch.maximum(references, MASK_NOISE * standard_errors)
    used = (sizes > thresholds).cumprod(0).bool()
    turns = ((means[:-1] * means[1:]).sum(-1) < 0) & used[1:]
    used[: int(turns.nonzero().max()) + 1 if turns.any() else 0] = False
    return _line("weak", steps, sizes, standard_errors, resampled.norm(dim=-1), thresholds, used, errors.shape[1])


def check_steps(steps: object) -> tuple[int, ...]:
    """Return numbers of steps as a tuple of ints; raise unless there are at least two and they increase."""
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise TypeError(f"steps must be a sequence of integers; got {steps!r}")
    counts = tuple(check_integer(f"steps[{k}]", n, 1) for k, n in enumerate(steps))
    if len(counts) < 2 or any(n >= m for n, m in pairwise(counts)):
        raise ValueError(f"steps must be two or more numbers of steps that increase; got {counts}")
    return counts


def _check(errors: Tensor, steps: Sequence[int], most_axes: int) -> int:
    levels = len(check_steps(steps))
    if not 2 <= check_floating("errors", errors).ndim <= most_axes or len(errors) != levels or errors.shape[1] < 2:
        raise ValueError(f"errors must have shape ({levels} levels, >= 2 samples); got {tuple(errors.shape)}")
    if not bool(errors.isfinite().all()):
        raise ValueError("errors must be finite")
    return levels


def _bootstrap(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Means over n samples, (levels, k), and those of resamples of blocks of them, (RESAMPLES, levels, k)."""
    levels, n, k = samples.shape
    blocks = min(BLOCKS, n)
    owner = torch.arange(n) * blocks // n
    sums = samples.new_zeros(levels, blocks, k).index_add_(1, owner, samples)
    counts = torch.bincount(owner).to(samples)
    weights = _times_drawn(blocks).to(samples)
    resampled = torch.einsum("rb,lbk->rlk", weights, sums) / (weights @ counts)[:, None, None]
    return samples.mean(1), resampled


@functools.cache
def _times_drawn(blocks: int) -> Tensor:
    """How often each resample holds each block, (RESAMPLES, blocks); the same in every run."""
    drawn = torch.randint(blocks, (RESAMPLES, blocks), generator=torch.Generator().manual_seed(0))
    return torch.zeros(RESAMPLES, blocks).scatter_add_(1, drawn, torch.ones(RESAMPLES, blocks))


def _line(
    kind: str,
    steps: Sequence[int],
    errors: Tensor,
    standard_errors: Tensor,
    resampled: Tensor,
    floors: Tensor,
    used: Tensor,
    samples: int,
) -> OrderEstimate:
    """Fit errors = constant N^-order by generalized least squares of relative residuals, by Gauss-Newton steps.

    To first order that is the line through the log errors, with their bootstrap covariance. But chance, which makes log
    errors near the Monte-Carlo floor skew, and makes small errors look noisier than large ones, does not flatten it.
    The interval is Student's, with the bootstrap standard error of the slope.
    """
    if used.sum() < 2:
        raise ValueError(
            f"fewer than two levels are above the floor, on one side of a change of sign: errors {errors.tolist()} at "
            f"steps {tuple(steps)}, floors {floors.tolist()}; take fewer steps, more paths or a better reference"
        )
    x, e = -torch.tensor(steps).to(errors)[used].log(), errors[used]
    noise = torch.cov(resampled[:, used].T)
    design = torch.stack([torch.ones_like(x), x], 1)
    line = design @ torch.linalg.lstsq(design, e.log()).solution
    for _ in range(_GAUSS_NEWTON):
        fitted = line.exp()
        residual = e / fitted - 1
        covariance = noise / (fitted[:, None] * fitted)
        inverse = torch.linalg.inv(covariance + CURVATURE**2 * torch.eye(len(x)).to(x))
        solution = torch.linalg.solve(design.T @ inverse @ design, design.T @ inverse)
        parameters = solution @ (line + residual)
        line = design @ parameters
    intercept, order = parameters.tolist()
    variance = (solution @ covariance @ solution.T)[1, 1].item()
    half_width = float(scipy.stats.t.ppf(0.975, min(BLOCKS, samples) - 1)) * variance**0.5
    statistic = (residual @ inverse @ residual).item()
    difference = torch.eye(len(x)).to(x).diff(dim=0) / x.diff()[:, None]
    return OrderEstimate(
        order=order,
        ci_low=order - half_width,
        ci_high=order + half_width,
        steps=tuple(steps),
        errors=tuple(errors.tolist()),
        standard_errors=tuple(standard_errors.tolist()),
        used=tuple(used.tolist()),
        floors=tuple(floors.tolist()),
        constant=torch.tensor(intercept).exp().item(),
        slopes=tuple((difference @ e.log()).tolist()),
        slope_errors=tuple((difference @ covariance @ difference.T).diagonal().sqrt().tolist()),
        p_value=float(scipy.stats.chi2.sf(statistic, len(x) - 2)) if len(x) > 2 else 1.0,
        kind=kind,
    )
