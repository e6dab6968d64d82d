"""Strong orders of real schemes by `strong_order`, its coupling, its masks, and what it refuses.

An order passes by `supports` (95 % interval above theory - .15, half-width at most .1, successive slopes on one line):
the noise is so far below .15 that false alarms are rarer than 1e-5 each. Each order has a control that fails it.
"""

import inspect
import weakref

import pytest
import torch

from sdesig import BrownianPath, solve, strong_order, weak_order
from sdesig.convergence import NestedPath
from sdesig.sde import SDE
from sdesig.sde.problems import (
    DoubleWell,
    FadingNoise,
    GeometricBrownianMotion,
    LinearSDE,
    OrnsteinUhlenbeck,
    SinhDiffusion,
    TanhDiffusion,
)
from sdesig.solvers import Euler

F64 = torch.float64


def order(problem, scheme, **kwargs):
    return strong_order(problem, problem.initial, scheme=scheme, **{"paths": 2000} | kwargs)


@pytest.mark.parametrize(
    "scheme, problem, theory",
    [("euler", SinhDiffusion(0.4), 0.5), ("milstein", SinhDiffusion(0.4), 1.0), ("taylor15", TanhDiffusion(), 1.5)],
)
def test_order_against_the_exact_solution(scheme, problem, theory):
    estimate = order(problem, scheme, steps=(8, 16, 32, 64))
    assert all(estimate.used)
    assert estimate.supports(theory), estimate
    assert estimate.refutes(theory + 0.5)


def test_order_one_and_a_half_against_a_numeric_truth():
    estimate = order(DoubleWell(), "shark", steps=(32, 64, 128), truth=1024, paths=1000)
    assert all(estimate.used)
    assert estimate.supports(1.5), estimate
    assert order(DoubleWell(), "euler", steps=(8, 16, 32), truth=512, truth_scheme="shark").refutes(1.5)


def test_order_one_with_areas_against_a_numeric_truth():
    estimate = order(LinearSDE(), "milstein", steps=(2, 4, 8), truth=128, paths=3000)
    assert all(estimate.used)
    assert estimate.supports(1.0), estimate
    control = order(LinearSDE(), "euler", steps=(2, 4, 8), truth=128, truth_scheme="milstein", paths=1000)
    assert control.refutes(1.0)


def test_step_counts_near_a_numeric_truth_are_masked():
    """More steps than 1/16 of the truth's lie within 8 of its errors at order 1 (8.5 times, 1/8: 4 times)."""
    estimate = order(SinhDiffusion(0.4), "milstein", steps=(4, 8, 16, 32, 64), truth=256)
    assert estimate.used == (True, True, True, False, False)
    assert len(set(estimate.floors)) == 1
    with pytest.raises(ValueError, match="fewer than two errors can be fitted"):
        order(SinhDiffusion(0.4), "milstein", steps=(64, 128), truth=256)


def test_errors_of_rounding_are_masked():
    """Taylor's scheme without noise and drift is exact."""
    still = SinhDiffusion(0.0)
    with pytest.raises(ValueError, match="fewer than two errors"):
        order(still, "taylor15", paths=10, steps=(2, 4))


def test_errors_are_those_of_the_solver_on_the_same_path():
    """Against `solve` on a path of its own, joined from the top down: another order of sums."""
    problem, paths = LinearSDE(), 40
    estimate = order(problem, "milstein", steps=(2, 4), truth=64, paths=paths, seed=3)
    seeds = range(3 * 2**32, 3 * 2**32 + paths)
    path = BrownianPath(0.0, 1.0, (paths, 2), seeds=seeds, depth=1, cells=2**6, area=True, dtype=F64)
    start = problem.y0(paths, F64)
    ends = {n: solve(problem, start, path.grid(n), scheme="milstein", path=path)[-1] for n in (2, 4, 32, 64)}
    rms = {n: (ends[n] - ends[64]).norm(dim=1).square().mean().sqrt().item() for n in (2, 4, 32)}
    assert estimate.errors == pytest.approx([rms[2], rms[4]], rel=1e-10)
    assert estimate.floors == pytest.approx([8 * rms[32]] * 2, rel=1e-10)


def test_results_do_not_depend_on_the_chunks(monkeypatch):
    whole = order(LinearSDE(), "milstein", steps=(2, 4), truth=64, paths=50)
    monkeypatch.setattr("sdesig._memory.NUMBERS_AT_ONCE", 4 * 64 * 6 * 7)
    parts = order(LinearSDE(), "milstein", steps=(2, 4), truth=64, paths=50)
    assert parts.errors == pytest.approx(whole.errors, rel=1e-12)
    assert parts.order == pytest.approx(whole.order, rel=1e-9)
    assert parts.errors != order(LinearSDE(), "milstein", steps=(2, 4), truth=64, paths=50, seed=1).errors


