"""Steps behind a free one: where they begin, what the state is there, and that nothing is lost by it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from students_start import StudentsStart

from sdesig import solve
from sdesig._intervals import paired_ratio
from sdesig.convergence import fit_strong
from sdesig.evaluation import Comparison, Sampler
from sdesig.sampling import CanonicalSDE, GaussianReference, PathAverage, PathSpace, SNRDenoiser, StepGrid
from sdesig.sampling.teacher_paths import TeacherOptions, coarse_ends, draw_paths
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG

F64 = torch.float64
LAW = Mixture.circle(1.0, 0.3, dtype=F64)
TEACHER = SNRDenoiser(LAW.denoise_y)
RANGE = (math.exp(-8), math.exp(8))
REFERENCE = GaussianReference(LAW.mean(), torch.tensor([0.6, 0.5], dtype=F64))
FREE = StepGrid((0.0, 0.4, 1.0), free=0.5, fall=1 / 16)
"""Of this range the free step ends at an SNR in proportion to 1/N: e^0/N."""
SPACE = PathSpace((2,), RANGE, REFERENCE, cells=1024, grid=FREE)
SDE = CanonicalSDE(TEACHER, reference=REFERENCE)


@pytest.mark.parametrize("steps", [1, 4, 9, 64])
def test_the_end_of_the_free_step_falls_with_the_steps(steps):
    positions = FREE.positions(steps)
    begin = 0.5 - math.log(steps) / 16
    assert positions[0] == pytest.approx(begin, abs=1e-12)
    assert positions[-1] == 1.0
    # with the mass .5 before position .4: the steps have equal masses of what lies behind
    mass = np.interp(positions, (0.0, 0.4, 1.0), (0.0, 0.5, 1.0))
    np.testing.assert_allclose(np.diff(mass), (1 - mass[0]) / steps, rtol=1e-9)


def test_with_many_steps_there_is_none():
    grid = replace(FREE, free=0.1)
    assert grid.positions(4)[0] > 0
    assert grid.positions(5)[0] == 0.0
    np.testing.assert_array_equal(grid.positions(5), grid.whole.positions(5))
    assert grid.whole == StepGrid((0.0, 0.4, 1.0))


@pytest.mark.parametrize("grid", [FREE, StepGrid(free=0.2), FREE.whole, StepGrid()])
def test_it_is_saved_and_loaded(grid, tmp_path):
    grid.save(tmp_path / "grid.json")
    assert StepGrid.load(tmp_path / "grid.json") == grid
    assert StepGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid
    assert isinstance(grid.to_json(), dict) == (grid.free > 0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: StepGrid(free=1.0), ValueError, r"free must be in \[0, 1\); got 1.0"),
        (lambda: StepGrid(free=-0.1), ValueError, "free must be .*; got -0.1"),
        (lambda: StepGrid(free=0.1, fall=-1.0), ValueError, "fall must be .*; got -1"),
        (lambda: StepGrid(free="a"), TypeError, "free must be a .*number"),
        (lambda: StepGrid.from_json({"quantiles": [0.0, 1.0], "free": None}), TypeError, "free must be a .*number"),
        (lambda: StepGrid.from_json({"quantiles": [0.0, 1.0], "more": 1}), ValueError, r"also has \['more'\]"),
    ],
)
def test_bad_numbers_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_space_of_another_free_step_is_another_one():
    assert replace(SPACE, grid=replace(FREE, fall=0.0)) != SPACE
    assert replace(SPACE, grid=FREE.whole) != SPACE
    assert replace(SPACE, grid=StepGrid((0.0, 0.4, 1.0), 0.5, 1 / 16)) == SPACE


def test_the_state_behind_it_is_the_start_and_the_path():
    """The sum over its cells of what the path does, whatever else was asked before; in law N(0, v)."""
    path, steps = SPACE.paths(4000), 4
    end = SPACE.ends(steps)[0]
    assert end > 100
    times = path.grid(1024)[: end + 1]
    sums = SPACE.start(path) + path.partial_signatures(times).increment.sum(0)
    found = SPACE.start(SPACE.paths(4000), steps)
    torch.testing.assert_close(found, sums, rtol=1e-9, atol=1e-12)
    v = REFERENCE.clock(SPACE.times(steps)[0])
    # 5 standard errors of a variance of 4000: a false alarm in 10^6 runs, for each of two
    assert (found.var(0) / v - 1).abs().max() < 5 * math.sqrt(2 / 4000)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [3, 8])
def test_a_comparison_begins_behind_it(eta, steps):
    """Along all cells of the path, and along the steps alone."""
    comparison, seeds = Comparison(TEACHER, SPACE), range(7)
    sampler = Sampler("ours", "ours", (steps,), scheme=PathAverage(0.3), referenced=True, grid=FREE, eta=eta)
    path = SPACE.paths(7)
    if eta == 1.0:
        sde, start = SDE, SPACE.start(path, steps)
    else:
        sde = comparison._sde(True, 0.0)
        start = sde.start(path.initial_noise(), RANGE[0])
    times = SPACE.times(steps)
    wanted = sde.noisy_data(solve(sde, start, times, scheme=PathAverage(0.3), path=path, save="last"), times[-1])
    found = comparison.follow([(sampler, steps)], seeds)["ours", steps]
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(comparison._sampled(sampler, steps, seeds), wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gaussian_data_stay_exact(steps):
    law = Mixture(torch.ones(1, dtype=F64), LAW.mean()[None], REFERENCE.variance.diag()[None])
    space = replace(SPACE, reference=REFERENCE)
    sampler = Sampler("ours", "ours", (steps,), scheme=PathAverage(), referenced=True, grid=FREE)
    found = Comparison(SNRDenoiser(law.denoise_y), space, truth_steps=64)
    samples = found.follow([(sampler, steps), (found.truth, 64)], range(20))
    torch.testing.assert_close(samples["ours", steps], samples[found.truth.key, 64], rtol=1e-9, atol=1e-10)


def errors_of(grid, numbers):
    """From log-SNR -4 to 3, where errors follow a power law from 16 steps on."""
    space = replace(SPACE, snr=(math.exp(-4), math.exp(3)), grid=grid)
    comparison = Comparison(TEACHER, space, truth_steps=1024, batch=2000)
    sampler = Sampler("ours", "ours", numbers, scheme=PathAverage(), referenced=True, grid=grid)
    pairs = [(sampler, steps) for steps in numbers]
    samples = comparison.follow([*pairs, (comparison.truth, 1024)], range(2000))
    truth = samples[comparison.truth.key, 1024]
    return torch.stack([(samples["ours", steps] - truth).norm(dim=1) for steps in numbers])


def test_the_strong_order_stays():
    """The order is 1.5 without it. With it the errors are smaller, by 95 % intervals, until its end, at an SNR of 1/N,
    has come down to the start, where both are the same. Where the end stays, so does its error, and there is no order.
    """
    numbers, spent = (8, 16, 32, 64), (64, 128)
    falling = StepGrid(free=4 / 7, fall=1 / 7)
    assert falling.positions(32)[0] > 0 == falling.positions(64)[0]
    plain, with_free = errors_of(StepGrid(), numbers), errors_of(falling, numbers)
    estimate = fit_strong(plain[1:], numbers[1:])
    assert estimate.supports(1.5), estimate
    for k, steps in enumerate(numbers[:-1]):
        value, _, high = paired_ratio(with_free[k], plain[k])
        assert high < 1, (steps, value, high)
    assert torch.equal(with_free[-1], plain[-1])
    fixed = fit_strong(errors_of(StepGrid(free=falling.positions(8)[0]), spent), spent)
    assert fixed.refutes(1.5), fixed


@pytest.mark.parametrize("steps", [3, 8])
def test_a_generator_samples_behind_it(steps):
    """Untrained it is path-average, but for when the correction is made."""
    law = Mixture.circle(1.0, 0.3, dtype=torch.float32)
    reference = GaussianReference(law.mean(), torch.tensor([0.6, 0.5]))
    space = PathSpace((2,), RANGE, reference, cells=256, grid=FREE)
    denoiser = SNRDenoiser(law.denoise_y)
    torch.manual_seed(0)
    generator = SigDEG.from_teacher(denoiser, space, depth=2, network=MLP(2, width=8, conditions=2, extra=4))
    path, times = space.paths(5), space.times(steps)
    sde = CanonicalSDE(denoiser, reference=reference)
    wanted = solve(sde, space.start(path, steps), times, scheme=StudentsStart(), path=path, save="last")
    found = generator.sample(5, steps)
    torch.testing.assert_close(found.values, sde.noisy_data(wanted, times[-1]), rtol=1e-4, atol=1e-4)


def test_teacher_paths_begin_behind_it():
    options = TeacherOptions(steps=128, cells=64)
    paths = draw_paths(TEACHER, SPACE, options, 5, generator=torch.Generator().manual_seed(0))
    coarse = paths.coarse(4, FREE)
    ends = coarse_ends(64, 4, FREE)
    masses = FREE.masses(4)
    assert np.abs(np.array(ends) / 64 - masses).max() <= 1 / 64
    torch.testing.assert_close(coarse.times, paths.times[ends])
    assert len(coarse.signature) == 4
    moved = paths.states[0] + paths.signature.increment[: ends[0]].sum(0)
    torch.testing.assert_close(coarse.states[0], moved)
    torch.testing.assert_close(coarse.states[1:], paths.states[ends[1:]])
    assert (moved - paths.states[ends[0]]).abs().max() > 1e-6
    assert coarse_ends(64, 64, FREE) == list(range(65))
