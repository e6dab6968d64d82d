"""The Frechet distance against closed forms and scipy's matrix root; its bias; ratios by bootstrap."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import linalg

from sdesig._intervals import paired_ratio, root_mean_square
from sdesig.evaluation.frechet import FeatureStatistics, frechet_distance, frechet_ratio

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def gaussian(mean, covariance, n=100):
    return FeatureStatistics(torch.as_tensor(mean, dtype=F64), torch.as_tensor(covariance, dtype=F64), n)


def random_covariance(dim, seed):
    factor = normal(dim, dim, seed=seed)
    return factor @ factor.mT + 0.01 * torch.eye(dim, dtype=F64)


def by_scipy(one, other):
    """Heusel et al. 2017, eq. 6, with scipy's root of the product C C', which is not symmetric."""
    root = linalg.sqrtm(one.covariance.numpy() @ other.covariance.numpy())
    trace = np.trace(one.covariance.numpy() + other.covariance.numpy() - 2 * root.real)
    return float(((one.mean - other.mean) ** 2).sum()) + trace


def test_diagonal_gaussians():
    """sum (m - m')^2 + (s - s')^2."""
    means, stds = np.array([[0.0, 1.0, -2.0], [0.5, 1.0, 3.0]]), np.array([[1.0, 0.2, 3.0], [2.0, 0.0, 0.5]])
    one, other = (gaussian(m, np.diag(s**2)) for m, s in zip(means, stds, strict=True))
    expected = ((means[0] - means[1]) ** 2 + (stds[0] - stds[1]) ** 2).sum()
    assert one.distance(other) == pytest.approx(expected, rel=1e-12)


def test_rotated_gaussians():
    """A rotation of both changes nothing; a rotation of one by an angle in the plane has a closed form."""
    one, other = gaussian([0.0, 1.0], np.diag([4.0, 1.0])), gaussian([2.0, 0.0], np.diag([0.5, 9.0]))
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=F64)
    turned = [gaussian(turn @ s.mean, turn @ s.covariance @ turn.mT) for s in (one, other)]
    assert turned[0].distance(turned[1]) == pytest.approx(one.distance(other), rel=1e-12)
    # tr (A B)^(1/2) of 2 x 2 matrices: sqrt(tr AB + 2 sqrt(det AB))
    a, b = one.covariance, turn @ one.covariance @ turn.mT
    cross = math.sqrt(torch.trace(a @ b) + 2 * math.sqrt(torch.linalg.det(a @ b)))
    expected = (a.trace() + b.trace()).item() - 2 * cross
    assert gaussian([0.0, 0.0], a).distance(gaussian([0.0, 0.0], b)) == pytest.approx(expected, rel=1e-12)
    assert expected > 0.5


@pytest.mark.parametrize("dim", [1, 2, 5, 20])
def test_any_gaussians_by_scipy(dim):
    one, other = (gaussian(normal(dim, seed=k), random_covariance(dim, k + 10)) for k in (0, 1))
    assert one.distance(other) == pytest.approx(by_scipy(one, other), rel=1e-8)
    assert one.distance(other) == pytest.approx(other.distance(one), rel=1e-9)


def test_singular_covariances():
    """Where the matrix root does not exist the distance does."""
    flat = gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]])
    assert flat.distance(gaussian([0.0, 0.0], np.zeros((2, 2)))) == pytest.approx(2.0, rel=1e-12)
    assert flat.distance(flat) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dim", [1, 3, 30])
def test_the_distance_to_itself_is_zero(dim):
    one = FeatureStatistics.of(normal(100, dim))
    assert one.distance(one) == pytest.approx(0.0, abs=1e-11)
    shifted = gaussian(one.mean + 0.1, one.covariance)
    assert one.distance(shifted) == pytest.approx(0.01 * dim, rel=1e-8)


def test_statistics_are_those_of_numpy():
    features = normal(50, 4, dtype=torch.float32)
    found = FeatureStatistics.of(features)
    values = features.numpy().astype(np.float64)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False), rtol=1e-11)
    assert (found.n, found.mean.dtype, found.covariance.dtype) == (50, F64, F64)
    assert FeatureStatistics.of(features[:, :1]).covariance.shape == (1, 1)


def test_the_bias_falls_like_one_over_n():
    """For n samples of N(0, I) against that law: k/n for the mean, and k (k + 1)/(4 n) + o(1/n) for the covariance.

    Means over 200 sets of samples, each known to 3 %; bounds are 5 standard errors away, and seeded.
    """
    dim, real = 6, gaussian(np.zeros(6), np.eye(6))

    def bias(n):
        return np.mean([FeatureStatistics.of(normal(n, dim, seed=1000 * n + k)).distance(real) for k in range(200)])

    values = [bias(n) for n in (100, 400, 1600)]
    assert values[0] > values[1] > values[2] > 0
    for large, small in pairwise(values):
        assert 3.2 < large / small < 4.9
    assert values[2] == pytest.approx((dim + dim * (dim + 1) / 4) / 1600, rel=0.15)


# --- standard errors -------------------------------------------------------------------------------------------------


def test_the_standard_error_in_one_dimension():
    """(m - m')^2 + (s - s')^2 of normal features: by the delta method 4 (m - m')^2 s^2/n + 2 (s - s')^2 s^2/n. The
    sample's is within 3 % at n = 10^5, ten standard errors."""
    n = 100_000
    features = 0.5 + 2 * normal(n, 1)
    found = frechet_distance(features, gaussian([0.0], [[1.0]]))
    assert found.value == pytest.approx(0.25 + 1.0, rel=0.03)
    assert found.standard_error == pytest.approx(math.sqrt((4 * 0.25 * 4 + 2 * 1.0 * 4) / n), rel=0.03)
    assert found.n == n


