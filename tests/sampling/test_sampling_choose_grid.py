"""The grid that spreads the path-average scheme's error: better than the even one, and never broken."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdesig._intervals import paired_ratio
from sdesig.evaluation import Comparison, Sampler
from sdesig.sampling import (
    CanonicalDenoiser,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    choose_grid,
)
from sdesig.sampling.path_space import EVEN
from sdesig.sde import EDM, Mixture

LAW = Mixture.circle(1.5, 0.1, dtype=torch.float32)
SCALAR = GaussianReference(LAW.mean(), LAW.covariance().trace().item() / 2)
TEACHER = SNRDenoiser(LAW.denoise_y)
SPACE = PathSpace((2,), (math.exp(-8), math.exp(8)), SCALAR, depth=2)
SMALL = {"cells": 4, "fine_per_cell": 4, "paths": 32, "progress": False}


@pytest.fixture(scope="module")
def chosen():
    return choose_grid(TEACHER, SPACE, progress=False)


@pytest.fixture(scope="module")
def behind():
    """Even steps behind a free one."""
    return choose_grid(TEACHER, SPACE, steps=StepGrid(), progress=False)


def errors(grids, numbers):
    """|x - x_converged| per path of the path-average scheme, by grid and number of steps, on paths that chose none."""
    comparison = Comparison(TEACHER, SPACE, batch=2500)
    samplers = [
        Sampler(f"{k}", f"{k}", numbers, scheme=PathAverage(), referenced=True, grid=grid)
        for k, grid in enumerate(grids)
    ]
    pairs = [(sampler, steps) for sampler in samplers for steps in numbers]
    samples = comparison.follow([*pairs, (comparison.truth, 512)], range(10**6, 10**6 + 2500))
    truth = samples.pop((comparison.truth.key, 512))
    return [{n: (samples[f"{k}", n] - truth).norm(dim=1) for n in numbers} for k in range(len(grids))]


def test_the_chosen_grid_beats_the_even_one_and_the_free_step_it(chosen, behind):
    """By 95 % intervals of ratios on the same paths."""
    ours, with_free, even = errors([chosen, behind, EVEN], (5, 10, 16))
    for steps in (5, 10, 16):
        for found in (ours, with_free):
            value, _, high = paired_ratio(found[steps], even[steps])
            assert high < 0.9, (steps, value, high)
        value, _, high = paired_ratio(ours[steps], with_free[steps])
        assert high < 1.05, (steps, value, high)


def test_the_steps_of_another_grid_are_taken_behind_a_free_one():
    """Those of Karras: the free step is chosen for their density, and pays."""
    karras = StepGrid.karras(SPACE.snr)
    found = choose_grid(TEACHER, SPACE, steps=karras, progress=False)
    assert found.quantiles == karras.quantiles
    assert 0 < found.free < 1
    ours, plain = errors([found, karras], (4, 10, 64))
    for steps in (4, 10, 64):
        value, _, high = paired_ratio(ours[steps], plain[steps])
        assert high < 0.9, (steps, value, high)


def test_the_free_step_never_costs(behind):
    with_free, even = errors([behind, EVEN], (4, 8, 20, 40, 64))
    for steps in (4, 8, 20, 40, 64):
        value, _, high = paired_ratio(with_free[steps], even[steps])
        assert high < 1.03, (steps, value, high)


def test_the_free_step_ends_where_its_error_is_that_of_the_others(behind):
    """Measured by itself: at 8 steps three times as long a free step, and one a third as long, have larger errors."""
    assert behind.quantiles == (0.0, 1.0)
    assert 0.5 / 16 < behind.fall < 1.5 / 16  # its SNR falls about as 1/N
    begin = behind.positions(8)[0]
    three = math.log(3) / 16
    grids = [StepGrid(free=begin + move) for move in (0.0, three, -three)]
    best, longer, shorter = (found[8] for found in errors(grids, (8,)))
    assert best.square().mean() < longer.square().mean()
    assert best.square().mean() < shorter.square().mean()


def test_the_steps_lie_where_the_modes_part(chosen):
    """Most between the SNRs of the modes' distance, log-SNR -1, and of their width, log-SNR 4.6."""
    log_snr = 16 * chosen.positions(64) - 8
    assert ((log_snr > -2) & (log_snr < 5)).mean() > 0.5


def test_steps_for_the_distribution_lie_later(chosen):
    """Where changes are small beside those of the path: at the end, in the widths of the modes."""
    law, both = (choose_grid(TEACHER, SPACE, law=law, paths=512, progress=False) for law in (1.0, 0.5))
    assert law.positions(8)[-2] > both.positions(8)[-2] > chosen.positions(8)[-2]


def test_it_asks_for_as_many_evaluations_as_it_says():
    counting = Counting()
    choose_grid(CanonicalDenoiser(counting, EDM()), SPACE, progress=False)
    assert counting.asked * 64 == 24_576 < 30_000


def check_grid(grid):
    quantiles = np.asarray(grid.quantiles)
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles) > 0).all()
    assert (quantiles[0], quantiles[-1]) == (0.0, 1.0)


def test_it_is_a_grid_that_saves_and_loads(chosen, tmp_path):
    check_grid(chosen)
    assert len(chosen.quantiles) == 65
    chosen.save(tmp_path / "grid.json")
    assert StepGrid.load(tmp_path / "grid.json") == chosen


