"""How good samples are: distances to the same seeds' converged paths, and of features to those of data.

Images have 256 levels, as files have, and every measured number carries what it depends on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdesig._checks import check_integer
from sdesig._random import generator_for
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance, ReferenceStatistics
from sdesig.evaluation.frechet import Estimate, extrapolated_distance, fewest_for_extrapolation, frechet_distance

APART = 0.5
"""Standard deviations beyond which a seed ends apart from its converged path: about a third of the distance between
independent samples, and in a mixture of eight separate modes most of that between neighbours."""
TO_THE_LAW = " to the law"
"""What the names of distances to the teacher's own law end in."""
PARTS, NEIGHBOURS = 10, 3
"""Parts of a kernel distance, and the k of precision and recall."""
_ROWS = 1024
"""Rows of a matrix of distances that are in memory at once."""


@dataclass(frozen=True)
class Measured:
    """A reported number; `dataclasses.asdict` makes it JSON-serializable.

    Attributes:
        metric: its name.
        value: the number.
        standard_error: over the samples; None where there is none that is honest.
        n: samples.
        seeds: the first and the last.
        ema: whether the sampled network was a moving average; None if unknown.
        extractor, extractor_digest: what samples were compared by, and its sha256.
        reference_digest: sha256 of what they were compared with.
        quantization: dtype of the samples.
    """

    metric: str
    value: float
    standard_error: float | None
    n: int
    seeds: tuple[int, int]
    ema: bool | None
    extractor: str
    extractor_digest: str
    reference_digest: str
    quantization: str = "uint8"


def pathwise_errors(samples: Tensor, converged: Tensor) -> Tensor:
    """|x - x_ref|/sqrt(d) of samples to the converged paths of the same seeds, both (n, *event): (n,)."""
    return (samples - converged).flatten(1).norm(dim=1) / math.sqrt(converged[0].numel())


def spread_of(samples: Tensor) -> float:
    """Standard deviation of samples, (n, *event), root mean square over the coordinates; NaN for one sample."""
    return samples.flatten(1).double().var(0).mean().sqrt().item() if len(samples) > 1 else math.nan


def share_apart(errors: Tensor | None, spread: float) -> float | None:
    """Share of pathwise errors, (n,), beyond `APART` standard deviations `spread`; None without one of both.

    Where the root mean square says how far off samples are, this says how many are others: two independent samples are
    sqrt(2) standard deviations apart, root mean square.
    """
    return None if errors is None or math.isnan(spread) else (errors > APART * spread).double().mean().item()


def share_changed(samples: Tensor, converged: Tensor) -> tuple[float, float]:
    """Share of seeds whose sample is nearer to the converged one of another seed than to its own; standard error.

    Like `share_apart` it tells samples that are others from samples that are off. It needs no threshold, and measures
    distances in the samples' own scale: how far apart they are from each other. So it depends on n: among many seeds,
    or in few dimensions, neighbours are near, and small errors change them. The standard error is binomial.

    Args:
        samples: (n, *event), pixels or coordinates.
        converged: of the same seeds, (n, *event).

    Raises:
        ValueError: different shapes.
    """
    if samples.shape != converged.shape:
        raise ValueError(f"samples must have the shape {tuple(converged.shape)}; got {tuple(samples.shape)}")
    points, ends = samples.flatten(1), converged.flatten(1).double()
    changed = []
    for first, rows in zip(range(0, len(points), _ROWS), points.split(_ROWS), strict=True):
        distances = torch.cdist(rows.double(), ends)
        changed.append(distances.amin(1) < distances.diagonal(first))
    share = torch.cat(changed).double().mean().item()
    return share, math.sqrt(share * (1 - share) / len(samples))


def measure_samples(
    features: Tensor,
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    *,
    seeds: tuple[int, int],
    ema: bool | None,
    quantization: str = "uint8",
) -> list[Measured]:
    """Frechet distance, its limit for infinitely many samples, kernel distance, precision and recall, where n suffices.

    The Frechet distance itself is biased by its n: compare it at equal n. Precision and recall are of as many features
    of both as there are, and depend on n, too.

    Args:
        features: of the samples, (n, k), by `extract`.
        extractor: what made them.
        reference: of the data, by the same extractor.
        seeds: the first and the last of the samples.
        ema: whether the sampled network was a moving average.
        quantization: dtype of the samples.

    Raises:
        ValueError: a reference by another extractor, too few features.
    """
    if reference.extractor_digest != extractor.digest:
        raise ValueError(f"reference must be by the extractor {extractor.name} of the features; it is by another one")
    by = extractor.name, extractor.digest, reference.data_digest
    return [Measured(*number, seeds, ema, *by, quantization) for number in _numbers(features, extractor, reference)]


def _numbers(
    features: Tensor, extractor: FeatureExtractor, reference: ReferenceStatistics
) -> Iterator[tuple[str, float, float | None, int]]:
    """Names, values, standard errors and n."""
    frechet, fewer = extractor.frechet_name, min(len(features), len(reference.features))
    yield frechet, *frechet_distance(features, reference.statistics)
    if extractor.frechet_only:
        return
    if len(features) >= fewest_for_extrapolation(features.shape[1]):
        yield f"{frechet}, n to infinity", *extrapolated_distance(features, reference.statistics)
    if fewer >= 2 * PARTS:
        yield extractor.kernel_name, *kernel_distance(features, reference.features)
    if fewer > NEIGHBOURS:
        precision, recall = precision_recall(features[:fewer], reference.features[:fewer])
        yield f"precision ({extractor.name})", precision, None, fewer
        yield f"recall ({extractor.name})", recall, None, fewer


