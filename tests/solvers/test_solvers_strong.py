"""Strong orders of the schemes, coupled through one path, against solutions known exactly or to a higher order.

`slope` fits log RMS error against log h in 20 groups of paths, with a 99.999 % interval: some 60 of them keep the false
alarms of this file below 1e-3. An order passes if the interval's lower end is above order - .15 and its half-width
below .2 (.07 at 95 %); a control must stay below that line altogether.
"""

import math

import pytest
import scipy.stats
import torch

from sdesig.brownian import BrownianPath
from sdesig.sde import SDE, to_ito, to_stratonovich
from sdesig.sde.problems import (
    CommutativeLinearSDE,
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    HeisenbergGroup,
    KuboOscillator,
    LinearSDE,
    OrnsteinUhlenbeck,
    SinhDiffusion,
    TanhDiffusion,
)
from sdesig.signature import PartialSignature
from sdesig.solvers import SRA1, Milstein, ShARK, solve

STEPS = (8, 16, 32, 64)
SLACK = 0.15


def slope(errors, steps=STEPS, groups=20):
    """Slope of log RMS error against log h, and its half-width, from errors (levels, paths, dim)."""
    rms = errors.unflatten(1, (groups, -1)).square().sum(-1).mean(-1).sqrt().log2()
    x = -torch.tensor(steps, dtype=errors.dtype).log2()
    x = x - x.mean()
    slopes = (x[:, None] * rms).sum(0) / (x**2).sum()
    half_width = scipy.stats.t.ppf(1 - 0.5e-5, groups - 1) * slopes.std() / math.sqrt(groups)
    return slopes.mean().item(), half_width.item()


def brownian(paths, dim, seed=0, **kwargs):
    seeds = range(paths * seed, paths * (seed + 1))
    options = {"depth": 2, "cells": 2**6, "dtype": torch.float64} | kwargs
    return BrownianPath(0.0, 1.0, (paths, dim), seeds=seeds, **options)


def errors(sde, scheme, path, truth, start, steps=STEPS):
    """(levels, paths, dim), scheme minus truth at t = 1."""
    return torch.stack([solve(sde, start, path.grid(n), scheme=scheme, path=path)[-1] - truth for n in steps])


def exact(problem, path):
    """Y(1) along the path and Y(0), for a problem with a solution from W alone."""
    start = problem.y0(path.shape[0], torch.float64)
    return problem.exact(1.0, path(0.0, 1.0), start), start


def assert_order(order, errors, steps=STEPS):
    estimate, half_width = slope(errors, steps)
    assert half_width < 0.2, half_width
    assert estimate - half_width > order - SLACK, (estimate, half_width)


def assert_below_order(order, errors, steps=STEPS):
    estimate, half_width = slope(errors, steps)
    assert estimate + half_width < order - SLACK, (estimate, half_width)


