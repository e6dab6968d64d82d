"""Root mean squares, their standard errors, and paired ratios against closed forms and simulation."""

import math

import pytest
import torch
from scipy.stats import binom

from sdesig import _intervals as statistics
from sdesig._intervals import paired_ratio, root_mean_square, root_mean_square_interval

F64 = torch.float64


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- root mean square ------------------------------------------------------------------------------------------------


def test_root_mean_square_by_hand():
    """Squares 1, 4, 9, 16: mean 7.5, variance 43, hence sqrt(43/4)/(2 sqrt(7.5))."""
    value, error = root_mean_square(torch.tensor([1.0, -2.0, 3.0, 4.0]))
    assert value == pytest.approx(math.sqrt(7.5), rel=1e-12)
    assert error == pytest.approx(math.sqrt(43.0) / 2 / (2 * math.sqrt(7.5)), rel=1e-12)


def test_equal_errors_have_no_standard_error():
    assert root_mean_square(torch.full((5,), -0.5)) == (0.5, 0.0)
    assert root_mean_square(torch.zeros(3)) == (0.0, 0.0)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_it_scales(factor):
    errors = normals(50)
    value, error = root_mean_square(errors)
    assert root_mean_square(factor * errors) == (pytest.approx(factor * value), pytest.approx(factor * error))


def test_standard_error_of_normals_in_closed_form():
    """var x^2 = 2: the standard error is 1/sqrt(2 n). The fourth central moment of x^2 is 60, so that at
    n = 10^5 the sample's has a relative standard deviation of sqrt(60 - 4)/4/sqrt(n), .6 %: within 4 %, a false-alarm
    rate of 2e-11."""
    value, error = root_mean_square(normals(100_000))
    assert error == pytest.approx(1 / math.sqrt(2e5), rel=0.04)
    assert abs(value - 1) < 5 * error


def test_standard_error_against_the_spread_of_replications():
    """4000 replications of 200 heavier-tailed errors; their standard deviation is known to 1.5 %."""
    errors = normals(4000, 200).abs() ** 1.2
    values, reported = torch.tensor([root_mean_square(line) for line in errors], dtype=F64).T
    assert reported.mean().item() == pytest.approx(values.std().item(), rel=0.08)


def test_standard_error_against_the_bootstrap():
    """1000 resamples: the bootstrap's is known to 2.3 %, so that 12 % is five standard errors."""
    errors = normals(500, seed=3).abs()
    rows = torch.randint(500, (1000, 500), generator=torch.Generator().manual_seed(1))
    spread = errors[rows].square().mean(1).sqrt().std().item()
    assert root_mean_square(errors)[1] == pytest.approx(spread, rel=0.12)


def test_float32_errors_are_summed_in_float64():
    errors = torch.full((200_000,), 0.1)
    assert root_mean_square(errors)[0] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


# --- intervals of root mean squares ----------------------------------------------------------------------------------


def few_lost(*shape, seed):
    """Errors of which one in twenty, a path that changed its mode, carries nearly all of the mean square."""
    lost = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64) < 0.05
    return torch.where(lost, 0.7 + 0.1 * normals(*shape, seed=seed), 0.01 * normals(*shape, seed=seed))


LAWS = {
    "normal": (lambda *shape, seed: normals(*shape, seed=seed), 1.0, 200),
    "log-normal, .8": (lambda *shape, seed: (0.8 * normals(*shape, seed=seed)).exp(), math.exp(0.64), 2000),
    "log-normal, 1": (lambda *shape, seed: normals(*shape, seed=seed).exp(), math.e, 2000),
    "one in twenty": (few_lost, math.sqrt(0.05 * 0.5 + 0.95e-4), 1000),
}
"""Draws, the root mean square of the law, and a number of errors."""


@pytest.mark.parametrize("law", LAWS)
def test_intervals_cover(law):
    """In 92 % of 500 repeats and more: at this coverage, fewer than counted here come with a probability of 1e-6. Of
    log-normal errors of shape 1 normal theory covers 86 %, on the same errors."""
    draw, expected, n = LAWS[law]
    errors = draw(500, n, seed=11)
    found = [interval for line in errors if (interval := root_mean_square_interval(line)) is not None]
    assert len(found) >= 450
    covered = sum(low <= expected <= high for low, high in found)
    assert covered >= binom.ppf(1e-6, len(found), 0.92)
    if law == "log-normal, 1":
        plain = [root_mean_square(line) for line in errors if root_mean_square_interval(line) is not None]
        assert covered > sum(abs(value - expected) <= 1.96 * error for value, error in plain) + 10


