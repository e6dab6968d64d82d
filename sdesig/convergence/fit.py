"""From errors per step count and path to an order with a confidence interval: pure functions, no SDE in sight."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sdesig._checks import check_floating, check_integer
from sdesig._intervals import NORMAL, effective_number, mean_interval, rms_and_error, standard_error
from sdesig.convergence.estimate import OrderEstimate

_GAUSS_NEWTON = 8
CURVATURE = 0.02
"""By how much (relative, rms) an error may be off the power law. It keeps the fit off differences between step counts
that are so correlated that their noise cancels, where it would see little but the curvature of the power law."""

MASK_TRUTH = 8.0
"""An error counts only above this multiple of the error of its truth. Errors of solution and truth that are
independent then move log2 error by .01, fully coherent ones by .19, and the slope over 5 step counts by .04 at most."""

MASK_NOISE = 3.0
"""A weak error counts only above this multiple of its standard error."""


def fit_strong(errors: Tensor, steps: Sequence[int], *, floors: Tensor | float = 0.0) -> OrderEstimate:
    """Strong order from pathwise errors: the error of a step count is sqrt(E error^2).

    The order is that of the least-squares line through the log errors, whose weights no chance chooses. The influence
    of each path on it is found by leaving it out (jackknife). The interval is Student's, with as many degrees of
    freedom as paths make the variance of these influences: with multiplicative noise that may be four of a thousand.

    Args:
        errors: norms |Y_N - Y| per step count and path, (step counts, paths), the same paths for all.
        steps: the step counts N, increasing.
        floors: per step count, (step counts,) or a number: what the truth's own error makes of the RMS error, and
            rounding. From the coarsest on, errors are used until the first that is not above `MASK_TRUTH` floors.

    Raises:
        TypeError, ValueError: errors or steps that do not fit; fewer than two errors above the floor.
    """
    count = _check(errors, steps, 2)
    sizes, standard_errors = rms_and_error(errors)
    thresholds = MASK_TRUTH * torch.as_tensor(floors).to(sizes).expand(count)
    used = (sizes > thresholds).cumprod(0).bool()
    design, e = _to_fit(used, sizes, steps, thresholds)
    squares, paths = errors[used].square(), errors.shape[1]
    share = squares / squares.sum(1, keepdim=True)
    left_out = torch.log1p(-share.clamp_max(1 - torch.finfo(share.dtype).eps)) / 2
    influence = (paths - 1) * (left_out.mean(1, keepdim=True) - left_out)
    solution = torch.linalg.pinv(design)
    parameters = solution @ e.log()
    fit = _Line(design, parameters, solution[1], e.log() - design @ parameters, influence)
    effective = effective_number(errors[used]).min().item()
    return _estimate("strong", steps, sizes, standard_errors, thresholds, used, fit, effective)


def fit_weak(errors: Tensor, steps: Sequence[int], *, floors: Tensor | float = 0.0) -> OrderEstimate:
    """Weak order from samples whose means are the errors: the error of a step count is |E sample|, Euclidean.

    An error is at the Monte-Carlo floor if it is not above `MASK_NOISE` standard errors. All errors of more steps than
    the first such one are masked with it, however large chance made them; errors just above the floor weigh little.
    Errors of fewer steps than a change of sign (for k > 1: of direction, by more than a right angle) are masked too:
    the leading term of the error does not rule there.

    The line constant * N^-order is fitted by generalized least squares of relative residuals, by Gauss-Newton steps. To
    first order that is the line through the log errors, with their covariance. But chance, which makes log errors near
    the Monte-Carlo floor skew, and makes small errors look noisier than large ones, does not flatten it. The interval
    is that of `fit_strong`.

    Args:
        errors: e.g. phi(Y_N) - phi(Y) per step count and sample, (step counts, samples[, k]).
        steps, floors: as in `fit_strong`; the standard errors are found here.

    Raises:
        TypeError, ValueError: as `fit_strong`.
    """
    count = _check(errors, steps, 3)
    samples = errors.reshape(*errors.shape[:2], -1)
    means = samples.mean(1)
    sizes = means.norm(dim=-1)
    centred = samples - means[:, None]
    along = torch.einsum("lnk,lk->ln", centred, means / torch.where(sizes > 0, sizes, 1.0)[:, None])
    low, high = mean_interval(samples.mT)
    standard_errors = torch.maximum(high - means, means - low).norm(dim=-1) / NORMAL
    of_truth = MASK_TRUTH * torch.as_tensor(floors).to(sizes).expand(count)
    thresholds = torch.maximum(of_truth, MASK_NOISE * standard_errors)
    used = (sizes > thresholds).cumprod(0).bool()
    turns = ((means[:-1] * means[1:]).sum(-1) < 0) & used[1:]
    used[: int(turns.nonzero().max()) + 1 if turns.any() else 0] = False
    design, e = _to_fit(used, sizes, steps, thresholds)
    along = along[used]
    line = design @ torch.linalg.lstsq(design, e.log()).solution
    for _ in range(_GAUSS_NEWTON):
        fitted = line.exp()
        influence, residual = along / fitted[:, None], e / fitted - 1
        inverse = torch.linalg.inv(_covariance(influence))
        solution = torch.linalg.solve(design.T @ inverse @ design, design.T @ inverse)
        parameters = solution @ (line + residual)
        line = design @ parameters
    fit = _Line(design, parameters, solution[1], residual, influence)
    effective = effective_number(along).min().item()
    return _estimate("weak", steps, sizes, standard_errors, thresholds, used, fit, effective)


def check_steps(steps: object) -> tuple[int, ...]:
    """Return numbers of steps as a tuple of ints; raise unless there are at least two and they increase."""
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise TypeError(f"steps must be a sequence of integers; got {steps!r}")
    counts = tuple(check_integer(f"steps[{k}]", n, 1) for k, n in enumerate(steps))
    if len(counts) < 2 or any(n >= m for n, m in pairwise(counts)):
        raise ValueError(f"steps must be two or more numbers of steps that increase; got {counts}")
    return counts


def _check(errors: Tensor, steps: Sequence[int], most_axes: int) -> int:
    count = len(check_steps(steps))
    if not 2 <= check_floating("errors", errors).ndim <= most_axes or len(errors) != count or errors.shape[1] < 2:
        raise ValueError(f"errors must have shape ({count} step counts, >= 2 samples); got {tuple(errors.shape)}")
    if not bool(errors.isfinite().all()):
        raise ValueError("errors must be finite")
    return count


class _Line(NamedTuple):
    """A fitted line.

    Attributes:
        design: rows (1, -log N) of the used errors, (used, 2).
        parameters: log constant and order.
        weights: weights of the log errors in the order, (used,).
        residual: the log errors less the line, (used,).
        influence: influence of each sample on the log errors, (used, samples).
    """

    design: Tensor
    parameters: Tensor
    weights: Tensor
    residual: Tensor
    influence: Tensor


def _covariance(influence: Tensor) -> Tensor:
    """Covariance of estimates from the influences of n samples on them, (errors, n) to (errors, errors).

    It has the noise of the samples, and `CURVATURE` independently of it.
    """
    count, n = influence.shape
    return influence @ influence.T / (n * (n - 1)) + CURVATURE**2 * torch.eye(count).to(influence)


def _to_fit(used: Tensor, errors: Tensor, steps: Sequence[int], floors: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (1, -log N) of the used errors, and these errors; raise ValueError if they are fewer than two."""
    if used.sum() < 2:
        raise ValueError(
            f"fewer than two errors can be fitted: they must be above the floor, and weak errors also on one side of a "
            f"change of sign; got errors {errors.tolist()} at steps {tuple(steps)}, floors {floors.tolist()}. Take "
            f"fewer steps, more paths, or a better truth: more steps, or a truth_scheme of higher order"
        )
    x = -torch.tensor(steps).to(errors).log()[used]
    return torch.stack([torch.ones_like(x), x], 1), errors[used]


