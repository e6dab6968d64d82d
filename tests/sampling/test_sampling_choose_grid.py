"""The grid that spreads the path-average scheme's error: better than the even one, and never broken."""

import importlib
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdesig._intervals import paired_ratio
from sdesig.sampling import (
    CanonicalDenoiser,
    CanonicalSDE,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    choose_grid,
)
from sdesig.sampling.teacher_paths import TeacherOptions, draw_paths, teacher_states
from sdesig.sde import EDM, Mixture
from sdesig.signature.partial_signature import join_steps

LAW = Mixture.circle(1.5, 0.1, dtype=torch.float32)
SCALAR = GaussianReference(LAW.mean(), LAW.covariance().trace().item() / 2)
TEACHER = SNRDenoiser(LAW.denoise_y)
SPACE = PathSpace((2,), (math.exp(-8), math.exp(8)), SCALAR, depth=2)
SDE = CanonicalSDE(TEACHER, reference=SCALAR)
SMALL = {"cells": 4, "fine_per_cell": 4, "paths": 32, "progress": False}


@pytest.fixture(scope="module")
def chosen():
    return choose_grid(TEACHER, SPACE, progress=False)


@pytest.fixture(scope="module")
def paths():
    """4000 paths of 512 fine steps, even in log-SNR."""
    generator = torch.Generator().manual_seed(1)
    options = TeacherOptions(steps=512, cells=512)
    return draw_paths(TEACHER, SPACE, options, 4000, generator=generator)


def path_errors(paths, grid, steps):
    """|x - x_fine| per path of the path-average scheme on a grid, rounded to the fine one."""
    ends = np.rint(grid.positions(steps) * 512).astype(int).tolist()
    times, joined = paths.times[ends], join_steps(paths.signature, ends)
    last = teacher_states(PathAverage(), SDE, paths.states[0], times, joined, save="last")
    return (SDE.noisy_data(last, times[-1]) - SDE.noisy_data(paths.states[-1], times[-1])).norm(dim=1)


@pytest.mark.parametrize("steps", [8, 16])
def test_the_chosen_grid_beats_the_even_one(chosen, paths, steps):
    """On the same paths, none of which chose the grid: the 95 % interval of the ratio lies below 1."""
    value, _, high = paired_ratio(path_errors(paths, chosen, steps), path_errors(paths, StepGrid(), steps))
    assert high < 1, (value, high)


def test_the_steps_lie_where_the_modes_part(chosen):
    """Most between the SNRs of the modes' distance, log-SNR -1, and of their width, log-SNR 4.6."""
    log_snr = 16 * chosen.positions(64) - 8
    assert ((log_snr > -2) & (log_snr < 5)).mean() > 0.5


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


@pytest.mark.parametrize("least", [0.5, 0.8, 1.0])
def test_density_is_bounded_below(least):
    """Of an even step, none is longer than (1 + least)/least: the bound adds at most its own mass to the density."""
    gaps, tight = (np.diff(choose_grid(TEACHER, SPACE, **SMALL, least=value).quantiles) for value in (least, 1e-6))
    assert gaps.max() * len(gaps) <= (1 + least) / least
    assert gaps.max() < tight.max()


def gaussian(dtype):
    """The teacher of data N(mu, .7), and the space of the reference that makes its drift vanish."""
    mean = torch.tensor([[0.5, -1.0]], dtype=dtype)
    law = Mixture(torch.ones(1, dtype=dtype), mean, 0.7 * torch.eye(2, dtype=dtype)[None])
    return SNRDenoiser(law.denoise_y), replace(SPACE, reference=GaussianReference(mean[0], 0.7))


def test_gaussian_data_which_the_scheme_solves_exactly():
    """All shares are rounding errors: any grid will do, as long as it is one."""
    check_grid(choose_grid(*gaussian(torch.float32), **SMALL))


def test_a_scheme_without_any_error(monkeypatch):
    """Every share exactly zero, as with all data at the reference's mean and few paths: the even grid, say."""
    module = importlib.import_module("sdesig.sampling.choose_grid")
    monkeypatch.setattr(module, "teacher_states", lambda scheme, sde, start, times, signature, save: start)
    check_grid(choose_grid(TEACHER, SPACE, **SMALL))


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


def test_progress_counts_the_cells(capsys, monkeypatch):
    choose_grid(TEACHER, SPACE, **SMALL)
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    choose_grid(TEACHER, SPACE, **SMALL | {"progress": True})
    assert "4/4" in capsys.readouterr().err


def test_networks_keep_no_gradients():
    weight = torch.nn.Parameter(torch.ones(()))
    check_grid(choose_grid(SNRDenoiser(lambda y, snr: weight * LAW.denoise_y(y, snr)), SPACE, **SMALL))
    assert weight.grad is None


@pytest.mark.parametrize("name, value", [("cells", 1), ("fine_per_cell", 1), ("paths", 1), ("seed", -1)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be >= \d; got {value}"):
        choose_grid(TEACHER, SPACE, **SMALL | {name: value})


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan")])
def test_a_least_density_is_a_share(value):
    with pytest.raises(ValueError, match=f"least must be .*; got {value}"):
        choose_grid(TEACHER, SPACE, **SMALL, least=value)


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
    """What was measured is not measured again; nor is anything, when it is done."""
    file, whole, stopped, rest, done = tmp_path / "cells.safetensors", *(Counting() for _ in range(4))
    grid = choose(whole, tmp_path / "whole.safetensors")
    stopped.most = whole.asked // 2
    with pytest.raises(KeyboardInterrupt, match=r"the cells that were measured for the grid are kept in .*cells.safe"):
        choose(stopped, file)
    assert choose(rest, file) == grid
    assert whole.asked < stopped.asked + rest.asked < whole.asked + whole.asked // 2
    assert choose(done, file) == grid
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
    with pytest.raises(ValueError, match="recorded must say which teacher it is, as the cells are kept; got None"):
        choose_grid(TEACHER, SPACE, **SMALL, kept=tmp_path / "cells.safetensors")
    assert not any(tmp_path.iterdir())
