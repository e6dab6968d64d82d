"""The driver: what it returns, refuses and reports."""

import weakref
from itertools import pairwise

import pytest
import torch

import sdesig.solvers.driver as driver
from sdesig.brownian import BrownianPath
from sdesig.sampling import SNRClock
from sdesig.sde import SDE
from sdesig.sde.problems import (
    CommutativeLinearSDE,
    DoubleWell,
    GeometricBrownianMotion,
    HeisenbergGroup,
    KuboOscillator,
    LinearSDE,
    OrnsteinUhlenbeck,
    SinhDiffusion,
)
from sdesig.solvers import SCHEMES, Euler, Milstein, Scheme, ShARK, TorchsdeMethod, solve
from sdesig.solvers.base import strong_orders
from sdesig.solvers.torchsde_methods import STRONG_ORDERS


def make_path(shape=(4, 2), t1=1.0, **kwargs):
    options = {"depth": 2, "cells": 2**6, "dtype": torch.float64, "seeds": range(shape[0])} | kwargs
    return BrownianPath(0.0, t1, shape, **options)


def start(problem, batch=4):
    return problem.y0(batch, torch.float64)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_euler_written_out_on_an_uneven_grid():
    problem = OrnsteinUhlenbeck()
    path = make_path()
    grid = times(0.0, 0.125, 0.5, 0.5625, 1.0)
    y = expected = start(problem)
    for s, t in pairwise(grid):
        expected = expected + problem.f(s, expected) * (t - s) + path(s, t) @ problem.volatility.mT
    solution = solve(problem, y, grid, scheme="euler", path=path)
    assert solution.shape == (5, 4, 2)
    assert torch.equal(solution[0], y)
    torch.testing.assert_close(solution[-1], expected, rtol=1e-13, atol=1e-13)


def test_callback_sees_every_step():
    problem, path, seen = OrnsteinUhlenbeck(), make_path(), []
    solution = solve(
        problem, start(problem), path.grid(8), scheme="euler", path=path, callback=lambda *call: seen.append(call)
    )
    assert [number for number, _, _ in seen] == list(range(1, 9))
    assert [t.item() for _, t, _ in seen] == path.grid(8)[1:].tolist()
    assert torch.equal(torch.stack([y for _, _, y in seen]), solution[1:])


@pytest.mark.parametrize("scheme", ["euler", "milstein", "torchsde:reversible_heun"])
def test_chunks_change_nothing(monkeypatch, scheme):
    problem, path = LinearSDE(), make_path(area=True)
    if scheme == "torchsde:reversible_heun":
        problem = SinhDiffusion()
    whole = solve(problem, start(problem), path.grid(16), scheme=scheme, path=path)
    asked = []
    original = BrownianPath.partial_signatures
    monkeypatch.setattr("sdesig.solvers.driver._ASKED_AT_ONCE", 3 * 4 * 2 * (2 + 2))
    monkeypatch.setattr(BrownianPath, "partial_signatures", lambda p, t: asked.append(len(t) - 1) or original(p, t))
    torch.testing.assert_close(solve(problem, start(problem), path.grid(16), scheme=scheme, path=path), whole)
    assert asked == [3, 3, 3, 3, 3, 1]


def test_names_objects_and_the_registry():
    problem, path = SinhDiffusion(), make_path()
    solutions = [
        solve(problem, start(problem), path.grid(4), scheme=s, path=path)
        for s in ("milstein", Milstein(), "torchsde:milstein", TorchsdeMethod("milstein"))
    ]
    for other in solutions[1:]:
        torch.testing.assert_close(solutions[0], other, rtol=1e-13, atol=1e-13)
    assert all(issubclass(scheme, Scheme) and scheme.__doc__ for scheme in SCHEMES.values())


@pytest.mark.parametrize("name", STRONG_ORDERS)
@pytest.mark.parametrize(
    "problem", [OrnsteinUhlenbeck(), SinhDiffusion(), KuboOscillator(), CommutativeLinearSDE(), LinearSDE()]
)
def test_every_method_of_torchsde_runs_or_says_why_not(name, problem):
    path = make_path((4, problem.noise_dim), area=True)
    call = {"scheme": f"torchsde:{name}", "path": path}
    transposed = name == "milstein" and isinstance(problem, KuboOscillator)
    if problem.noise_structure in STRONG_ORDERS[name] and not transposed:
        assert solve(problem, start(problem), path.grid(4), **call).isfinite().all()
    else:
        with pytest.raises(ValueError, match="noise"):
            solve(problem, start(problem), path.grid(4), **call)