def test_the_influence_is_the_derivative():
    """The standard error is sqrt(sum psi^2/(n - 1)/n), psi n times the change when a sample is weighted more: by
    weighing each of 40 samples by 1e-5 more, up to the differences' error."""
    features, real = normal(40, 3) @ random_covariance(3, 5), gaussian([0.3, 0.0, 1.0], random_covariance(3, 2))

    def weighted(weights):
        mean = weights @ features / weights.sum()
        centred = features - mean
        covariance = (weights[:, None] * centred).T @ centred / weights.sum()
        return FeatureStatistics(mean, covariance, 40).distance(real)

    ones, psi = torch.ones(40, dtype=F64), []
    for k in range(40):
        change = torch.zeros(40, dtype=F64)
        change[k] = 1e-5
        psi.append(40 * (weighted(ones + change) - weighted(ones - change)) / 2e-5)
    expected = torch.tensor(psi, dtype=F64).std().item() / math.sqrt(40)
    assert frechet_distance(features, real).standard_error == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_the_standard_error_against_repeats_and_the_bootstrap(shift):
    """Features of 16 dimensions, skewed, at n = 400. At a distance it is the spread of 300 repeats, known to 4 %, and
    of 300 bootstraps; where the distance is all bias both are on the safe side, by a half at most."""
    real = gaussian(np.zeros(16), np.eye(16))

    def draw(seed):
        values = normal(400, 16, seed=seed)
        return 0.8 * values + 0.3 * (values.square() - 1) + shift / 4

    found = [frechet_distance(draw(seed), real) for seed in range(300)]
    spread = np.std([estimate.value for estimate in found])
    mean = np.mean([estimate.standard_error for estimate in found])
    assert 0.85 < mean / spread < (1.2 if shift else 1.6)
    features = draw(0)
    rows = torch.randint(400, (300, 400), generator=seeded(1))
    bootstrap = np.std([real.distance(FeatureStatistics.of(features[k])) for k in rows])
    assert found[0].standard_error == pytest.approx(bootstrap, rel=0.3)


def test_the_transport_map():
    one, other = (gaussian(np.zeros(4), random_covariance(4, k)) for k in (1, 2))
    turn = other.transport(one.covariance)
    torch.testing.assert_close(turn @ one.covariance @ turn, other.covariance)
    assert torch.linalg.eigvalsh(turn).min() > 0
    flat = torch.diag(torch.tensor([1.0, 0.0], dtype=F64))
    torch.testing.assert_close(gaussian(np.zeros(2), np.eye(2)).transport(flat), flat)


# --- ratios ----------------------------------------------------------------------------------------------------------


