"""The Frechet distance between the Gaussians of two sets of features: its ratios, and its limit for many samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesig._random import generator_for

PARTS = (1, 2, 4)
"""Numbers of equal parts of the samples, whose distances are extrapolated to infinitely many samples."""
GROUPS = 10
"""Groups of the jackknife that says how far the extrapolation is off."""


class Estimate(NamedTuple):
    """A number from n samples, and its standard error."""

    value: float
    standard_error: float
    n: int


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean, (k,), and covariance, (k, k), of n feature vectors, in float64."""

    mean: Tensor
    covariance: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """From features (n, k), on the CPU; n > k, or the covariance is singular.

        Raises:
            ValueError: another shape, n <= 1, or values that are not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features must have shape (n >= 2, k); got {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("features must be finite")
        values = features.double()
        return cls(values.mean(0).cpu(), torch.atleast_2d(torch.cov(values.T)).cpu(), len(values))

    def distance(self, other: FeatureStatistics) -> float:
        """|m - m'|^2 + tr(C + C' - 2 (C^{1/2} C' C^{1/2})^{1/2}) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

        This is the squared distance, as is usual. It is biased upwards by O(1/n): compare at equal n only.
        """
        root = self._root
        cross = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
        trace = self.covariance.trace() + other.covariance.trace() - 2 * cross
        return max(0.0, ((self.mean - other.mean).square().sum() + trace).item())

    @cached_property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T

    def transport(self, covariance: Tensor) -> Tensor:
        """T with T C T = this covariance, for a covariance C: the map that is optimal between the two, (k, k).

        Where C is singular it vanishes.
        """
        values, vectors = torch.linalg.eigh(self._root @ covariance @ self._root)
        least = values.amax().clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
        root = self._root @ vectors
        return root * torch.where(values > least, values, math.inf).rsqrt() @ root.T


def frechet_distance(features: Tensor, real: FeatureStatistics, real_features: Tensor | None = None) -> Estimate:
    """The Frechet distance of features, (n, k), to real ones, and its standard error over the samples.

    The standard error is that of the infinitesimal jackknife (Efron 1982, section 6): the distance moves with a sample
    x by psi(x) = 2 (m - m') (x - m) + (x - m)^T (1 - T) (x - m) + constant, T = `transport`, and its standard error is
    that of a mean of psi. As the bootstrap's it errs to the safe side: 1.0 to 1.5 times the spread of independent
    repeats, most where n is not much larger than k or the distance is all bias. The bias, O(1/n), is not in it.

    Args:
        features: of the samples.
        real: statistics of what they are compared with.
        real_features: the features that `real` are the statistics of, (m, k), independent of the others: their error is
            then in the standard error, up to 1.7 times too large between samples of one law. None: `real` counts as
            exact, as all rows of a table share it.

    Raises:
        ValueError: see `FeatureStatistics.of`.
    """
    own = FeatureStatistics.of(features)
    error = _jackknife_error(features, own, real)
    if real_features is not None:
        error = math.hypot(error, _jackknife_error(real_features, real, own))
    return Estimate(real.distance(own), error, len(features))


def _jackknife_error(features: Tensor, own: FeatureStatistics, other: FeatureStatistics) -> float:
    """Standard error of the distance, over the features of one side, whose statistics are `own`."""
    centred = features.double().cpu() - own.mean
    curvature = torch.eye(len(own.mean), dtype=torch.float64) - other.transport(own.covariance)
    influence = 2 * centred @ (own.mean - other.mean) + ((centred @ curvature) * centred).sum(1)
    return influence.std().item() / len(features) ** 0.5


class FeatureSums:
    """Sums of feature vectors and of their outer products, in float64: of batches, or of the parts of processes.

    Statistics of merged sums are those of all features, however they were divided; an average of covariances is not.

    Args:
        size: of a feature vector, k.
    """

    def __init__(self, size: int) -> None:
        self.n = 0
        self.total = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add features, (n, k).

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.total):
            raise ValueError(f"features must have shape (n, {len(self.total)}); got {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("features must be finite")
        values = features.to(self.total)
        self._add(len(values), values.sum(0), values.T @ values)

    def merge(self, other: FeatureSums) -> None:
        """Add the sums of others."""
        self._add(other.n, other.total, other.products)

    def statistics(self) -> FeatureStatistics:
        """The statistics of all that was added; raise ValueError for n < 2."""
        if self.n < 2:
            raise ValueError(f"statistics must be of n >= 2 features; got {self.n}")
        mean = self.total / self.n
        covariance = (self.products - self.n * torch.outer(mean, mean)) / (self.n - 1)
        return FeatureStatistics(mean.cpu(), covariance.cpu(), self.n)

    def _add(self, n: int, total: Tensor, products: Tensor) -> None:
        """Not in place: a shallow copy has the same tensors."""
        self.n, self.total, self.products = self.n + n, self.total + total, self.products + products


def extrapolated_distance(features: Tensor, real: FeatureStatistics, *, seed: int = 0) -> Estimate:
    """The Frechet distance without the bias of few samples: linear in 1/n, and extrapolated to 1/n = 0 (Chong and
    Forsyth 2020, arXiv 1911.07023, section 4).

    The distances are means over equal parts of the samples, 1, 2 and 4, so that all samples count alike. The standard
    error is that of the samples, by a jackknife over tenths of them, with `real` as exact. Where the distance is no
    larger than its bias, the extrapolation may be negative, and the standard error is too large: by a half at zero.

    Args:
        features: (n, k), with more than k in the least part: below that the bias is not linear.
        real: what the distance is to.
        seed: of the random division into parts.

    Raises:
        ValueError: too few features, or see `FeatureStatistics.of`.
    """
    if features.ndim != 2 or len(features) < fewest_for_extrapolation(features.shape[1]):
        fewest = f"(n >= {fewest_for_extrapolation(features.shape[-1])}, {features.shape[-1]})"
        raise ValueError(
            f"features must have shape {fewest} to extrapolate their distance; got {tuple(features.shape)}"
        )
    order = torch.randperm(len(features), generator=generator_for("parts of features", seed)).to(features.device)
    # every tenth is left out, so that all parts lose alike and stay what they are
    group = torch.arange(len(features), device=features.device) % GROUPS
    without = [_at_infinity(features[order[group != k]], real) for k in range(GROUPS)]
    error = float(np.std(without)) * (GROUPS - 1) ** 0.5
    return Estimate(_at_infinity(features[order], real), error, len(features))


def fewest_for_extrapolation(size: int) -> int:
    """How many feature vectors of a size `extrapolated_distance` needs."""
    return -(-(size + 2) * max(PARTS) * GROUPS // (GROUPS - 1))


def _at_infinity(features: Tensor, real: FeatureStatistics) -> float:
    distances = [np.mean([real.distance(FeatureStatistics.of(v)) for v in features.tensor_split(p)]) for p in PARTS]
    return float(np.polyfit(np.array(PARTS) / len(features), distances, 1)[1])


def frechet_ratio(
    features: Tensor, others: Tensor, real: FeatureStatistics, *, resamples: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """Distance of features over that of others, both to the same real ones, with a 95 % interval.

    The bootstrap resamples the n seeds, of which both have one feature vector each: (n, k).
    """
    if features.shape != others.shape:
        raise ValueError(f"features must be of the same seeds; got {tuple(features.shape)} and {tuple(others.shape)}")
    generator = torch.Generator().manual_seed(seed)

    def ratio(rows: Tensor) -> float:
        one, two = (FeatureStatistics.of(values[rows]) for values in (features, others))
        return real.distance(one) / real.distance(two)

    n = len(features)
    drawn = [ratio(torch.randint(n, (n,), generator=generator)) for _ in range(resamples)]
    low, high = torch.tensor(drawn).double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return ratio(torch.arange(n)), low, high
