"""Checks of a sampler's law by z-scores with a stated false-alarm rate.

They take plain tensors, so that the output of any sampler fits. Every check compares the averages of k statistics over
n independent samples with their exact expectations, and passes if all k z-scores stay below the two-sided Bonferroni
threshold, Phi^{-1}(1 - false_alarm_rate / (2 k)). A correct sampler then fails with a probability of at most
`false_alarm_rate`, as far as the z-scores are normal: have n >= 10^4. Below 1000 an error is raised.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdesig._checks import check_floating, check_real, check_step
from sdesig.signature import PartialSignature
from sdesig.testing.rows import Rows, area_rows, deterministic, gaussian_rows, studentized

MINIMUM_SAMPLES = 1000

VARIANCES = {"W": 1.0, "H": 1 / 12, "K": 1 / 720}
"""Variances of an increment, a space-time and a space-time-time area, at h = 1."""


@dataclass(frozen=True, eq=False)
class LawReport:
    """z-scores of k statistics averaged over n samples.

    Attributes:
        names: names of the statistics.
        expected: exact expectations under the law in question, (k,), as all the tensors here on the CPU in float64.
        estimates: averages over the samples, (k,).
        standard_errors: standard errors of the estimates, (k,).
        z_scores: N(0, 1) under the law in question, approximately; (k,).
        threshold: the largest |z| that passes.
        false_alarm_rate: the probability that a correct sampler fails, at most.
        n: number of samples.
    """

    names: tuple[str, ...]
    expected: Tensor
    estimates: Tensor
    standard_errors: Tensor
    z_scores: Tensor
    threshold: float
    false_alarm_rate: float
    n: int

    @property
    def passed(self) -> bool:
        """Whether all |z| are within the threshold."""
        return not self._failing()

    @property
    def worst(self) -> str:
        """Name of the statistic with the largest |z|."""
        return self.names[int(self.z_scores.abs().argmax())]

    def __repr__(self) -> str:
        """One line: the verdict and the worst statistic."""
        z = self.z_scores[int(self.z_scores.abs().argmax())].item()
        return (
            f"LawReport({'passed' if self.passed else 'failed'}: {len(self.names)} statistics of n = {self.n} samples, "
            f"worst {self.worst} with z = {z:.2f}, threshold {self.threshold:.2f})"
        )

    def assert_passed(self) -> None:
        """Raise AssertionError with a table of the statistics that fail, worst first, if there are any."""
        failing = self._failing()
        if not failing:
            return
        width = max(len(self.names[k]) for k in failing)
        columns = (self.expected, self.estimates, self.standard_errors, self.z_scores)
        lines = [
            f"{len(failing)} of {len(self.names)} statistics of n = {self.n} samples have |z| > {self.threshold:.2f} "
            f"(false-alarm rate {self.false_alarm_rate:g})",
            f"{'statistic':{width}} {'expected':>12} {'estimate':>12} {'std. error':>12} {'z':>10}",
        ]
        for k in failing:
            expected, estimate, error, z = (column[k].item() for column in columns)
            lines.append(f"{self.names[k]:{width}} {expected:12.5g} {estimate:12.5g} {error:12.2g} {z:10.4g}")
        raise AssertionError("\n".join(lines))

    def _failing(self) -> list[int]:
        order = self.z_scores.abs().argsort(descending=True).tolist()
        return [k for k in order if not abs(self.z_scores[k].item()) <= self.threshold]


def check_moments(
    statistics: Tensor,
    expected: Tensor | Sequence[float],
    *,
    names: Sequence[str] | None = None,
    false_alarm_rate: float = 1e-6,
) -> LawReport:
    """Check that the k statistics have the expectations claimed.

    With t the difference in units of the sample standard error and g = sample skewness / sqrt(n), the z-score is

        z = t + g t^2/3 + g^2 t^3/27 + g/6,

    Hall's transformation of t, monotone, and normal up to O(1/n) where t itself is off by O(n^{-1/2}) if the statistics
    are skewed (P. Hall, J. R. Statist. Soc. B 54, 1992). For the fourth power of a Levy area at n = 10^4, |t| > 4 is 30
    times as frequent as for a normal variable, |z| > 4 three times; heavier tails need larger n. Standard errors are
    not taken below the rounding of the largest sample, so that a constant must equal its expectation to rounding.

    Args:
        statistics: independent samples of the k statistics, (n, k), n >= 1000.
        expected: E of each statistic, (k,).
        names: names of the statistics.
        false_alarm_rate: probability in (0, 1) that statistics with these expectations fail.

    Raises:
        TypeError, ValueError: shapes that do not fit, infinities or NaN, too few samples.
    """
    rate = _check_rate(false_alarm_rate)
    samples = _check_samples("statistics", statistics)
    count = samples.shape[1]
    means = torch.as_tensor(expected, dtype=torch.float64, device="cpu").detach()
    if means.shape != (count,) or not bool(means.isfinite().all()):
        raise ValueError(f"expected must be {count} finite numbers, one per statistic; got {expected!r}")
    labels = [f"statistic {k}" for k in range(count)] if names is None else list(names)
    if len(labels) != count:
        raise ValueError(f"names must be {count}, one per statistic; got {labels}")
    return _report([studentized(labels, samples, means, torch.finfo(statistics.dtype).eps)], len(samples), rate)


def check_gaussian(samples: Tensor, covariance: Tensor, *, false_alarm_rate: float = 1e-6) -> LawReport:
    """Check that the samples are N(0, C): means, covariances and the characteristic function.

    With s_i = sqrt(C_ii), the statistics are x_i, and for i <= j

        x_i x_j,    cos(x_i/s_i + x_j/s_j),    sin(x_i/s_i + x_j/s_j),

    with exact standard errors under N(0, C). The cosine at i = j detects a wrong kurtosis from fewer samples than the
    fourth moment does, and, being bounded, has an average that is normal even far out. If C is singular, the samples
    must vanish in the directions of its null space, up to the root of the rounding of C.

    Args:
        samples: independent samples, (n, k), n >= 1000.
        covariance: C, symmetric and positive semi-definite, (k, k).
        false_alarm_rate: probability in (0, 1) that N(0, C) fails.

    Raises:
        TypeError, ValueError: shapes that do not fit, infinities or NaN, too few samples, C not a covariance.
    """
    rate = _check_rate(false_alarm_rate)
    values = _check_samples("samples", samples)
    dim = values.shape[1]
    matrix = check_floating("covariance", covariance).detach().to("cpu", torch.float64)
    if matrix.shape != (dim, dim):
        raise ValueError(f"covariance must have shape ({dim}, {dim}); got {tuple(matrix.shape)}")
    if not bool(matrix.isfinite().all()):
        raise ValueError(f"covariance must be finite; got {matrix.tolist()}")
    eigenvalues, directions = torch.linalg.eigh((matrix + matrix.mT) / 2)
    rounding = torch.finfo(samples.dtype).eps
    negligible = 8 * dim * torch.finfo(covariance.dtype).eps * float(eigenvalues[-1].clamp_min(0.0))
    if float(eigenvalues[0]) < -negligible or float((matrix - matrix.mT).abs().max()) > negligible:
        raise ValueError(f"covariance must be symmetric and positive semi-definite; got {matrix.tolist()}")
    rows = gaussian_rows([f"x[{i}]" for i in range(dim)], values, matrix, rounding)
    null = directions[:, eigenvalues <= negligible]
    if null.shape[1]:
        deviation = (values @ null).square().mean().sqrt()
        scale = math.sqrt(negligible) + rounding * values.abs().max()
        rows.append(deterministic("rms of x in the null space of C", deviation, scale))
    return _report(rows, len(values), rate)


def check_brownian_step(
    h: float | Tensor,
    *,
    increment: Tensor,
    space_time_area: Tensor | None = None,
    space_time_time_area: Tensor | None = None,
    levy_area: Tensor | None = None,
    weak: bool = False,
    false_alarm_rate: float = 1e-6,
) -> LawReport:
    """Check the joint law of what is given of a d-dimensional Brownian motion on a step of length h.

    All statistics are of W/sqrt(h), H/sqrt(h), K/sqrt(h) and A/h, that is at h = 1. W, H, K are independent Gaussian
    with variances 1, 1/12, 1/720 (`check_gaussian`). Given W and the Brownian bridge, whose Levy area is B,

        A_ij = H_i W_j - W_i H_j + B_ij,

    (B, H) independent of W, and B_ij = 12 (K_i H_j - H_i K_j) plus a remainder uncorrelated with products of W, H, K.
    With z = x/2 and r = (W_i^2 + W_j^2)/2, q = 6 (H_i^2 + H_j^2) ~ Exp(1), Levy's formula gives

        E[exp(i x A_ij - s r)] = (z/sinh z) / (s + z coth z),
        E[exp(i x B_ij - s q)] = (z/sinh z) / (1 + 3 s (z coth z - 1)/z^2),
        E[exp(i x A_mi + i y A_mk)] = sech(sqrt(x^2 + y^2)/2),   i, k, m distinct,

    the first with W ~ N(0, I) in E[exp(i x A) | W] = (z/sinh z) exp(-r (z coth z - 1)) (P. Levy, 1951), the second by
    reading the W in A = H_i W_j - W_i H_j + B as the argument of a characteristic function of H, the third because A_mi
    and A_mk are independent Gaussian with one common variance V given W_m. Checked of A are

      - antisymmetry to rounding;
      - the moments A_ij, A_ij^2, A_ij^2 e^{-r}, and those of A_ij times W_i, W_j, W_i W_j; with H: times H_i, H_j,
        H_i H_j, H_i W_j, W_i H_j; with H and K: times K_i H_j, H_i K_j; for d >= 3: A_mi A_mk and A_mi A_mk W_i W_k;
      - unless `weak`: A_ij^4 and the three formulas above, at x = y of `rows.FREQUENCIES` and s = 0, 1 (the second
        one also with r instead of q).

    Weak approximations of the Levy area promise the moments only: the mean given W, H, K and the variance given W.

    Args:
        h: step length > 0, a float or one per sample, (n, 1).
        increment: W, (n, d), n >= 1000.
        space_time_area: H = (1/h) int (W_u - (u/h) W) du, (n, d).
        space_time_time_area: K = (1/h) int (1/2 - u/h) (W_u - (u/h) W) du, (n, d).
        levy_area: A_ij = 1/2 int (W_i dW_j - W_j dW_i), (n, d, d).
        weak: whether A is only a weak approximation.
        false_alarm_rate: probability in (0, 1) that Brownian motion fails.

    Raises:
        TypeError, ValueError: shapes that do not fit, infinities or NaN, too few samples, h not > 0.
    """
    rate = _check_rate(false_alarm_rate)
    step = check_step("h", h).detach().to("cpu", torch.float64)
    n, dim = _check_samples("increment", increment).shape
    if step.ndim and step.shape != (n, 1):
        raise ValueError(f"h must be a number or have shape ({n}, 1); got shape {tuple(step.shape)}")
    given = {
        "W": ("increment", increment),
        "H": ("space_time_area", space_time_area),
        "K": ("space_time_time_area", space_time_time_area),
    }
    values = {
        letter: _check_samples(field, value, (n, dim)) / step.sqrt()
        for letter, (field, value) in given.items()
        if value is not None
    }
    names = [f"{letter}[{i}]" for letter in values for i in range(dim)]
    variances = torch.tensor([VARIANCES[name[0]] for name in names], dtype=torch.float64)
    rounding = torch.finfo(increment.dtype).eps
    rows = gaussian_rows(names, torch.cat(list(values.values()), -1), torch.diag(variances), rounding)
    if levy_area is not None:
        area = _check_samples("levy_area", levy_area, (n, dim, dim)) / step.unsqueeze(-1)
        rows += area_rows(area, values, weak, torch.finfo(levy_area.dtype).eps)
    return _report(rows, n, rate)


def chen_deviation(whole: PartialSignature, first: PartialSignature, second: PartialSignature) -> float:
    """Largest deviation of `whole` from Chen's identity, first (x) second, in units of the dtype's rounding.

    Compares the step lengths, the Legendre coefficients up to the depth of `whole`, and the Levy areas in units of h,
    each relative to the largest entry (or 1, if that is larger). A path whose steps are consistent has deviations of a
    few units times the number of times they were joined.

    Raises:
        TypeError, ValueError: values that do not combine, or that have other depths, shapes or areas than `whole`.
    """
    combined = first.combine(second)
    mine, theirs = ((x.shape, x.depth, x.dtype, x.levy_area is None) for x in (whole, combined))
    if mine != theirs:
        raise ValueError(f"whole must agree with the combined steps in shape, depth, dtype, area; got {mine}, {theirs}")
    pairs = [(whole.coefficients, combined.coefficients), (whole.h / combined.h, torch.ones_like(combined.h))]
    if whole.levy_area is not None and combined.levy_area is not None:
        scale = combined.h.unsqueeze(-1)
        pairs.append((whole.levy_area / scale, combined.levy_area / scale))
    deviations = [(x - y).abs().max() / y.abs().max().clamp_min(1.0) for x, y in pairs if x.numel()]
    return max(float(deviation) for deviation in deviations) / torch.finfo(whole.dtype).eps


def _report(rows: list[Rows], n: int, rate: float) -> LawReport:
    names, *columns = zip(*rows, strict=True)
    labels = tuple(itertools.chain.from_iterable(names))
    expected, estimates, standard_errors, z_scores = (torch.cat(column) for column in columns)
    threshold = -torch.special.ndtri(torch.tensor(rate / (2 * len(labels)), dtype=torch.float64)).item()
    return LawReport(labels, expected, estimates, standard_errors, z_scores, threshold, rate, n)


def _check_rate(false_alarm_rate: float) -> float:
    rate = check_real("false_alarm_rate", false_alarm_rate, minimum=0.0, strict=True)
    if rate >= 1.0:
        raise ValueError(f"false_alarm_rate must be < 1; got {rate}")
    return rate


def _check_samples(name: str, value: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return `value` as float64 on the CPU; raise unless finite and of this shape (default (n >= 1000, k >= 1))."""
    value = check_floating(name, value)
    if shape is not None and value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(value.shape)}")
    if shape is None and (value.ndim != 2 or len(value) < MINIMUM_SAMPLES or value.shape[1] == 0):
        raise ValueError(f"{name} must have shape (n >= {MINIMUM_SAMPLES}, k >= 1); got {tuple(value.shape)}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite; got {int((~value.isfinite()).sum())} infinities or NaN")
    return value.detach().to("cpu", torch.float64)