def test_a_callable_start_and_truth():
    problem = GeometricBrownianMotion(volatility=(0.2, 0.3))
    given = strong_order(
        problem,
        lambda path: (0.3 * path.initial_noise()).exp(),
        scheme="milstein",
        paths=1000,
        truth=lambda path, y0: problem.exact(1.0, path(0.0, 1.0), y0),
    )
    assert given.supports(1.0)
    assert given.errors != order(problem, "milstein", paths=1000).errors


class Bare:
    """Only what torchsde asks for."""

    noise_type, sde_type = "general", "ito"

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return y[..., None] * torch.tensor([0.3, 0.2], dtype=y.dtype)


def test_the_noise_dimension_is_found_from_g():
    estimate = strong_order(Bare(), torch.ones(1), scheme="euler", steps=(4, 8), paths=200, truth=128)
    assert estimate.order > 0.3
    with pytest.raises(ValueError, match="row_shape must be given"):
        strong_order(Bare(), lambda path: torch.ones(len(path.shape), 1), scheme="euler", truth=256)


class Silent(SDE):
    """Counts what is asked of it."""

    def __init__(self):
        super().__init__("diagonal", "ito", dim=2)

    def f(self, t, y):
        raise AssertionError("work started before the arguments were checked")

    g = f


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": ()}, r"steps must be two or more numbers of steps that increase; got \(\)"),
        ({"steps": (8,)}, "steps must be two or more"),
        ({"steps": (16, 8)}, r"steps must be two or more numbers of steps that increase; got \(16, 8\)"),
        ({"steps": (0, 8)}, r"steps\[0\] must be >= 1; got 0"),
        (
            {"steps": (9, 1031), "truth": 2048},
            r"at most 1048576, .*; that of \[9, 1024, 1031, 2048\] and 1 is 19003392",
        ),
        ({"truth": 101}, "truth must be an even number of steps, half of which tell its error; got 101"),
        ({"paths": 0}, r"paths must be in \[2, 4294967296\]; got 0"),
        ({"seed": -1}, r"seed must be in \[0, 1073741824\]; got -1"),
        ({"scheme": "eular"}, "scheme must be one of 'euler', 'milstein',.*; got 'eular'"),
        ({"truth_scheme": "eular"}, "scheme must be one of 'euler', 'milstein',.*; got 'eular'"),
        ({"scheme": "sra1"}, "SRA1 needs additive noise; the SDE's is diagonal"),
        ({"truth_scheme": "sra1"}, "SRA1 needs additive noise; the SDE's is diagonal"),
        ({"truth": 32}, "truth must have more steps than the finest solution, 32; got 32"),
        ({"truth": None}, "truth must be given, .*Silent has no exact solution"),
        ({"truth": lambda path, y0: y0, "truth_scheme": "euler"}, "truth_scheme is given without"),
        ({"y0": torch.ones(3)}, r"y0 must have shape \(2,\), one start for all paths, or be callable; got \(3,\)"),
        ({"y0": torch.ones(5, 2)}, r"y0 must have shape \(2,\)"),
        ({"y0": lambda path: torch.ones(7, 2)}, r"y0\(path\) must have shape \(1, \*event\); got \(7, 2\)"),
        ({"t1": 0.0}, "t1 must be > t0"),
    ],
)
def test_refusals(change, message):
    arguments = {"y0": torch.ones(2), "scheme": "euler", "steps": (8, 32), "paths": 10, "truth": 64} | change
    with pytest.raises(ValueError, match=message):
        strong_order(Silent(), **arguments)


def test_other_refusals():
    with pytest.raises(ValueError, match="truth must be given for t0 != 0"):
        order(FadingNoise(), "euler", t0=0.5)
    with pytest.raises(ValueError, match=r"must be floating-point of the shape \(1, 2\) of y0; got torch.float64"):
        order(SinhDiffusion(), "euler", paths=10, truth=lambda path, y0: y0[:, 0])
    for given in ("exact", 1.5):
        with pytest.raises(TypeError, match="truth must be a number of steps or callable"):
            order(SinhDiffusion(), "euler", truth=given)
    with pytest.raises(TypeError, match="steps must be a sequence of integers"):
        order(SinhDiffusion(), "euler", steps=8)
    with pytest.raises(TypeError, match=r"y0 must be a torch\.Tensor"):
        strong_order(SinhDiffusion(), [1.0, 2.0], scheme="euler")


def test_solutions_and_truth_keep_no_history():
    """Living states of a scheme that takes note of them."""
    states, most = [], []

    class Noted(Euler):
        def step(self, *arguments):
            y = super().step(*arguments)
            states.append(weakref.ref(y))
            most.append(sum(state() is not None for state in states))
            return y

    problem = OrnsteinUhlenbeck()
    strong_order(problem, problem.initial, scheme=Noted(), steps=(16, 32), paths=10, truth=1024)
    assert len(states) == 16 + 32 + 512 + 1024
    assert max(most) <= 24