def gaussian(dtype):
    """The teacher of data N(mu, .7), and the space of the reference that makes its drift vanish."""
    mean = torch.tensor([[0.5, -1.0]], dtype=dtype)
    law = Mixture(torch.ones(1, dtype=dtype), mean, 0.7 * torch.eye(2, dtype=dtype)[None])
    return SNRDenoiser(law.denoise_y), replace(SPACE, reference=GaussianReference(mean[0], 0.7))


def test_gaussian_data_which_the_scheme_solves_exactly():
    """All errors are of rounding: the even grid, without a free step."""
    assert choose_grid(*gaussian(torch.float32), **SMALL) == EVEN


def test_knots_grow_with_the_cells():
    grid = choose_grid(TEACHER, SPACE, **SMALL | {"cells": 40, "fine_per_cell": 2, "paths": 4})
    assert len(grid.quantiles) == 81


@pytest.mark.parametrize(
    "reference", [GaussianReference(0.0, 0.0), GaussianReference(LAW.mean(), torch.tensor([1.1, 0.9]), torch.eye(2))]
)
def test_every_kind_of_reference(reference):
    check_grid(choose_grid(TEACHER, replace(SPACE, reference=reference), **SMALL))


def test_it_is_a_function_of_the_seed():
    state = torch.get_rng_state()
    one, same, other = (choose_grid(TEACHER, SPACE, **SMALL, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_the_evaluations(capsys, monkeypatch):
    choose_grid(TEACHER, SPACE, **SMALL)
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    choose_grid(TEACHER, SPACE, **SMALL | {"progress": True})
    assert "32/32" in capsys.readouterr().err


def test_networks_keep_no_gradients():
    weight = torch.nn.Parameter(torch.ones(()))
    check_grid(choose_grid(SNRDenoiser(lambda y, snr: weight * LAW.denoise_y(y, snr)), SPACE, **SMALL))
    assert weight.grad is None


@pytest.mark.parametrize("name, value", [("cells", 2), ("fine_per_cell", 1), ("paths", 1), ("seed", -1)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be >= \d; got {value}"):
        choose_grid(TEACHER, SPACE, **SMALL | {name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_the_law_has_a_share(value):
    with pytest.raises(ValueError, match=f"law must be .*; got {value}"):
        choose_grid(TEACHER, SPACE, **SMALL, law=value)
    with pytest.raises(ValueError, match=r"law must be 0 where steps are given; got 0\.5"):
        choose_grid(TEACHER, SPACE, **SMALL, law=0.5, steps=StepGrid())
    with pytest.raises(TypeError, match="steps must be a StepGrid; got bool"):
        choose_grid(TEACHER, SPACE, **SMALL, steps=True)


def test_values_that_are_not_finite_are_reported():
    with pytest.raises(FloatingPointError, match="teacher's values must be finite"):
        choose_grid(SNRDenoiser(lambda y, snr: y * math.nan), SPACE, **SMALL)


@pytest.mark.parametrize("name", ["cells", "fine_per_cell", "paths", "seed"])
@pytest.mark.parametrize("value", [2.0, "4", True])
def test_other_types_are_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an integer; got"):
        choose_grid(TEACHER, SPACE, **SMALL | {name: value})


class Counting:
    """D(x, sigma) of the mixture; it is interrupted when it was asked so often."""

    def __init__(self, most=10**9):
        self.asked, self.most = 0, most

    def __call__(self, x, sigma):
        self.asked += 1
        if self.asked > self.most:
            raise KeyboardInterrupt
        return LAW.denoiser(EDM())(x, sigma)


def choose(counting, file, **changes):
    teacher = CanonicalDenoiser(counting, EDM())
    return choose_grid(teacher, SPACE, **SMALL | changes, kept=file, recorded={"teacher": {"name": "a", "sha256": "1"}})


def test_a_choice_that_was_stopped_goes_on(tmp_path):
    """What was measured is not measured again; nor is anything, when it is done. 64 paths are measured at once."""
    file, whole, stopped, rest, done = tmp_path / "cells.safetensors", *(Counting() for _ in range(4))
    grid = choose(whole, tmp_path / "whole.safetensors", paths=192)
    stopped.most = whole.asked // 2
    with pytest.raises(KeyboardInterrupt, match=r"what was measured for the grid is kept in .*cells.safe"):
        choose(stopped, file, paths=192)
    assert choose(rest, file, paths=192) == grid
    assert whole.asked < stopped.asked + rest.asked < whole.asked + whole.asked // 2
    assert choose(done, file, paths=192) == grid
    assert done.asked == 0


@pytest.mark.parametrize("change", ["seed", "paths", "reference", "teacher"])
def test_another_choice_is_made_anew(tmp_path, change):
    file, again = tmp_path / "cells.safetensors", Counting()
    choose(Counting(), file)
    recorded = {"teacher": {"name": "b", "sha256": "2" if change == "teacher" else "1"}}
    space = replace(SPACE, reference=GaussianReference(0.1, 0.7)) if change == "reference" else SPACE
    teacher = CanonicalDenoiser(again, EDM())
    changed = SMALL | {"seed": {"seed": 1}, "paths": {"paths": SMALL["paths"] + 1}}.get(change, {})
    grid = choose_grid(teacher, space, **changed, kept=file, recorded=recorded)
    assert again.asked > 0
    assert grid == choose_grid(teacher, space, **changed)


def test_what_is_kept_says_of_which_teacher(tmp_path):
    with pytest.raises(ValueError, match=r"recorded must say which teacher it is, .* kept; got None"):
        choose_grid(TEACHER, SPACE, **SMALL, kept=tmp_path / "cells.safetensors")
    assert not any(tmp_path.iterdir())
