"""The Frechet distance of marginals: by hand, against the full one, its bias and its standard error."""

import math

import pytest
import torch

from sdesig.evaluation import FeatureStatistics
from sdesig.sampling import GaussianReference, marginal_distance

F64 = torch.float64
PLAIN = GaussianReference(0.0, 0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, *event, seed=0):
    return torch.randn(n, *event, generator=seeded(seed), dtype=F64)


def with_moments(mean, deviation):
    """Four samples that have these means and standard deviations exactly."""
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)[:, None] * math.sqrt(3 / 4)
    return torch.tensor(mean, dtype=F64) + signs * torch.tensor(deviation, dtype=F64)


def test_by_hand():
    """Means (1, 0) and (0, 0), deviations (2, 1) and (1, 1.5): (1 + 0 + 1 + .25)/2."""
    found, _ = marginal_distance(with_moments([1.0, 0.0], [2.0, 1.0]), with_moments([0.0, 0.0], [1.0, 1.5]), PLAIN)
    assert found == pytest.approx(2.25 / 2, rel=1e-12)


def test_of_independent_coordinates_it_is_the_full_distance():
    """Samples whose covariance is diagonal exactly, in a turned basis, where the full distance does not change."""
    turn = torch.linalg.qr(normal(3, 3)).Q
    own, other = normal(50, 3, seed=1), normal(50, 3, seed=2)
    own, other = (torch.linalg.qr(x - x.mean(0)).Q for x in (own, other))
    own, other = own * torch.tensor([3.0, 1.0, 0.5]) + 0.3, other * torch.tensor([1.0, 2.0, 0.5])
    full = FeatureStatistics.of(own @ turn.T).distance(FeatureStatistics.of(other @ turn.T))
    found, _ = marginal_distance(own @ turn.T, other @ turn.T, GaussianReference(0.0, 0.0, turn))
    assert found == pytest.approx(full / 3, rel=1e-9)
    elsewhere, _ = marginal_distance(own @ turn.T, other @ turn.T, PLAIN)
    assert elsewhere < 0.999 * found  # a basis that hides a part of it


def test_grain_is_seen_in_the_cosines_of_images():
    """White noise of deviation .1 raises every coordinate of variance c from sqrt(c) to sqrt(c + .01)."""
    n, smooth = 4000, GaussianReference.fit(normal(8, 4, 4), "dct")
    spectrum = torch.logspace(0, -3, 16, dtype=F64).reshape(4, 4)
    one, two = (smooth.from_basis(normal(n, 4, 4, seed=k) * spectrum.sqrt()) for k in (1, 2))
    found, error = marginal_distance(one + 0.1 * normal(n, 4, 4, seed=3), two, smooth)
    wanted = ((spectrum + 0.01).sqrt() - spectrum.sqrt()).square().mean().item()
    bias = 1.5 * (2 * spectrum + 0.01).mean().item() / n
    assert abs(found - wanted - bias) < 5 * error + 0.5 * bias
    assert found > 10 * marginal_distance(one, two, smooth)[0]


@pytest.mark.parametrize("n, others", [(50, 50), (50, 400), (400, 400)])
def test_the_bias_of_few_samples(n, others):
    """3/2 s^2 (1/n + 1/n') for normal coordinates: within 5 standard errors of 2000 coordinates, and O(1/n^2)."""
    deviation = torch.rand(2000, generator=seeded(5), dtype=F64) + 0.5
    found, _ = marginal_distance(normal(n, 2000, seed=1) * deviation, normal(others, 2000, seed=2) * deviation, PLAIN)
    wanted = 1.5 * deviation.square().mean().item() * (1 / n + 1 / others)
    # a coordinate's term is a square of deviation about 1.1 times its mean, s^4 varies too
    assert abs(found / wanted - 1) < 5 * 1.6 / 2000**0.5 + 2 / n


def test_the_bias_of_another_kurtosis():
    """Coordinates of 9/5, uniform ones: s^2 (1 + (k - 1)/4) (1/n + 1/n')."""
    n = 200
    own, other = (torch.rand(n, 4000, generator=seeded(k), dtype=F64) for k in (1, 2))
    found, _ = marginal_distance(own, other, PLAIN)
    assert found == pytest.approx(1 / 12 * (1 + 0.8 / 4) * 2 / n, rel=5 * 1.4 / 4000**0.5 + 2 / n)


def test_the_standard_error_is_the_spread_of_repeats():
    """200 repeats of 400 samples; 5 standard errors of a standard deviation are 25 %."""
    other = normal(5000, 3, seed=1)
    repeats = [marginal_distance(1.5 * normal(400, 3, seed=k) + 0.4, other, PLAIN) for k in range(2, 202)]
    values, errors = torch.tensor(repeats, dtype=F64).T
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.25)


def test_a_constant_coordinate_has_no_deviation():
    found = marginal_distance(torch.ones(5, 2), torch.zeros(5, 2), PLAIN)
    assert found == (1.0, 0.0)


@pytest.mark.parametrize(
    "samples, others, error, match",
    [
        (torch.zeros(1, 2), torch.zeros(5, 2), ValueError, "samples must have shape"),
        (torch.zeros(5, 3), torch.zeros(5, 2), ValueError, "samples must have shape"),
        (torch.zeros(5, 2), torch.zeros(1, 2), ValueError, "others must have shape"),
        (torch.full((5, 2), math.nan), torch.zeros(5, 2), ValueError, "samples must be finite"),
        (torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 2), TypeError, "samples must"),
    ],
)
def test_refusals(samples, others, error, match):
    with pytest.raises(error, match=match):
        marginal_distance(samples, others, PLAIN)