def test_torchsde_orders_are_those_it_states():
    """On noise that torchsde tells apart, except log_ode, whose order 1 needs consistent areas."""
    for name, orders in STRONG_ORDERS.items():
        for problem in (OrnsteinUhlenbeck(), SinhDiffusion(), LinearSDE()):
            if problem.noise_structure in orders and (name, problem.noise_structure) != ("log_ode", "general"):
                method = TorchsdeMethod(name)
                solver, _ = method.start(problem, times(0.0)[0], start(problem))
                assert solver.strong_order == orders[problem.noise_structure]
                assert solver.weak_order == method.weak_order


GENERAL = sorted(name for name, scheme in SCHEMES.items() if "diagonal" in scheme.strong_order)


@pytest.mark.parametrize("scheme", [*GENERAL, "torchsde:euler", "torchsde:srk"])
def test_float32_and_gradients(scheme):
    problem = GeometricBrownianMotion()
    y0 = problem.y0(4, torch.float64).requires_grad_()
    path = make_path()
    solution = solve(problem, y0, path.grid(8), scheme=scheme, path=path)
    (gradient,) = torch.autograd.grad(solution[-1].sum(), y0)
    # Linear and diagonal: the derivative is Y/y0.
    torch.testing.assert_close(gradient, (solution[-1] / y0).detach())
    low = make_path(dtype=torch.float32)
    single = solve(problem, problem.y0(4, torch.float32), low.grid(8), scheme=scheme, path=low)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), solution.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["sra1", "shark", "taylor15"])