def _estimate(
    kind: str,
    steps: Sequence[int],
    errors: Tensor,
    standard_errors: Tensor,
    floors: Tensor,
    used: Tensor,
    fit: _Line,
    effective: float,
) -> OrderEstimate:
    """The estimate of a line, its interval widened by what the residuals exceed noise and `CURVATURE`."""
    from scipy.special import fdtrc  # a quarter of a second

    design, x, residual = fit.design, fit.design[:, 1], fit.residual
    covariance = _covariance(fit.influence)
    inverse = torch.linalg.inv(covariance)
    residual = residual - design @ torch.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ residual)
    statistic, freedom = (residual @ inverse @ residual).item(), len(x) - 2
    excess = max(0.0, statistic / freedom - 1) if freedom else 0.0
    on_order = fit.weights @ fit.influence
    noise, paths = standard_error(on_order), effective_number(on_order).item()
    half_width = NORMAL * (noise.square() + excess * (fit.weights @ covariance @ fit.weights)).sqrt().item()
    difference = torch.eye(len(x)).to(x).diff(dim=0) / x.diff()[:, None]
    constant, order = fit.parameters[0].exp().item(), fit.parameters[1].item()
    return OrderEstimate(
        order=order,
        ci_low=order - half_width,
        ci_high=order + half_width,
        steps=tuple(steps),
        errors=tuple(errors.tolist()),
        standard_errors=tuple(standard_errors.tolist()),
        used=tuple(used.tolist()),
        floors=tuple(floors.tolist()),
        constant=constant,
        slopes=tuple((difference @ errors[used].log()).tolist()),
        slope_errors=tuple(standard_error(difference @ fit.influence).tolist()),
        p_value=float(fdtrc(freedom, paths, statistic / freedom)) if freedom else 1.0,
        kind=kind,
        effective_paths=effective,
    )