def test_the_ratio_of_two_samples_of_one_law_covers_one():
    """In about 95 % of sets of samples: of 40 intervals fewer than 32 would happen with a probability of 1e-3 if they
    covered 1 in 95 %; the bootstrap of a biased distance covers a little less; seeded."""
    real = gaussian([0.5, 0.0, 0.0], np.eye(3))  # at a distance, or its bias would be all there is
    covered = 0
    for seed in range(40):
        one, other = normal(300, 3, seed=2 * seed), normal(300, 3, seed=2 * seed + 1)
        _, low, high = frechet_ratio(one, other, real, resamples=100, seed=seed)
        assert low < high
        covered += low <= 1 <= high
    assert covered >= 32


def test_the_ratio_of_two_laws_does_not_cover_one():
    real = gaussian([0.5, 0.0, 0.0], np.eye(3))
    near, far = normal(500, 3, seed=0), normal(500, 3, seed=1) - torch.tensor([0.5, 0.0, 0.0], dtype=F64)
    ratio, low, high = frechet_ratio(near, far, real, resamples=100)
    assert low < ratio < high < 0.6
    assert ratio == pytest.approx(
        real.distance(FeatureStatistics.of(near)) / real.distance(FeatureStatistics.of(far)), rel=1e-12
    )
    inverse, *_ = frechet_ratio(far, near, real, resamples=100)
    assert inverse == pytest.approx(1 / ratio, rel=1e-9)


def test_the_same_features_have_the_ratio_one():
    real, features = gaussian([0.5, 0.0], np.eye(2)), normal(50, 2)
    assert frechet_ratio(features, features, real, resamples=20) == (1.0, 1.0, 1.0)


def test_a_seed_gives_one_interval():
    real, one, other = gaussian([0.5, 0.0], np.eye(2)), normal(50, 2, seed=1), normal(50, 2, seed=2)
    found = [frechet_ratio(one, other, real, resamples=20, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0][0] == found[2][0]
    assert found[0][1:] != found[2][1:]


# --- root mean squares -----------------------------------------------------------------------------------------------


def test_the_root_mean_square_and_its_standard_error():
    """Of normal errors of standard deviation s: s/sqrt(2 n). Within 5 standard errors, a false-alarm rate of 1e-6."""
    errors = 3 * normal(20_000)
    value, error = root_mean_square(errors)
    assert value == pytest.approx(np.sqrt(np.mean(errors.numpy() ** 2)), rel=1e-12)
    assert error == pytest.approx(3 / math.sqrt(2 * 20_000), rel=0.03)
    assert abs(value - 3) < 5 * error
    assert root_mean_square(torch.zeros(5)) == (0.0, 0.0)


def test_the_ratio_of_errors_on_the_same_paths():
    """Errors that are proportional have a ratio without an interval, others have one that covers it."""
    errors = normal(2000)
    ratio, low, high = paired_ratio(2 * errors, errors)
    assert (ratio, low, high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-12)
    other = errors + 0.5 * normal(2000, seed=1)
    ratio, low, high = paired_ratio(errors, other)
    assert low < 1 / math.sqrt(1.25) < high
    assert 0 < high - low < 0.1
    with pytest.raises(ValueError, match=r"errors must both have shape \(n,\)"):
        paired_ratio(errors, errors[:-1])


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: FeatureStatistics.of(normal(5)), r"features must have shape \(n >= 2, k\); got \(5,\)"),
        (lambda: FeatureStatistics.of(normal(1, 5)), r"features must have shape \(n >= 2, k\); got \(1, 5\)"),
        (lambda: FeatureStatistics.of(normal(5, 2, 2)), r"features must have shape \(n >= 2, k\); got \(5, 2, 2\)"),
        (lambda: FeatureStatistics.of(torch.tensor([[1.0], [math.nan]])), "features must be finite"),
        (lambda: FeatureStatistics.of(torch.tensor([[1.0], [math.inf]])), "features must be finite"),
        (
            lambda: frechet_ratio(normal(5, 2), normal(6, 2), gaussian([0.0, 0.0], np.eye(2))),
            r"features must be of the same seeds; got \(5, 2\) and \(6, 2\)",
        ),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
