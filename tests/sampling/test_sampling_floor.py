"""The information floor against its closed form for Gaussian data, by quadrature.

For data N(0, s^2) the denoiser is linear, y/(1 + s^2 tau) = int dB/(1 + s^2 tau), and x = y/tau at the last SNR is a
linear functional of the path. A reference of variance c drives by dM = dB/(1 + c tau): in v = tau/(1 + c tau),

    x = int G dM,    G = (1 + s^2 tau_N)/(tau_N (1 + s^2 tau)) (1 + c tau),

and what the first m Legendre coefficients on every step leave of its variance is sum over the steps of
int G^2 dv - sum_{k < m} (int G phi_k dv)^2.

Estimates are compared within 5 standard errors: a right one fails with a probability below 1e-6.
"""

import importlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special

from sdesig.sampling import (
    Floor,
    GaussianReference,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    TeacherOptions,
    information_floor,
)
from sdesig.sampling.path_space import EVEN
from sdesig.sde import Mixture

F64 = torch.float64
LOW, HIGH = math.exp(-3), math.exp(3)
S2 = 0.5
DIM = 4
SKEWED = StepGrid((0.0, 0.4, 0.7, 1.0))


def integral(f, a, b):
    return integrate.quad(f, a, b, epsabs=1e-14, epsrel=1e-11, limit=200)[0]


def closed_form(steps, depth, c=0.0, s2=S2, positions=None):
    """See the module."""
    positions = np.linspace(0, 1, steps + 1) if positions is None else positions
    times = LOW * (HIGH / LOW) ** np.asarray(positions)
    left = 0.0
    for start, end in pairwise(times / (1 + c * times)):
        h = end - start

        def kernel(v):
            tau = v / (1 - c * v)
            return (1 + s2 * HIGH) / HIGH / (1 + s2 * tau) * (1 + c * tau)

        def projected(v, k, start=start, h=h, kernel=kernel):
            return kernel(v) * math.sqrt((2 * k + 1) / h) * special.eval_legendre(k, 2 * (v - start) / h - 1)

        left += integral(lambda v, f=kernel: f(v) ** 2, start, end)
        left -= sum(integral(lambda v, k=k, f=projected: f(v, k), start, end) ** 2 for k in range(depth))
    return math.sqrt(max(left, 0.0))


@SNRDenoiser
def linear(y, snr):
    """E[x_0 | y] for data N(0, s^2)."""
    return S2 * y / (1 + S2 * snr.item())


def scalar(c, event=(DIM,), dtype=F64):
    """N(0, c) as a reference in a dtype."""
    return GaussianReference(torch.zeros(event, dtype=dtype), c)


def floor(reference=None, denoiser=linear, *, grid=EVEN, steps=2, depth=2, groups=3000, fine=64, **options):
    reference = scalar(0.0) if reference is None else reference
    space = PathSpace(reference.mean.shape, (LOW, HIGH), reference, grid=grid)
    options = {"teacher_options": TeacherOptions(steps=fine, cells=1)} | options
    return information_floor(denoiser, space, steps=steps, depth=depth, groups=groups, **options)


def z_score(found, expected):
    return (found.rmse - expected) / found.standard_error


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 5])
def test_floor_of_gaussian_data_is_the_closed_form(steps, depth):
    found = floor(steps=steps, depth=depth)
    assert abs(z_score(found, closed_form(steps, depth))) < 5
    # both wrong: one coefficient more, one less
    assert abs(z_score(found, closed_form(steps, depth + 1))) > 50
    assert abs(z_score(found, closed_form(steps, depth - 1))) > 50
    assert found.standard_error < 0.01 * found.rmse


@pytest.mark.parametrize("c", [0.1, 2.0])
def test_floor_of_gaussian_data_with_another_reference(c):
    """The reference sets the clock of the Legendre expansion: less is left the nearer it is to the data."""
    found = floor(scalar(c))
    assert abs(z_score(found, closed_form(2, 2, c))) < 5
    assert abs(z_score(found, closed_form(2, 2))) > 20


def test_floor_with_a_reference_per_coordinate():
    """Turned by an orthogonal basis, of which data of one variance know nothing: the mean square over coordinates."""
    basis = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    variances = [0.0, 0.1, 0.5, 2.0]
    found = floor(GaussianReference(torch.zeros(DIM, dtype=F64), torch.tensor(variances, dtype=F64), basis))
    expected = math.sqrt(np.mean([closed_form(2, 2, c) ** 2 for c in variances]))
    assert abs(z_score(found, expected)) < 5


