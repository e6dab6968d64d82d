"""Weak orders of real schemes by `weak_order`, and what antithetic paths gain; the rules are those of strong orders."""

import math

import pytest
import torch

from sdesig import weak_order
from sdesig.sde import SDE
from sdesig.sde.problems import GeometricBrownianMotion, SinhDiffusion

PROBLEM = GeometricBrownianMotion(drift=(1.0,), volatility=(0.3,))


def exact(path, y0):
    return PROBLEM.exact(1.0, path(0.0, 1.0), y0)


def square(y):
    return y[:, 0] ** 2


def order(scheme, **kwargs):
    arguments = {"functional": square, "steps": (16, 32, 64), "paths": 20_000} | kwargs
    return weak_order(PROBLEM, PROBLEM.initial, scheme=scheme, **arguments)


@pytest.mark.parametrize(
    "options",
    [{"truth": exact}, {"truth": 256, "truth_scheme": "platen"}, {}],
    ids=["exact", "numeric", "differences"],
)
def test_euler_has_weak_order_one(options):
    estimate = order("euler", **options)
    assert all(estimate.used)
    assert estimate.supports(1.0), estimate
    assert estimate.refutes(2.0)


def test_platen_has_weak_order_two():
    estimate = order("platen", steps=(4, 8, 16), truth=exact)
    assert all(estimate.used)
    assert estimate.supports(2.0), estimate
    assert order("platen", steps=(4, 8, 16)).supports(1.85)
    assert order("milstein", steps=(4, 8, 16), truth=exact).refutes(2.0)


def test_errors_have_the_means_that_are_known():
    """E Y_N^2 of Euler's scheme is ((1 + h)^2 + .09 h)^N, E Y^2 = exp(2.09). 5.5 standard errors: 4e-8 each."""
    truth = math.exp(2.09)
    means = {n: ((1 + 1 / n) ** 2 + 0.09 / n) ** n for n in (16, 32, 64, 128)}
    for options in ({"truth": exact}, {"truth": truth}, {"truth": truth, "antithetic": False}, {}):
        estimate = order("euler", **options)
        for n, error, spread in zip(estimate.steps, estimate.errors, estimate.standard_errors, strict=True):
            expected = abs(means[n] - (truth if options else means[2 * n]))
            assert abs(error - expected) < 5.5 * spread


def test_several_functionals():
    both = order("euler", functional=lambda y: torch.cat([y, y**2], 1), truth=exact)
    parts = [order("euler", functional=f, truth=exact) for f in (lambda y: y[:, 0], square)]
    assert both.errors == pytest.approx([math.hypot(*pair) for pair in zip(*(p.errors for p in parts), strict=True)])
    assert both.supports(1.0)


def test_antithetic_paths_cut_the_noise():
    """At equal numbers of solutions, against a known expectation: by half here, known to some 5 % by the bootstrap."""
    plain, pairs = (order("euler", truth=math.exp(2.09), antithetic=antithetic) for antithetic in (False, True))
    for one, other in zip(plain.standard_errors, pairs.standard_errors, strict=True):
        assert one > 1.5 * other


def test_odd_functions_of_the_path_cancel():
    with pytest.raises(ValueError, match="fewer than two errors"):
        weak_order(
            SinhDiffusion(0.7, dim=1),
            torch.zeros(1),
            scheme="euler",
            functional=lambda y: y[:, 0],
            steps=(2, 4),
            paths=100,
        )