def test_a_truth_may_ask_the_path_for_any_steps():
    problem = GeometricBrownianMotion()

    def in_legs(path, y0):
        legs = path.partial_signatures([0.0, 0.5, 0.75, 1.0])
        for k in range(3):
            y0 = problem.exact(legs[k].h.item(), legs[k].increment, y0)
        return y0

    options = {"steps": (4, 8, 16), "paths": 200}
    assert order(problem, "milstein", truth=in_legs, **options).errors == pytest.approx(
        order(problem, "milstein", **options).errors, rel=1e-9
    )


@pytest.mark.parametrize("times", [(0.0, 0.5, 0.75, 1.0), (0.0, 3 / 16, 6 / 16), (1 / 16, 3 / 16, 5 / 16), (0.0, 0.25)])
@pytest.mark.parametrize("reflected", [False, True])
def test_steps_of_a_nested_path_are_those_of_the_path(times, reflected):
    options = {"shape": (5, 2), "seeds": range(5), "cells": 2**4, "area": True, "dtype": F64}
    nested, plain = (kind(t0=0.0, t1=1.0, **options) for kind in (NestedPath, BrownianPath))
    if reflected:
        nested, plain = nested.reflected(), plain.reflected()
    found, expected = nested.partial_signatures(times), plain.partial_signatures(times)
    for name in ("h", "coefficients", "levy_area"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="at least two times"):
        nested.partial_signatures([0.5])


def test_a_truth_may_ask_for_a_finer_and_deeper_path_with_areas():
    problem, seen = LinearSDE(), []

    def fine(path, y0):
        seen.append((path.cells, path.depth, path.area))
        return solve(problem, y0, path.grid(256), scheme="milstein", path=path)[-1]

    options = {"steps": (4, 8), "paths": 100}
    given = order(problem, "euler", truth=fine, cells=2**8, depth=3, area=True, **options)
    assert set(seen) == {(256, 3, True)}
    path = {"cells": 2**8, "depth": 3, "area": True}
    same = order(problem, "euler", truth=256, truth_scheme="milstein", **path, **options)
    assert given.errors == pytest.approx(same.errors, rel=1e-9)


@pytest.mark.parametrize(
    "truth, message",
    [
        (lambda path, y0: y0 * torch.nan, "must be finite"),
        (lambda path, y0: torch.ones(y0.shape, dtype=torch.int64), "must be floating-point .* got torch.int64"),
        (lambda path, y0: None, "got None"),
    ],
)
def test_a_bad_truth_is_refused_before_the_work(truth, message):
    with pytest.raises(ValueError, match=message):
        strong_order(Silent(), torch.ones(2), scheme="euler", steps=(8, 32), paths=10, truth=truth)


def test_what_a_truth_asks_of_the_path_is_checked():
    for name, value, kind in (("cells", 2**31, ValueError), ("depth", 0, ValueError), ("area", 1, TypeError)):
        with pytest.raises(kind, match=name):
            order(SinhDiffusion(), "euler", paths=10, **{name: value})


class OwnSDE(SDE):
    def __init__(self):
        super().__init__("diagonal", "ito", dim=1)

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return torch.cos(y) / 2


def test_masked_errors_are_in_the_text():
    """Order 1/2: the errors of 32 and 64 steps are within 8 times the change of the truth from half its steps."""
    estimate = strong_order(OwnSDE(), torch.tensor([0.3]), scheme="euler", steps=(8, 16, 32, 64), truth=512, paths=1000)
    assert estimate.used == (True, True, False, False)
    assert str(estimate).endswith("], 2 of 4 step counts")
    assert str(estimate) in repr(estimate)


@pytest.mark.parametrize("function", [strong_order, weak_order])
def test_the_signature_is_that_of_the_arguments(function):
    """The SDE and its start by position, all else by name, with the defaults that are used."""
    shown = inspect.signature(function).parameters
    places = [name for name, p in shown.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert places == ["sde", "y0"]
    assert all(p.kind is p.KEYWORD_ONLY for name, p in shown.items() if name not in places)
    assert shown["steps"].default == ((8, 16, 32, 64, 128) if function is strong_order else (2, 4, 8, 16))
    assert {name for name, p in shown.items() if p.default is p.empty} - {"functional"} == {"sde", "y0", "scheme"}
    for name in shown:
        assert f"{name}:" in function.__doc__ or f"{name}," in function.__doc__, name
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) got an unexpected keyword argument 'path'"):
        function(SinhDiffusion(), SinhDiffusion().initial, scheme="euler", path=10)


def test_numbers_of_steps_need_no_powers_of_two():
    """Order 1 at step numbers whose grid has 240 cells, and 720 with a numeric truth."""
    options = {"steps": (6, 10, 16, 30, 48), "paths": 4000, "seed": 3}
    found = order(SinhDiffusion(0.4), "milstein", **options)
    assert found.supports(1.0)
    assert found.refutes(1.5)
    numeric = order(SinhDiffusion(0.4), "milstein", truth=720, **options)
    assert numeric.errors == pytest.approx(found.errors, rel=0.05)
