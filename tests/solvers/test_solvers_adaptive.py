"""Adaptive steps: accuracy for the tolerance, no bias from rejections, what is returned and refused."""

import math
from itertools import pairwise

import pytest
import torch

from sdesig import BrownianPath, CanonicalSDE, Mixture, SNRDenoiser, sample_partial_signature, solve, solve_adaptive
from sdesig.sde import SDE
from sdesig.sde.problems import DoubleWell, FadingNoise, OrnsteinUhlenbeck, SinhDiffusion
from sdesig.solvers import ShARK, adaptive


def brownian(shape=(4, 2), t1=1.0, **kwargs):
    source = {} if "generator" in kwargs else {"seeds": range(shape[0])}
    return BrownianPath(0.0, t1, shape, **{"cells": 2**10, "dtype": torch.float64} | source | kwargs)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def rms(errors):
    return errors.square().mean().sqrt().item()


class StiffWell(DoubleWell):
    """dY = 200 (Y - Y^3) dt + .7 dW."""

    def f(self, t, y):
        return 200 * super().f(t, y)


def test_a_stiff_double_well_is_solved_where_as_many_fixed_steps_explode():
    problem, path = StiffWell(), brownian((8, 1), cells=2**14)
    y0 = torch.linspace(-3, 3, 8, dtype=torch.float64)[:, None]
    outputs = times(0.0, 1 / 16, 1 / 4, 1.0)
    reference = solve(problem, y0, path.grid(2**14), scheme="shark", path=path)[(outputs * 2**14).long()]
    errors = []
    for tolerance in (0.3, 0.1, 0.03):
        solution = solve_adaptive(problem, y0, outputs, path=path, rtol=tolerance, atol=tolerance)
        errors.append(rms(solution.states - reference))
        assert errors[-1] < tolerance
        with pytest.raises(FloatingPointError):
            solve(problem, y0, path.grid(len(solution.step_times) - 1), scheme="shark", path=path)
    assert all(finer < coarser / 2 for coarser, finer in pairwise(errors)), errors