def test_float32_with_additive_noise(scheme):
    problem = OrnsteinUhlenbeck()
    double, single = (
        solve(problem, problem.y0(4, dtype), path.grid(8), scheme=scheme, path=path)
        for dtype, path in ((d, make_path(dtype=d)) for d in (torch.float64, torch.float32))
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


class Spread(SDE):
    """dY = -Y dt + dW in any shape, diagonal."""

    def __init__(self):
        super().__init__("diagonal", "ito", dim=None, noise_structure="additive")

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return torch.ones_like(y)


@pytest.mark.parametrize("scheme", ["euler", "milstein", "heun", "sri2", "platen", "shark", "sra1", "log_ode"])
def test_states_of_any_shape(scheme):
    path = make_path((3, 2, 5))
    flat = BrownianPath(0.0, 1.0, (3, 10), seeds=range(3), depth=2, cells=2**6, dtype=torch.float64)
    y0 = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(3, 2, 5)
    image = solve(Spread(), y0, path.grid(4), scheme=scheme, path=path)
    row = solve(Spread(), y0.flatten(1), flat.grid(4), scheme=scheme, path=flat)
    torch.testing.assert_close(image.flatten(2), row, rtol=1e-13, atol=1e-13)


class Momentum(Scheme):
    """Two-step Adams-Bashforth drift with additive noise: keeps f of the step before."""

    sde_type = "ito"
    strong_order = strong_orders(1.0, ("additive",))
    weak_order = 1.0

    def start(self, sde, t, y):
        return sde.f(t, y)

    def advance(self, sde, start, end, y, memory, noise):
        f = sde.f(start, y)
        return y + (end - start) * (1.5 * f - 0.5 * memory) + noise[0], f


def test_memory_goes_from_step_to_step():
    path = make_path()
    y = torch.ones(4, 2, dtype=torch.float64)
    solution = solve(Spread(), y, path.grid(5), scheme=Momentum(), path=path)
    grid = path.grid(5)
    last = -y
    for k in range(5):
        y, last = y + (grid[k + 1] - grid[k]) * (-1.5 * y - 0.5 * last) + path(grid[k], grid[k + 1]), -y
    torch.testing.assert_close(solution[-1], y, rtol=1e-13, atol=1e-13)


def test_a_step_ends_at_the_time_itself():
    """Not at the sum of its start and its length, which rounds."""
    seen = []

    class Watched(OrnsteinUhlenbeck):
        def f(self, t, y):
            seen.append(t.item())
            return super().f(t, y)

    path = BrownianPath(0.0, 1.0, (4, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = torch.tensor([0.0, 0.01, 0.07, 0.33, 0.9], dtype=torch.float64)
    assert not torch.equal(grid[:-1] + grid.diff(), grid[1:])
    solve(Watched(), start(OrnsteinUhlenbeck()), grid, scheme="heun", path=path)
    assert {*seen} == {*grid.tolist()}


def test_anyone_may_add_a_scheme(monkeypatch):
    monkeypatch.setitem(SCHEMES, "mine", Momentum)
    path, y = make_path(), torch.ones(4, 2, dtype=torch.float64)
    named, given = (solve(Spread(), y, path.grid(5), scheme=scheme, path=path) for scheme in ("mine", Momentum()))
    assert torch.equal(named, given)
    monkeypatch.delitem(SCHEMES, "mine")
    with pytest.raises(ValueError, match=r"scheme must be one of .*; got 'mine'"):
        solve(Spread(), y, path.grid(5), scheme="mine", path=path)


def test_a_scheme_without_a_step_says_so():
    class Empty(Scheme):
        sde_type, strong_order, weak_order = "ito", strong_orders(1.0), 1.0

    path = make_path()
    with pytest.raises(NotImplementedError, match="Empty defines neither"):
        solve(OrnsteinUhlenbeck(), start(OrnsteinUhlenbeck()), path.grid(2), scheme=Empty(), path=path)


def test_a_state_that_is_not_finite_names_its_step_and_rows():
    problem = DoubleWell()
    path = make_path((4, 1), t1=64.0)
    y0 = problem.y0(4, torch.float64)
    y0[2] = 5.0
    states = []
    with pytest.raises(
        FloatingPointError, match=r"not finite after step (\d+) of 64, at t = (\d+\.0) \(h = 1\)"
    ) as error:
        solve(problem, y0, path.grid(64), scheme="euler", path=path, callback=lambda *call: states.append(call))
    finite = [bool(y.isfinite().all()) for _, _, y in states]
    number = finite.index(False) + 1
    assert f"step {number} of 64, at t = {number}.0 " in str(error.value)
    assert "in 1 of 4 rows: 2; take smaller steps" in str(error.value)
    assert len(states) < 17  # looked for every 16 steps
    with pytest.raises(FloatingPointError, match=f"step {number} of {number}"):
        solve(problem, y0, path.grid(64)[: number + 1], scheme="euler", path=path)


def test_many_rows_that_are_not_finite_are_counted():
    problem, path = DoubleWell(), make_path((12, 1), t1=64.0)
    y0 = torch.full((12, 1), 5.0).double()
    y0[1] = 0.0
    with pytest.raises(FloatingPointError, match=r"in \d+ of 12 rows: 0, 2, 3, 4, 5, 6, 7, 8, \.\.\.;"):
        solve(problem, y0, path.grid(64), scheme="euler", path=path)


def refuse(error, match, problem=None, *, y0=None, grid=None, scheme="euler", path=None):
    problem = OrnsteinUhlenbeck() if problem is None else problem
    path = make_path() if path is None else path
    grid = path.grid(4) if grid is None else grid
    with pytest.raises(error, match=match):
        solve(problem, start(problem) if y0 is None else y0, grid, scheme=scheme, path=path)


def test_refuses_noise_that_the_scheme_does_not_admit():
    refuse(ValueError, "ShARK needs additive noise; the SDE's is diagonal", SinhDiffusion(), scheme="shark")
    refuse(ValueError, "Taylor15 needs .* noise; the SDE's is general", LinearSDE(), scheme="taylor15")
    refuse(ValueError, "the SDE's is commutative", CommutativeLinearSDE(), scheme="torchsde:srk")


def test_refuses_a_path_without_what_the_scheme_needs():
    for scheme in ("milstein", "sri2", "platen", "log_ode"):
        refuse(ValueError, "needs Levy areas for general noise", HeisenbergGroup(), scheme=scheme)
    refuse(ValueError, "needs Levy areas", HeisenbergGroup(), scheme="torchsde:log_ode")
    for scheme in ("sra1", "shark", "taylor15", "torchsde:srk"):
        refuse(ValueError, "depth >= 2; this one has depth 1", scheme=scheme, path=make_path(depth=1))
    refuse(
        ValueError,
        "variance t - s",
        path=BrownianPath(0.5, 1.0, (4, 2), seeds=range(4), clock=SNRClock(0.3), cells=2**6, dtype=torch.float64),
    )


def test_one_noise_of_general_type_needs_no_area():
    problem = LinearSDE(noise=[[[0.0, 0.5], [0.5, 0.0]]])
    path = make_path((4, 1))
    assert solve(problem, start(problem), path.grid(4), scheme="milstein", path=path).isfinite().all()


def test_refuses_times():
    refuse(ValueError, "master grid", grid=times(0.0, 0.3, 1.0))
    refuse(ValueError, "increasing", grid=times(0.0, 0.5, 0.5, 1.0))
    refuse(ValueError, "increasing", grid=times(0.5, 0.25))
    refuse(ValueError, r"lie in \[0.0, 1.0\]", grid=times(0.0, 2.0))
    refuse(TypeError, "times must be a float64 tensor", grid=torch.tensor([0.0, 1.0]))
    refuse(TypeError, "times must be a float64 tensor", grid=[0.0, 1.0])
    refuse(TypeError, "times must be a float64 tensor", grid=times(0.0))


def test_a_bad_time_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 1)
    problem, path, calls = OrnsteinUhlenbeck(), make_path(), []
    with pytest.raises(ValueError, match="master grid"):
        solve(
            problem,
            start(problem),
            times(0.0, 0.5, 0.7),
            scheme="euler",
            path=path,
            callback=lambda *c: calls.append(c),
        )
    assert calls == []


def test_refuses_states_and_paths_that_do_not_fit():
    refuse(TypeError, "y0 must", y0=[1.0])
    refuse(TypeError, "y0 must", y0=torch.ones(4, 2, dtype=torch.int64))
    refuse(ValueError, r"y0 must have shape \(batch, 2\)", y0=torch.ones(4, 3, dtype=torch.float64))
    refuse(ValueError, r"y0 must have shape \(batch, dim\)", y0=torch.ones(2, dtype=torch.float64))
    refuse(ValueError, "y0 must be finite", y0=torch.full((4, 2), torch.nan, dtype=torch.float64))
    refuse(ValueError, r"path must have shape \(4, 2\)", path=make_path((4, 3)))
    refuse(ValueError, r"path must have shape \(4, 2\)", path=make_path((5, 2)))
    refuse(ValueError, "shape .* of y0 for diagonal", SinhDiffusion(), path=make_path((4, 3)))
    refuse(TypeError, "torch.float64", path=make_path(dtype=torch.float32))
    with pytest.raises(TypeError, match="path must be a BrownianPath"):
        solve(OrnsteinUhlenbeck(), start(OrnsteinUhlenbeck()), times(0.0, 1.0), scheme="euler", path=None)


def test_refuses_schemes_and_sdes():
    refuse(ValueError, "scheme must be one of 'euler'.*'torchsde:srk'", scheme="no such scheme")
    refuse(ValueError, "scheme must be", scheme="torchsde:adjoint_reversible_heun")
    refuse(ValueError, "scheme must be", scheme=Euler)
    with pytest.raises(ValueError, match="name must be one of"):
        TorchsdeMethod("shark")
    path = make_path()
    with pytest.raises(TypeError, match="sde must have f, g"):
        solve(object(), torch.ones(4, 2, dtype=torch.float64), path.grid(2), scheme="euler", path=path)


def test_words_say_what_is_needed():
    assert Euler().words("general") == ((0,), (1,), (2,))
    assert (1, 2) in Milstein().words("general")
    assert (1, 2) not in Milstein().words("commutative")
    assert ShARK().words("additive") == ((0,), (1,), (2,), (0, 0), (0, 1), (0, 2), (1, 0), (2, 0))


def test_finite_values_whose_sum_is_not_are_finite():
    large = torch.full((4,), 3e38)
    assert driver.all_finite(large)
    for value in (torch.inf, -torch.inf, torch.nan):
        assert not driver.all_finite(torch.cat([large, torch.tensor([value])]))
    assert not driver.all_finite(torch.tensor([torch.inf, -torch.inf]))


def test_saved_states_are_those_of_the_whole_solution():
    problem, path = OrnsteinUhlenbeck(), make_path()
    grid = path.grid(40)
    whole = solve(problem, start(problem), grid, scheme="shark", path=path)
    last = solve(problem, start(problem), grid, scheme="shark", path=path, save="last")
    assert torch.equal(last, whole[-1])
    for chosen in ([0, 1, 39, 40], [16], [3, 17, 18], [0]):
        found = solve(problem, start(problem), grid, scheme="shark", path=path, save=grid[chosen])
        assert torch.equal(found, whole[chosen])


def test_what_is_saved_is_differentiable():
    problem, path, gradients = OrnsteinUhlenbeck(), make_path(), []
    for save, end in (("all", -1), ("last", ...), (times(0.5, 1.0), -1)):
        y0 = start(problem).requires_grad_()
        solve(problem, y0, path.grid(8), scheme="euler", path=path, save=save)[end].sum().backward()
        gradients.append(y0.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


class Living:
    """A callback that counts the states which are still there."""

    def __init__(self):
        self.references, self.most = [], 0

    def __call__(self, number, t, y):
        self.references.append(weakref.ref(y))
        self.most = max(self.most, sum(reference() is not None for reference in self.references))


@pytest.mark.parametrize("scheme", ["euler", "milstein", "torchsde:reversible_heun"])
def test_no_more_states_live_than_are_saved(scheme):
    """Beside the 16 among which a broken one is looked for, and the scheme's own."""
    most = []
    for steps in (64, 512):
        problem, path, living = SinhDiffusion(), make_path(cells=2**9), Living()
        with torch.no_grad():
            solve(problem, start(problem), path.grid(steps), scheme=scheme, path=path, callback=living, save="last")
        assert len(living.references) == steps
        most.append(living.most)
    assert most[0] == most[1] <= 20
    living = Living()
    with torch.no_grad():
        solution = solve(
            problem, start(problem), path.grid(512), scheme=scheme, path=path, callback=living, save=path.grid(8)
        )
    assert len(solution) == 9
    assert living.most <= 20 + 9


@pytest.mark.parametrize("steps", [64, 70])
@pytest.mark.parametrize("save", ["last", "all", "times"])
def test_the_step_that_breaks_is_named_whatever_is_saved(save, steps):
    """Within a window of 16 steps, and in the steps after the last whole one."""
    problem = DoubleWell()
    path = BrownianPath(0.0, 70.0, (4, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y0 = problem.y0(4, torch.float64)
    grid = torch.arange(steps + 1, dtype=torch.float64)
    for first in (0, 13, 16, 31, 50, 63, 66):
        if first + 6 > steps:
            continue

        class Breaking(Euler):
            def step(self, sde, start, end, y, *noise, first=first):
                y = 0 * y + 1
                y[2] = torch.inf if start >= first else 1.0
                return y

        wanted = grid[::3] if save == "times" else save
        with pytest.raises(
            FloatingPointError, match=f"not finite after step {first + 1} of {steps}, .* in 1 of 4 rows: 2"
        ):
            solve(problem, y0, grid, scheme=Breaking(), path=path, save=wanted)


@pytest.mark.parametrize(
    "save, error, match",
    [
        ("first", ValueError, "save must be one of 'all', 'last'; got 'first'"),
        (times(0.0, 0.3), ValueError, "save must be some of the times; 0.3 is none of them"),
        (times(2.0), ValueError, "2.0 is none of them"),
        (times(0.5, 0.25), ValueError, "save must be increasing"),
        (times(0.5, 0.5), ValueError, "save must be increasing"),
        (times(), TypeError, "save must be 'all', 'last' or a float64 tensor"),
        (torch.tensor([0.5]), TypeError, "float64 tensor of shape"),
        ([0.5], TypeError, "float64 tensor of shape"),
        (None, TypeError, "float64 tensor of shape"),
    ],
)
def test_refuses_what_cannot_be_saved(save, error, match):
    problem, path, calls = OrnsteinUhlenbeck(), make_path(), []
    with pytest.raises(error, match=match):
        solve(
            problem,
            start(problem),
            path.grid(4),
            scheme="euler",
            path=path,
            save=save,
            callback=lambda *call: calls.append(call),
        )
    assert calls == []