def test_intervals_of_many_normal_errors_are_those_of_normal_theory():
    value, error = root_mean_square(normals(20_000))
    low, high = root_mean_square_interval(normals(20_000))
    assert (low, high) == (pytest.approx(value - 1.96 * error, rel=1e-3), pytest.approx(value + 1.96 * error, rel=1e-3))


def test_one_error_has_no_interval():
    assert root_mean_square_interval(torch.tensor([0.3])) is None


def test_intervals_scale_and_contain_the_value():
    errors = few_lost(1000, seed=1)
    low, high = root_mean_square_interval(errors)
    value, error = root_mean_square(errors)
    assert value - low < 2.3 * error
    assert 1.7 * error < high - value < 3 * error
    scaled = root_mean_square_interval(1e-8 * errors)
    assert scaled == (pytest.approx(1e-8 * low, rel=1e-9), pytest.approx(1e-8 * high, rel=1e-9))


def test_too_few_errors_have_no_interval():
    """(sum e^2)^2/sum e^4 is their number, for equal errors among zeros."""
    for carry, there in ((19, False), (21, True)):
        errors = torch.zeros(1000)
        errors[:carry] = 1.0
        assert (root_mean_square_interval(errors) is not None) == there
    assert root_mean_square_interval(torch.tensor([1.0, 2.0, 3.0])) is None


def test_an_interval_that_reaches_to_zero_is_none():
    """Of 36 effective errors one carries a sixth of the mean square."""
    errors = torch.full((2000,), 0.05, dtype=F64)
    errors[0] = 1.0
    assert statistics.rms_interval(errors)[0] == 0.0
    assert root_mean_square_interval(errors) is None


def test_equal_errors_are_their_own_interval():
    assert root_mean_square_interval(torch.full((5,), -0.5)) == (0.5, 0.5)
    assert root_mean_square_interval(torch.zeros(3)) == (0.0, 0.0)


# --- paired ratios ---------------------------------------------------------------------------------------------------


def correlated(n, ratio, seed, spread=0.3):
    """Heavy-tailed errors with a common factor, the second times `ratio`: of equal law, so the ratio is 1/ratio."""
    common, one, other = normals(3, n, seed=seed)
    return (common + spread * one).exp(), ratio * (common + spread * other).exp()


def test_ratio_by_hand():
    value, low, high = paired_ratio(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    assert value == pytest.approx(math.sqrt(5.0))
    assert (low, high) == (pytest.approx(2.0), pytest.approx(3.0))


def test_proportional_errors_have_an_exact_ratio():
    errors = normals(50)
    assert paired_ratio(0.25 * errors, errors) == (pytest.approx(0.25),) * 3


def test_ratio_is_that_of_the_root_mean_squares():
    one, other = correlated(300, 2.0, 0)
    value, low, high = paired_ratio(one, other)
    assert value == pytest.approx(root_mean_square(one)[0] / root_mean_square(other)[0])
    assert low < value < high


def test_ratio_is_deterministic_for_a_seed():
    one, other = correlated(100, 2.0, 0)
    assert paired_ratio(one, other) == paired_ratio(one, other, seed=0)
    assert paired_ratio(one, other)[1:] != paired_ratio(one, other, seed=1)[1:]
    state = torch.get_rng_state()
    paired_ratio(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_intervals_cover_and_are_as_wide_as_the_spread(monkeypatch):
    """300 intervals of 300 paths, errors correlated: at a coverage of 92 % or more (bootstrap intervals of 95 % fall
    short a little) the count falls below the bound with probability 1e-6. Their half-width is 1.96 standard deviations
    of the ratio to 15 %: four standard errors of that standard deviation. Without the pairing they are far wider."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    found = []
    for k in range(300):
        common, one, other = 0.5 * normals(3, 300, seed=100 + k)
        errors, others = (common + 0.3 * one).exp(), 2.0 * (common + 0.3 * other).exp()
        found.append(paired_ratio(errors, others, seed=k))
    values, low, high = torch.tensor(found, dtype=F64).T
    covered = int(((low <= 0.5) & (high >= 0.5)).sum())
    assert covered >= binom.ppf(1e-6, 300, 0.92)
    assert ((high - low) / 2).mean().item() == pytest.approx(1.96 * values.std().item(), rel=0.15)


def test_pairing_narrows():
    one, other = correlated(2000, 2.0, 5)
    shuffled = other[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    paired, unpaired = paired_ratio(one, other), paired_ratio(one, shuffled)
    assert paired[0] == pytest.approx(unpaired[0])
    assert paired[2] - paired[1] < 0.8 * (unpaired[2] - unpaired[1])


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 2), (3, 2)), ((), ())])
def test_bad_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"errors must both have shape \(n,\); got"):
        paired_ratio(*(torch.ones(shape) for shape in shapes))