def test_a_reverse_diffusion_needs_fewer_evaluations_than_on_a_grid_even_in_log_snr():
    sde = CanonicalSDE(SNRDenoiser(Mixture.circle(1.0, 0.3, dtype=torch.float64).denoise_y))
    first, last = math.exp(-8), math.exp(8)
    path = BrownianPath(first, last, (64, 2), seeds=range(64), cells=2**12, clock=sde.clock, dtype=torch.float64)
    start = sde.start(path.initial_noise(), first)

    def solved(y):
        return sde.noisy_data(y, last)

    reference = solved(solve(sde, start, path.grid(2**11), scheme="shark", path=path)[-1])
    errors = []
    for tolerance in (0.1, 0.03, 0.01):
        solution = solve_adaptive(sde, start, times(first, last), path=path, rtol=tolerance, atol=tolerance)
        errors.append(rms(solved(solution.states[-1]) - reference))
        # As accurate as a grid with half as many evaluations again, or better.
        fixed = solve(sde, start, path.grid(3 * solution.evaluations // 4), scheme="shark", path=path)[-1]
        assert errors[-1] < rms(solved(fixed) - reference), (tolerance, errors)
    assert all(finer < coarser / 1.5 for coarser, finer in pairwise(errors)), errors


class RecordedNoise(SDE):
    """dY = -2 Y dt + dB and dR = dB: a solver's R(1) is the Brownian path that it has seen."""

    def __init__(self):
        super().__init__("additive", "ito", dim=2, noise_dim=1)

    def f(self, t, y):
        return y * times(-2.0, 0.0)

    def g(self, t, y):
        return torch.ones_like(y).unsqueeze(-1)


class ForgetfulPath(BrownianPath):
    """A wrong one: every query is drawn anew, so a rejected step's noise is forgotten."""

    draws = torch.Generator().manual_seed(2)

    def partial_signature(self, s, t):
        return sample_partial_signature(self.shape, t - s, depth=2, generator=self.draws, dtype=self.dtype)


@pytest.fixture
def eager(monkeypatch):
    """A controller that changes the step as much as the last error says, so that many steps are rejected."""
    monkeypatch.setattr(adaptive, "_INTEGRAL", 1.0)
    monkeypatch.setattr(adaptive, "_PROPORTIONAL", 0.0)


def law_of_adaptive_solutions(kind, batches, tolerance, batch=8):
    """z-scores of moments of R(1) and Y(1) over many small batches, and the rejected share of all steps."""
    sde, found, rejected, accepted = RecordedNoise(), [], 0, 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        path = kind(0.0, 1.0, (batch, 1), generator=generator, dtype=torch.float64)
        y0 = times(1.0, 0.0).repeat(batch, 1)
        solution = solve_adaptive(sde, y0, times(0.0, 1.0), path=path, rtol=tolerance, atol=tolerance)
        found.append(solution.states[-1])
        rejected += solution.rejected
        accepted += len(solution.step_times) - 1
    y, r = torch.cat(found).unbind(-1)
    y = y - math.exp(-2)
    variance, covariance = (1 - math.exp(-4)) / 4, (1 - math.exp(-2)) / 2
    deviations = {  # from the exact law, and the exact standard deviation of one sample
        "E R": (r, 1.0),
        "E R^2": (r**2 - 1, math.sqrt(2)),
        "E Y": (y, math.sqrt(variance)),
        "Var Y": (y**2 - variance, math.sqrt(2) * variance),
        "E RY": (r * y - covariance, math.sqrt(variance + covariance**2)),
    }
    z = {name: (x.mean() / deviation * math.sqrt(len(y))).item() for name, (x, deviation) in deviations.items()}
    return z, rejected / (rejected + accepted)


def test_rejections_do_not_bias_the_law(eager):
    """10000 paths, eight in a batch, so that rejections go with the noise. False-alarm rate 5 x 6e-7."""
    z, rejected = law_of_adaptive_solutions(BrownianPath, 1250, tolerance=0.03)
    assert rejected > 0.2
    assert max(map(abs, z.values())) < 5, z


def test_drawing_anew_after_a_rejection_does_bias_the_law(eager):
    """The control: two fifths of the paths suffice to see it."""
    z, _ = law_of_adaptive_solutions(ForgetfulPath, 500, tolerance=0.03)
    assert max(map(abs, z.values())) > 5, z


def test_the_error_estimate_is_the_difference_to_the_step_with_one_evaluation():
    problem, path = FadingNoise(), brownian((5, 1))
    t, h, y = times(0.25)[0], times(0.5)[0], problem.y0(5, torch.float64)
    step = path.partial_signature(t, t + h)
    g = problem.g(t, y).squeeze(-1)
    euler = y + h * problem.f(t, y + g * step.space_time_area) + g * step.increment
    y_next, error = ShARK().step_and_error(problem, t, t + h, y, step.increment, step.space_time_area)
    torch.testing.assert_close(error, y_next - euler, rtol=1e-12, atol=1e-14)
    assert torch.equal(y_next, ShARK().step(problem, t, t + h, y, step.increment, step.space_time_area))


@pytest.mark.parametrize("source", ["seeds", "generator"])
def test_what_is_returned(source, eager):
    problem = OrnsteinUhlenbeck()
    kwargs = {"generator": torch.Generator().manual_seed(0)} if source == "generator" else {}
    path = brownian(**kwargs)
    outputs = times(0.0, 0.25, 0.25 + 2**-10, 0.75)
    y0 = problem.y0(4, torch.float64)
    solution = solve_adaptive(problem, y0, outputs, path=path, rtol=0.0, atol=3e-3)
    assert torch.equal(solution.times, outputs)
    assert torch.equal(solution.states[0], y0)
    assert solution.rejected > 0
    counts = f"{len(solution.step_times) - 1} steps, {solution.rejected} rejected, {solution.evaluations} evaluations"
    assert repr(solution) == f"AdaptiveSolution({len(outputs)} states of shape {tuple(y0.shape)}, {counts})"
    assert solution.evaluations == 2 * (len(solution.step_times) - 1 + solution.rejected)
    at = torch.searchsorted(solution.step_times, outputs)
    assert torch.equal(solution.step_times[at], outputs)
    again = solve(problem, y0, solution.step_times, scheme="shark", path=path)
    torch.testing.assert_close(solution.states, again[at], rtol=1e-12, atol=1e-12)
    # Every row's estimate of every step is within tolerance.
    for k, (t, end) in enumerate(pairwise(solution.step_times)):
        noise = ShARK().noise("additive", path.partial_signature(t, end))
        _, error = ShARK().step_and_error(problem, t, end, again[k], *noise)
        assert error.square().mean(-1).sqrt().max() <= 3e-3 * (1 + 1e-9)


def test_a_step_is_as_short_as_the_worst_row_needs():
    problem, path = DoubleWell(), brownian((2, 1), cells=2**14)
    y0 = times(1.0, 5.0)[:, None]
    both = solve_adaptive(problem, y0, times(0.0, 1 / 16), path=path, atol=1e-4)
    calm = solve_adaptive(problem, y0[:1], times(0.0, 1 / 16), path=brownian((1, 1), cells=2**14), atol=1e-4)
    assert len(both.step_times) > 5 * len(calm.step_times)
    torch.testing.assert_close(both.states[:, :1], calm.states, rtol=1e-3, atol=1e-3)


def test_without_drift_steps_grow_and_are_exact():
    problem = OrnsteinUhlenbeck(rate=0.0, level=0.0, volatility=0.5)
    path = brownian((4, 1))
    solution = solve_adaptive(problem, problem.y0(4, torch.float64), times(0.0, 1.0), path=path, atol=1e-4)
    assert len(solution.step_times) < 6
    assert solution.rejected == 0
    torch.testing.assert_close(solution.states[-1], 1 + 0.5 * path(0.0, 1.0), rtol=1e-12, atol=1e-12)


def test_a_state_that_is_not_finite_is_a_rejection():
    class Bounded(DoubleWell):
        """A drift that is NaN beyond |y| = 1.5."""

        def f(self, t, y):
            return torch.where(y.abs() < 1.5, -400 * y, torch.nan)

    problem, path = Bounded(0.1), brownian((4, 1), cells=2**12)
    y0 = torch.full((4, 1), 1.4, dtype=torch.float64)
    # The first trial, a hundredth of the path, overshoots to -4.2.
    solution = solve_adaptive(problem, y0, times(0.0, 0.25), path=path, rtol=0.1, atol=0.1)
    assert solution.rejected > 0
    assert solution.states.isfinite().all()


def test_float32_and_gradients():
    problem, outputs = OrnsteinUhlenbeck(), times(0.0, 1.0)
    y0 = problem.y0(4, torch.float64).requires_grad_()
    solution = solve_adaptive(problem, y0, outputs, path=brownian(), rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(solution.states[-1].sum(), y0)
    flow = torch.linalg.matrix_exp(-problem.rate)  # the derivative of Y(1) in Y(0)
    torch.testing.assert_close(gradient, flow.sum(0).expand(4, 2), rtol=0.02, atol=0.0)
    low = solve_adaptive(
        problem, problem.y0(4, torch.float32), outputs, path=brownian(dtype=torch.float32), rtol=1e-3, atol=1e-3
    )
    assert low.states.dtype == torch.float32
    torch.testing.assert_close(low.states.double(), solution.states.detach(), rtol=1e-3, atol=1e-3)


def test_refuses():
    problem, path = OrnsteinUhlenbeck(), brownian()
    y0 = problem.y0(4, torch.float64)

    def refuse(error, match, sde=problem, y0=y0, outputs=None, path=path, **tolerances):
        outputs = times(0.0, 1.0) if outputs is None else outputs
        with pytest.raises(error, match=match):
            solve_adaptive(sde, y0, outputs, path=path, **{"atol": 1e-4} | tolerances)

    refuse(ValueError, "rtol must be a finite number >= 0; got -1", rtol=-1)
    refuse(ValueError, "atol must be a finite number > 0; got 0", atol=0)
    refuse(TypeError, "atol must be a real number", atol="small")
    refuse(ValueError, "ShARK needs additive noise", sde=SinhDiffusion())
    refuse(ValueError, "depth >= 2", path=brownian(depth=1))
    refuse(ValueError, "master grid", outputs=times(0.0, 0.3))
    refuse(TypeError, "times must be a float64 tensor", outputs=[0.0, 1.0])
    refuse(ValueError, "y0 must be finite", y0=y0 * torch.nan)
    refuse(ValueError, "at least one row", y0=y0[:0], path=brownian((0, 2), generator=torch.Generator()))


@pytest.mark.parametrize("kwargs, h", [({"cells": 2**4}, "0.0625"), ({"generator": torch.Generator()}, "9.31e-10")])
def test_a_step_that_cannot_be_shortened_is_an_error(kwargs, h):
    problem, path = OrnsteinUhlenbeck(), brownian(**kwargs)
    with pytest.raises(RuntimeError, match=rf"t = 0.0 \(h = {h}\) has .* rtol = 0 and atol = 1e-20 .* more cells, or"):
        solve_adaptive(problem, problem.y0(4, torch.float64), times(0.0, 1.0), path=path, rtol=0.0, atol=1e-20)


class Scaled(SDE):
    """Y = size X(t/span) of dX = -4 X^3 dt + .5 dW."""

    def __init__(self, size, span):
        super().__init__("diagonal", "ito", dim=None, noise_structure="additive")
        self.size, self.span = size, span

    def f(self, t, y):
        return -4 * y**3 / (self.size**2 * self.span)

    def g(self, t, y):
        return torch.full_like(y, 0.5 * self.size / self.span**0.5)


def test_steps_do_not_depend_on_units():
    """By powers of two (of four, in time), so that all is the same to the last bit; atol has the units of Y."""
    found = []
    for size, span in ((1.0, 1.0), (2.0**40, 1.0), (2.0**-40, 4.0**15), (1.0, 4.0**-20)):
        path = BrownianPath(0.0, span, (4, 2), seeds=range(4), cells=2**10, dtype=torch.float64)
        y0 = size * torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(4, 2)
        ends = span * times(0.0, 0.25, 1.0)
        solution = solve_adaptive(Scaled(size, span), y0, ends, path=path, rtol=1e-2, atol=1e-2 * size)
        found.append((solution.step_times / span, solution.states / size, solution.rejected))
    assert len(found[0][0]) > 10
    for steps, states, rejected in found[1:]:
        assert torch.equal(steps, found[0][0])
        torch.testing.assert_close(states, found[0][1], rtol=1e-12, atol=1e-12)
        assert rejected == found[0][2]


def test_an_absolute_tolerance_has_no_default():
    """It would have units: 1e-4 of what?"""
    problem = OrnsteinUhlenbeck()
    with pytest.raises(TypeError, match="atol"):
        solve_adaptive(problem, problem.y0(4, torch.float64), times(0.0, 1.0), path=brownian())