@pytest.mark.parametrize(
    "scheme, problem, order",
    [
        ("euler", SinhDiffusion(0.4), 0.5),
        ("euler", FadingNoise(), 1.0),
        ("milstein", SinhDiffusion(0.4), 1.0),
        ("milstein", TanhDiffusion(), 1.0),
        ("milstein", CommutativeLinearSDE(), 1.0),
        ("milstein", FadingNoise(), 1.0),
        ("sri2", GeometricBrownianMotion(), 1.0),
        ("sri2", TanhDiffusion(), 1.0),
        ("sri2", CommutativeLinearSDE(), 1.0),
        ("sri2", FadingNoise(), 1.0),
        ("platen", SinhDiffusion(0.4), 1.0),
        ("platen", TanhDiffusion(), 1.0),
        ("platen", CommutativeLinearSDE(), 1.0),
        ("heun", SinhDiffusion(0.4), 1.0),
        ("heun", CommutativeLinearSDE(), 1.0),
        ("heun", KuboOscillator(), 1.0),
        ("log_ode", KuboOscillator(), 1.0),
        ("taylor15", GeometricBrownianMotion(volatility=(0.3, 0.4)), 1.5),
        ("taylor15", TanhDiffusion(), 1.5),
        ("taylor15", KuboOscillator(), 1.5),
        ("taylor15", FadingNoise(), 1.5),
        ("sra1", FadingNoise(), 1.5),
        ("shark", FadingNoise(), 1.5),
        ("torchsde:euler", SinhDiffusion(0.4), 0.5),
        ("torchsde:milstein", SinhDiffusion(0.4), 1.0),
        ("torchsde:srk", TanhDiffusion(), 1.5),
        ("torchsde:srk", SinhDiffusion(0.4), 1.5),
        ("torchsde:heun", TanhDiffusion(), 1.0),
        ("torchsde:midpoint", CommutativeLinearSDE(), 1.0),
        ("torchsde:euler_heun", CommutativeLinearSDE(), 1.0),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_strong_order_against_the_exact_solution(scheme, problem, order):
    path = brownian(4000, problem.noise_dim)
    assert_order(order, errors(problem, scheme, path, *exact(problem, path)))


@pytest.mark.parametrize("scheme", ["euler", "torchsde:euler"])
def test_euler_fails_order_one(scheme):
    problem = SinhDiffusion(0.4)
    path = brownian(4000, problem.noise_dim)
    assert_below_order(1.0, errors(problem, scheme, path, *exact(problem, path)))


@pytest.mark.parametrize("scheme", ["milstein", "sri2", "platen", "heun"])
def test_order_one_schemes_fail_order_one_and_a_half(scheme):
    problem = SinhDiffusion(0.4)
    path = brownian(4000, problem.noise_dim)
    assert_below_order(1.5, errors(problem, scheme, path, *exact(problem, path)))


class WithoutArea(Milstein):
    """Milstein's scheme with the Levy areas removed."""

    def noise(self, structure, signatures):
        return super().noise(structure, signatures.without_area())


class Remembering(BrownianPath):
    """Keeps what it was asked for: areas over many small cells take their time."""

    def partial_signatures(self, times):
        answers = self.__dict__.setdefault("answers", {})
        key = tuple(times.tolist())
        if key not in answers:
            answers[key] = super().partial_signatures(times)
        return answers[key]


@pytest.fixture(scope="module")
def linear():
    """Non-commutative linear SDE: path, start, and the solution by log-ODE steps of the problem's own on 512 steps."""
    problem = LinearSDE()
    path = Remembering(0.0, 1.0, (1000, 2), seeds=range(1000), depth=1, cells=2**9, area=True, dtype=torch.float64)
    start = problem.y0(1000, torch.float64)
    y = start
    fine = path.partial_signatures(path.grid(512))
    for step in range(512):
        y = problem.log_ode(1 / 512, fine.increment[step], fine.levy_area[step], y)
    return problem, path, y, start


@pytest.mark.parametrize("scheme", ["milstein", "sri2", "platen", "log_ode", "torchsde:log_ode"])
def test_strong_order_one_for_non_commutative_noise(linear, scheme):
    steps = (4, 8, 16, 32)
    found = errors(linear[0], scheme, *linear[1:], steps=steps)
    assert_order(1.0, found, steps)


@pytest.mark.parametrize("scheme", ["euler", "heun", WithoutArea()], ids=["euler", "heun", "without area"])
def test_without_areas_the_order_is_one_half(linear, scheme):
    steps = (4, 8, 16, 32)
    found = errors(linear[0], scheme, *linear[1:], steps=steps)
    assert_order(0.5, found, steps)
    assert_below_order(1.0, found, steps)


@pytest.mark.parametrize("scheme", ["milstein", "sri2", "platen", "log_ode", "torchsde:log_ode"])
def test_schemes_with_areas_are_exact_on_the_heisenberg_group(scheme):
    problem = HeisenbergGroup()
    path = brownian(50, 2, area=True, depth=1)
    start = problem.y0(50, torch.float64)
    whole = path.partial_signature(0.0, 1.0)
    truth = problem.exact_from_area(1.0, whole.increment, whole.levy_area, start)
    assert errors(problem, scheme, path, truth, start, (1, 4, 16)).abs().max() < 1e-12
    with pytest.raises(AssertionError):
        assert errors(problem, "euler", path, truth, start, (16,)).abs().max() < 1e-2


def ornstein_uhlenbeck(paths, seed):
    """Problem, path, and the mean of Y(1) given depth-2 values on 512 steps (its own error is of order h^2.5)."""
    problem = OrnsteinUhlenbeck()
    path = brownian(paths, 2, seed, cells=2**9)
    start = problem.y0(paths, torch.float64)
    y = start
    fine = path.partial_signatures(path.grid(512))
    for step in range(512):
        y = problem.conditional_mean(1 / 512, fine.coefficients[:, step], y)
    return problem, path, y, start


class IndependentArea(ShARK):
    """ShARK with a space-time area that is not the path's."""

    def noise(self, structure, signatures):
        w, area = super().noise(structure, signatures)
        generator = torch.Generator().manual_seed(5)
        return w, area.std() * torch.randn(area.shape, generator=generator, dtype=area.dtype)


@pytest.mark.parametrize("scheme", ["taylor15", "sra1", "shark", "torchsde:srk"])
def test_strong_order_one_and_a_half_for_additive_noise(scheme):
    problem, path, truth, start = ornstein_uhlenbeck(2000, 1)
    assert_order(1.5, errors(problem, scheme, path, truth, start))


@pytest.mark.parametrize("scheme", ["taylor15", "sra1", "shark"])
def test_strong_order_one_and_a_half_for_a_nonlinear_drift(scheme):
    """Against torchsde's SRA1 on 512 steps; the linear drift above has no term of order 1.5 and shows order 2."""
    problem = DoubleWell()
    path = brownian(2000, 1, cells=2**9)
    start = problem.y0(2000, torch.float64)
    truth = solve(problem, start, path.grid(512), scheme="torchsde:srk", path=path)[-1]
    assert_order(1.5, errors(problem, scheme, path, truth, start))


@pytest.mark.parametrize("scheme", ["euler", "milstein", IndependentArea()], ids=["euler", "milstein", "independent H"])
def test_without_the_right_area_additive_noise_has_order_one(scheme):
    problem, path, truth, start = ornstein_uhlenbeck(2000, 1)
    found = errors(problem, scheme, path, truth, start)
    assert_order(1.0, found)
    assert_below_order(1.5, found)


class Quiet(SDE):
    """dY = sin(Y + 2t) dt, with noise of size 0."""

    def __init__(self):
        super().__init__("diagonal", "ito", dim=1, noise_structure="additive")

    def f(self, t, y):
        return torch.sin(y + 2 * t)

    def g(self, t, y):
        return torch.zeros_like(y)


@pytest.mark.parametrize(
    "scheme, order",
    [
        ("euler", 1),
        ("milstein", 1),
        ("sri2", 2),
        ("platen", 2),
        ("heun", 2),
        ("taylor15", 2),
        ("sra1", 2),
        ("shark", 2),
        ("log_ode", 4),
    ],
)
def test_order_without_noise(scheme, order):
    path = brownian(1, 1, cells=2**9)
    start = torch.ones(1, 1, dtype=torch.float64)
    truth = solve(Quiet(), start, path.grid(512), scheme="log_ode", path=path)[-1]
    found = errors(Quiet(), scheme, path, truth, start)[1:].abs().flatten().log2()
    slopes = -found.diff()
    assert slopes.min() > order - 0.15
    assert slopes.max() < order + 0.15


class DiagonalForm(FadingNoise):
    """Fading noise declared as diagonal, the other form of additive noise."""

    def __init__(self):
        super().__init__()
        self.noise_type = "diagonal"

    def g(self, t, y):
        return super().g(t, y).squeeze(-1)


@pytest.mark.parametrize("scheme", ["euler", "milstein", "sri2", "platen", "heun", "taylor15", "sra1", "shark"])
def test_additive_noise_in_diagonal_form_is_the_same(scheme):
    path = brownian(20, 1)
    start = FadingNoise().y0(20, torch.float64)
    solutions = [solve(p, start, path.grid(8), scheme=scheme, path=path) for p in (FadingNoise(), DiagonalForm())]
    torch.testing.assert_close(*solutions, rtol=1e-13, atol=1e-13)


class MatrixForm(SinhDiffusion):
    """Diagonal noise written as a matrix, declared commutative."""

    def __init__(self):
        super().__init__(0.4)
        self.noise_type, self.noise_structure = "general", "commutative"

    def g(self, t, y):
        return torch.diag_embed(super().g(t, y))


@pytest.mark.parametrize("scheme", ["euler", "milstein", "sri2", "platen", "heun", "log_ode", "torchsde:euler"])
def test_diagonal_noise_in_matrix_form_is_the_same(scheme):
    path = brownian(20, 2)
    start = SinhDiffusion(0.4).y0(20, torch.float64)
    solutions = [solve(p, start, path.grid(8), scheme=scheme, path=path) for p in (SinhDiffusion(0.4), MatrixForm())]
    torch.testing.assert_close(*solutions, rtol=1e-12, atol=1e-12)


def test_milstein_of_a_scalar_sde_written_out():
    """One step of K-P 10.3.1 by hand: g g' (W^2 - h)/2 for g = b (1 - y^2)."""
    problem = TanhDiffusion()
    path = brownian(5, 1)
    y = problem.y0(5, torch.float64)
    w, h = path(0.0, 0.25), 0.25
    g = problem.g(0.0, y).squeeze(-1)
    by_hand = y + problem.f(0.0, y) * h + g * w + g * (-2 * problem.beta * y) * (w**2 - h) / 2
    times = torch.tensor([0.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(solve(problem, y, times, scheme="milstein", path=path)[-1], by_hand)


@pytest.mark.parametrize("scheme, kind", [("milstein", to_stratonovich), ("log_ode", to_ito)])
def test_either_calculus_gives_the_same_solution(linear, scheme, kind):
    problem, path, _, start = linear
    given = solve(problem, start, path.grid(4), scheme=scheme, path=path)
    converted = solve(kind(problem), start, path.grid(4), scheme=scheme, path=path)
    torch.testing.assert_close(given, converted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["euler", "milstein"])
def test_torchsde_agrees_to_rounding(name):
    problem = SinhDiffusion(0.4)
    path = brownian(20, 2)
    start = problem.y0(20, torch.float64)
    ours, theirs = (solve(problem, start, path.grid(16), scheme=s, path=path) for s in (name, f"torchsde:{name}"))
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_torchsde_milstein_is_refused_where_it_transposes_the_jacobian():
    """Its term is (Dg)^T g (W^2 - h)/2 for scalar noise; on the Kubo oscillator Dg is antisymmetric: the wrong sign."""
    problem = KuboOscillator()
    path = brownian(20, 1)
    with pytest.raises(ValueError, match="torchsde:milstein is wrong for scalar noise in dimension > 1; y0 has 2"):
        solve(problem, problem.y0(20, torch.float64), path.grid(8), scheme="torchsde:milstein", path=path)


def test_sra1_agrees_with_torchsde_to_rounding():
    problem = FadingNoise()
    path = brownian(20, 1)
    start = problem.y0(20, torch.float64)
    ours, theirs = (solve(problem, start, path.grid(16), scheme=s, path=path) for s in ("sra1", "torchsde:srk"))
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_noise_of_shark_and_sra1():
    """U/h = W/2 + H by the path's own integral."""
    step = PartialSignature(torch.tensor(0.3), torch.randn(2, 1, 4, 1, generator=torch.Generator().manual_seed(0)))
    w, mean = SRA1().noise("additive", step)
    torch.testing.assert_close(mean, step.time_integral / 0.3)
    torch.testing.assert_close(w / 2 + ShARK().noise("additive", step)[1], mean)
