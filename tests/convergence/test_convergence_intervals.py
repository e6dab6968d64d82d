"""Intervals under heavy tails: orders and errors of schemes on geometric Brownian motion, whose exact errors are known.

200 runs of 300 paths: where intervals hold in .96 of the runs, fewer than .92 do in one case of 200, and the seeds are
fixed. Those of normal theory hold in .70 to .91.
"""

import math

import pytest
import torch
from scipy.integrate import quad

from sdesig._intervals import NORMAL, effective_number, mean_interval, rms_and_error, rms_interval
from sdesig.convergence import fit_strong
from sdesig.convergence.orders import strong_order
from sdesig.sde.problems import GeometricBrownianMotion
from validation import coverage
from validation.coverage import CASES, Case

F64 = torch.float64


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[4]], ids=lambda case: case.name)
def test_intervals_of_strong_orders_hold_under_multiplicative_noise(case):
    found = coverage.coverage(case, 300, 200)
    assert found.order >= 0.92, found
    assert found.normal < min(0.94, found.order), found
    assert found.errors_or_few.min() >= 0.92, found
    if case.b < 1:
        assert found.errors.min() >= 0.92, found


def test_too_few_paths_are_said():
    """With b = 2.5 the paths that make E (Y_N - Y)^2 are not among 300: no run may claim an order."""
    source = torch.Generator().manual_seed(0)
    for _ in range(20):
        estimate = fit_strong(coverage.pathwise_errors(CASES[-1], 300, source), coverage.STEPS)
        assert estimate.few
        assert "too few effective paths" in str(estimate)
        assert not estimate.supports(0.0)
        assert not estimate.refutes(9.0)


@pytest.mark.parametrize("case", [Case("euler", 0.5, 0.8), Case("milstein", 0.3, 0.9)], ids=lambda case: case.name)
def test_exact_errors_are_those_of_one_step_and_of_many_paths(case):
    def density(z):
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    c0, c1, c2 = coverage.one_step(case, 1.0)
    square = quad(
        lambda z: (c0 + c1 * z + c2 * z * z - math.exp(case.a - case.b**2 / 2 + case.b * z)) ** 2 * density(z), -15, 15
    )
    assert coverage.exact_error(case, 1) == pytest.approx(math.sqrt(square[0]), rel=1e-8)
    errors = coverage.pathwise_errors(case, 20_000, torch.Generator().manual_seed(1))
    for n, values in zip(coverage.STEPS, errors, strict=True):
        low, high = mean_interval(values.square())
        assert low < coverage.exact_error(case, n) ** 2 < high


def test_errors_of_the_study_are_those_of_strong_order():
    """In law: the same scheme by `strong_order`; 4 standard errors of either."""
    problem = GeometricBrownianMotion(drift=(0.0,), volatility=(0.3,))
    estimate = strong_order(problem, problem.initial, scheme="milstein", steps=(8, 16), paths=500)
    for n, error, spread in zip(estimate.steps, estimate.errors, estimate.standard_errors, strict=True):
        assert abs(error - coverage.exact_error(Case("milstein", 0.0, 0.3), n)) < 4 * spread


def test_effective_number():
    assert effective_number(torch.ones(7)).item() == pytest.approx(7.0)
    assert effective_number(torch.zeros(7)).item() == 7.0
    assert effective_number(torch.tensor([0.0, 3e200, 0.0], dtype=F64)).item() == 1.0
    normal = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(2), dtype=F64)
    assert effective_number(normal).tolist() == pytest.approx([100_000 / 3] * 2, rel=0.05)


def test_intervals_of_normal_errors_are_those_of_normal_theory():
    errors = torch.randn(20_000, generator=torch.Generator().manual_seed(3), dtype=F64)
    value, spread = rms_and_error(errors)
    assert value.item() == pytest.approx(errors.square().mean().sqrt().item())
    assert spread.item() == pytest.approx(1 / math.sqrt(2 * 20_000), rel=0.05)
    low, high = rms_interval(errors)
    assert low < 1 < high
    assert torch.maximum(high - value, value - low).item() == pytest.approx(NORMAL * spread.item())
    assert [end.item() for end in rms_interval(torch.full((5,), 2.0))] == [2.0, 2.0]