def test_errors_at_the_monte_carlo_floor_are_masked():
    estimate = order("platen", steps=(2, 4, 8, 16, 32, 64), truth=exact, paths=200)
    used = sum(estimate.used)
    assert 2 <= used < 6
    assert estimate.used == (True,) * used + (False,) * (6 - used)
    assert estimate.errors[used] <= 3 * estimate.standard_errors[used] * (1 + 1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"paths": 101}, "paths must be even and >= 4 with antithetic=True; got 101"),
        ({"paths": 2}, "paths must be even and >= 4 with antithetic=True; got 2"),
        ({"functional": lambda y: y.sum()}, r"functional must return shape \(2,\) or \(2, k\); got \(\)"),
        ({"functional": lambda y: 1.0}, r"functional must return shape \(2,\) or \(2, k\); got 1.0"),
        (
            {"functional": lambda y: y.expand(-1, 2).mean(0)},
            r"functional must return shape \(3,\) or \(3, k\); got \(2,\)",
        ),
        ({"functional": lambda y: y[:, 0].log() / 0}, "functional must be finite at Y"),
        ({"truth": torch.ones(3)}, r"truth must be one number, or the functional's 1, .*; got \(3,\)"),
        ({"truth": 64}, "truth must have more steps than the finest solution, 64; got 64"),
        ({"truth": 1.0, "truth_scheme": "platen"}, "truth_scheme is given without"),
        ({"steps": ()}, "steps must be two or more"),
        ({"scheme": "sra1"}, "SRA1 needs additive noise"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        order(**({"scheme": "euler", "paths": 100} | change))


def test_a_functional_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"functional must be callable as functional\(Y\); got None"):
        order(scheme="euler", paths=100, functional=None)


def test_what_a_functional_returns_is_looked_at_before_the_work():
    """At the start, of two rows and of three: a mean over the batch has the shape of one of them at most."""
    seen = []

    def functional(y):
        seen.append(len(y))
        return y.mean(0)

    with pytest.raises(ValueError, match="functional must return shape"):
        order("euler", functional=functional)
    assert seen in ([2], [2, 3])
    with pytest.raises(TypeError, match=r"functional\(Y\) must have a real floating-point dtype; got torch.bool"):
        order("euler", functional=lambda y: y[:, 0] > 1)


class Intensity(SDE):
    """The intensity of a diffusion like a Hawkes process: dY = 4 (1 - Y) dt + sqrt(Y)/2 dW."""

    def __init__(self):
        super().__init__("diagonal", "ito", dim=1)

    def f(self, t, y):
        return 4 * (1 - y)

    def g(self, t, y):
        return y.clamp_min(1e-6).sqrt() / 2


def test_a_pre_asymptotic_order_is_not_sold_as_one():
    """Platen's mean is (1 - 4h + 8h^2)^N: slopes 4.5, 3.3, 2.4 from 2 to 32 steps, where the order is 2."""
    estimate = weak_order(
        Intensity(),
        torch.tensor([2.0]),
        scheme="platen",
        functional=lambda y: y[:, 0],
        steps=(2, 4, 8, 16),
        paths=4000,
    )
    assert estimate.order > 3.0
    assert estimate.half_width > 0.5
    assert not estimate.supports(2.0)
    assert f"not straight (p = {estimate.p_value:.0e})" in str(estimate)
    assert str(estimate) in repr(estimate)


def test_gradients_are_not_followed():
    """Nor do they keep the states of a chunk alive: y0, functional and truth may have them."""

    def errors(factor):
        return weak_order(
            PROBLEM,
            factor * PROBLEM.initial,
            scheme="euler",
            functional=lambda y: factor * y,
            steps=(4, 8),
            paths=100,
            truth=lambda path, y0: 0.1 * factor * y0,
        ).errors

    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    assert errors(one) == pytest.approx(errors(one.detach()))


def test_a_known_expectation_has_all_its_digits():
    """No noise: E Y = (1 - h)^N, of which float32 would leave 1e-8."""

    class Decay(Intensity):
        def f(self, t, y):
            return -y

        def g(self, t, y):
            return torch.zeros_like(y)

    expected = math.exp(-1)
    options = {"scheme": "euler", "functional": lambda y: y[:, 0], "steps": (2**9, 2**10), "paths": 4}
    found = weak_order(Decay(), torch.tensor([1.0]), truth=expected, **options)
    for n, error in zip(found.steps, found.errors, strict=True):
        assert error == pytest.approx(expected - (1 - 1 / n) ** n, rel=1e-9)