def measure_to_law(
    features: Tensor,
    extractor: FeatureExtractor,
    law: ReferenceStatistics,
    *,
    seeds: tuple[int, int],
    ema: bool | None,
    quantization: str = "uint8",
) -> list[Measured]:
    """Frechet distance and, where n suffices, kernel distance to the teacher's own law, which samples stand for.

    Other than in `measure_samples` the standard errors are over the samples of both: a law that is drawn is not exact.
    At the noise floor, between samples of one law, those of Frechet distances are up to 1.7 times too large, and
    kernel distances are skewed: about one in 40 is three standard errors below zero.

    Args:
        features, extractor, seeds, ema, quantization: as there.
        law: of samples of the law, with all their features, by the same extractor.
    """
    numbers = {extractor.frechet_name: frechet_distance(features, law.statistics, law.features)}
    if not extractor.frechet_only and min(len(features), len(law.features)) >= 2 * PARTS:
        numbers[extractor.kernel_name] = kernel_distance(features, law.features)
    by = extractor.name, extractor.digest, law.data_digest
    return [Measured(name + TO_THE_LAW, *number, seeds, ema, *by, quantization) for name, number in numbers.items()]


def measure_pairs(
    values: Tensor,
    distance: PerceptualDistance,
    *,
    reference_digest: str,
    seeds: tuple[int, int],
    ema: bool | None,
) -> Measured:
    """Mean perceptual distance of a student's images to the teacher's of the same seeds.

    Args:
        values: the distances of all pairs, (n >= 2,), by `pair_distances`.
        distance: what made them.
        reference_digest: of the teacher's images.
        seeds: the first and the last of both.
        ema: whether the student is a moving average.

    Raises:
        ValueError: too few values.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must have shape (n >= 2,); got {tuple(values.shape)}")
    estimate = _mean(values, len(values))
    return Measured(distance.name, *estimate, seeds, ema, distance.name, distance.digest, reference_digest)


def pair_distances(distance: PerceptualDistance, images: Tensor, others: Tensor, *, batch: int = 64) -> Tensor:
    """The distances of all pairs, (n,), float64 on the CPU, from `batch` of them at a time.

    Raises:
        TypeError, ValueError: other images, see `PerceptualDistance`.
    """
    check_integer("batch", batch, 1)
    if len(images) != len(others):
        raise ValueError(f"images and others must be of the same seeds; got {len(images)} and {len(others)}")
    pairs = zip(images.split(batch), others.split(batch), strict=True)
    return torch.cat([distance(*pair).double().cpu() for pair in pairs])


def kernel_distance(features: Tensor, others: Tensor, *, parts: int = PARTS, seed: int = 0) -> Estimate:
    """The kernel (inception) distance: `polynomial_mmd`, the mean over disjoint random parts of both.

    Unbiased at any number of samples, with a standard error from the parts, which are independent of each other. Usual
    are 100 random subsets of 1000 samples (Binkowski et al. 2018); they have the same mean, but overlap.

    Args:
        features: (n, k).
        others: (m, k).
        parts: how many, >= 2.
        seed: of the division into parts.

    Raises:
        ValueError: another shape, less than 2 features in a part.
    """
    check_integer("parts", parts, 2)
    for name, values in (("features", features), ("others", others)):
        if values.ndim != 2 or len(values) < 2 * parts or values.shape[1] != features.shape[1]:
            wanted = f"(n >= {2 * parts}, {features.shape[-1]})"
            raise ValueError(f"{name} must have shape {wanted} for {parts} parts; got {tuple(values.shape)}")
    generator = generator_for("parts of features", seed)
    one, other = (
        values[torch.randperm(len(values), generator=generator).to(values.device)].tensor_split(parts)
        for values in (features, others)
    )
    distances = torch.tensor([polynomial_mmd(a, b) for a, b in zip(one, other, strict=True)], dtype=torch.float64)
    return _mean(distances, len(features))


def polynomial_mmd(features: Tensor, others: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy with the kernel (x . y/k + 1)^3.

    Gretton et al. 2012, eq. 3; the kernel of Binkowski et al. 2018 (arXiv 1801.01401, section 4).

    Args:
        features: (n >= 2, k).
        others: (m >= 2, k).
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        matrix = kernel(x, x)
        return (matrix.sum() - matrix.trace()) / (len(x) * (len(x) - 1))

    x, y = features.double(), others.double()
    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()


def precision_recall(features: Tensor, others: Tensor, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Which part of the features lies in the manifold of the others, and which of the others in that of the features.

    The manifold of points is the union of the balls around them that reach to the k-th nearest other one
    (Kynkaanniemi et al. 2019, arXiv 1904.06991, eqs. 1-3).

    Args:
        features: of samples, (n, k).
        others: of data, as many: both numbers depend on n.
        neighbours: k.

    Raises:
        ValueError: different shapes, less than `neighbours` + 1 features.
    """
    check_integer("neighbours", neighbours, 1)
    if features.shape != others.shape or features.ndim != 2 or len(features) <= neighbours:
        shapes = f"{tuple(features.shape)} and {tuple(others.shape)}"
        raise ValueError(f"features and others must both have shape (n > {neighbours}, k); got {shapes}")
    one, other = features.double(), others.double().to(features.device)
    return _covered(one, other, neighbours), _covered(other, one, neighbours)


def _covered(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """The part of points in the manifold of the centres."""
    # the nearest to a centre is itself
    radii = torch.cat([torch.cdist(c, centres).kthvalue(neighbours + 1, 1).values for c in centres.split(_ROWS)])
    covered = torch.cat([(torch.cdist(rows, centres) <= radii).any(1) for rows in points.split(_ROWS)])
    return covered.double().mean().item()


def _mean(values: Tensor, n: int) -> Estimate:
    return Estimate(values.mean().item(), values.std().item() / len(values) ** 0.5, n)
