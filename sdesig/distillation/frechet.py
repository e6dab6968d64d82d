"""The Frechet distance between the Gaussians of two sets of features, and ratios of it with their error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean, (k,), and covariance, (k, k), of n feature vectors, in float64."""

    mean: Tensor
    covariance: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """From features (n, k); n > k, or the covariance is singular.

        Raises:
            ValueError: another shape, n <= 1, or values that are not finite.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features must have shape (n >= 2, k); got {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("features must be finite")
        values = features.double()
        return cls(values.mean(0), torch.atleast_2d(torch.cov(values.T)), len(values))

    def distance(self, other: FeatureStatistics) -> float:
        """|m - m'|^2 + tr(C + C' - 2 (C^{1/2} C' C^{1/2})^{1/2}) (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

        This is the squared distance, as is usual. It is biased upwards by O(1/n): compare at equal n only.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
        trace = self.covariance.trace() + other.covariance.trace() - 2 * cross
        return max(0.0, ((self.mean - other.mean).square().sum() + trace).item())


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