def test_floor_on_a_grid_of_steps_of_other_lengths():
    found = floor(steps=3, grid=SKEWED)
    assert abs(z_score(found, closed_form(3, 2, positions=SKEWED.quantiles))) < 5
    assert abs(z_score(found, closed_form(3, 2))) > 20


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_with_the_true_reference_nothing_is_left(dtype):
    """x is then a function of the increments."""
    assert closed_form(2, 1, S2) < 1e-6
    assert floor(scalar(S2, dtype=dtype), depth=1, groups=200).rmse < 1e-5


def test_a_denoiser_that_knows_nothing_leaves_nothing():
    assert floor(denoiser=SNRDenoiser(lambda y, snr: torch.zeros_like(y)), depth=1, groups=50).rmse < 1e-13


def test_a_teacher_of_as_many_steps_leaves_nothing():
    """Euler on the coarse steps themselves is a function of the increments; on twice as many it is not."""
    law = Mixture.circle(1.0, 0.3, dtype=F64)
    found = [
        floor(
            scalar(0.0, (2,)),
            SNRDenoiser(law.denoise_y),
            steps=4,
            depth=1,
            groups=50,
            teacher_options=TeacherOptions("euler", fine, 1),
        ).rmse
        for fine in (4, 8)
    ]
    assert found[0] < 1e-12
    assert found[1] > 1e-3


def test_ratio_by_hand():
    """RMSE 2 with no error over a floor of .5 +- .05: 4 with an error of .1 of its logarithm."""
    ratio = Floor(0.5, 0.05, 0.4, 10, 4, 1).ratio(torch.full((3,), 2.0))
    assert ratio == pytest.approx((4.0, 4 * math.exp(-0.196), 4 * math.exp(0.196)))


def test_deeper_signatures_and_more_steps_leave_less():
    law = Mixture.circle(1.0, 0.3, dtype=F64)
    found = {
        (steps, depth): floor(
            scalar(0.59, (2,)), SNRDenoiser(law.denoise_y), steps=steps, depth=depth, groups=1000
        ).rmse
        for steps in (4, 8)
        for depth in (1, 2, 3)
    }
    for steps in (4, 8):
        assert found[steps, 1] > 1.2 * found[steps, 2] > 1.2**2 * found[steps, 3]
    for depth in (1, 2, 3):
        assert found[4, depth] > 1.5 * found[8, depth]


def test_one_seed_is_one_value():
    one, again = (floor(groups=50, seed=3) for _ in range(2))
    assert one == again
    assert isinstance(one, Floor)
    assert (one.groups, one.steps, one.depth) == (50, 2, 2)
    assert 0 < one.median < 2 * one.rmse


def test_another_seed_is_another_value():
    assert floor(groups=50, seed=3).rmse != floor(groups=50, seed=4).rmse


def test_groups_in_several_batches(monkeypatch):
    """Where memory is short the groups are drawn in parts, which are independent."""
    module = importlib.import_module("sdesig.sampling.information_floor")
    monkeypatch.setattr(module, "_NUMBERS", 200_000)
    found = floor(groups=3001)
    assert found.groups == 3001
    assert abs(z_score(found, closed_form(2, 2))) < 5
    assert found.standard_error == pytest.approx(found.rmse / math.sqrt(2 * 3001 * DIM), rel=0.1)


def test_fine_steps_that_the_coarse_ones_do_not_divide_are_rounded_up():
    """64 fine steps for 5 coarse ones are 65: the value is still right, and events may have two axes."""
    found = floor(scalar(0.0, (2, 2)), steps=5, fine=61)
    assert abs(z_score(found, closed_form(5, 2))) < 5


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"steps": 0}, ValueError, "steps must be >= 1; got 0"),
        ({"steps": 2.0}, TypeError, "steps must be an integer; got 2.0"),
        ({"depth": 0}, ValueError, r"depth must be in \[1, 4096\]; got 0"),
        ({"groups": 1}, ValueError, "groups must be >= 2; got 1"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"seed": 0.5}, TypeError, "seed must be an integer"),
    ],
)
def test_refusals(options, error, match):
    with pytest.raises(error, match=match):
        floor(**({"groups": 10} | options))


@pytest.mark.parametrize(
    "shape, match",
    [
        ((32, 2, 1, 2), "functionals must be orthonormal"),
        ((2, 1, 2), r"must return shape \(32, 2, 1, 2\); got \(2, 1, 2\)"),
    ],
)
def test_refuses_functionals_that_are_not_what_they_should_be(shape, match):
    with pytest.raises(ValueError, match=match):
        floor(groups=10, depth=1, functionals=lambda times, depth: torch.ones(shape, dtype=F64))
