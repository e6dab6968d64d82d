"""Where the steps lie: quantiles of a density by quadrature, times on the master grid, JSON."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate

from sdesig.brownian import BrownianPath
from sdesig.sampling import GaussianReference, PathSpace, SNRClock, StepGrid

LOW, HIGH = math.exp(-5), math.exp(7)
CELLS = 50


def density(x):
    """A smooth density > 0 on [0, 1], not normalized."""
    return 0.2 + np.exp(-((x - 0.7) ** 2) / 0.02) + x


def on_cells(cells=CELLS):
    return density((np.arange(cells) + 0.5) / cells)


def mass(a, b, cells=CELLS):
    """Share of [a, b] in the density that is constant on equal cells, by quadrature with its jumps as break points."""
    values = on_cells(cells)

    def f(x):
        return values[min(cells - 1, int(x * cells))]

    points = [k / cells for k in range(cells + 1) if a < k / cells < b]
    return integrate.quad(f, a, b, points=points or None, limit=200)[0] * cells / values.sum()


def space(grid, cells=2**8):
    return PathSpace(
        (1,), (LOW, HIGH), GaussianReference(torch.zeros(1, dtype=torch.float64), 0.5), cells, grid=grid, slack=0.0
    )


def make_path(cells=2**8):
    return BrownianPath(LOW, HIGH, (2, 1), seeds=range(2), clock=SNRClock(0.5), cells=cells, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 8, 32, 64])
def test_every_step_has_the_same_mass(steps):
    """Exact where a step is made of whole knots, 64 by default."""
    positions = StepGrid.from_density(on_cells()).positions(steps)
    assert positions[0] == 0.0
    assert positions[-1] == 1.0
    for a, b in pairwise(positions):
        assert mass(a, b) == pytest.approx(1 / steps, abs=1e-7)


@pytest.mark.parametrize("steps", [3, 7, 50])
def test_other_numbers_of_steps_have_nearly_the_same_mass(steps):
    """Quantiles are linear between the knots."""
    positions = StepGrid.from_density(on_cells(), knots=256).positions(steps)
    for a, b in pairwise(positions):
        assert mass(a, b) == pytest.approx(1 / steps, rel=0.03)


def test_even_steps_do_not_have_the_same_mass():
    assert mass(0, 0.5) < 0.4


def test_the_factor_of_a_density_does_not_matter_nor_its_type():
    one, other = StepGrid.from_density(on_cells()), StepGrid.from_density(torch.from_numpy(1e6 * on_cells()))
    np.testing.assert_allclose(one.quantiles, other.quantiles, rtol=1e-12)
    assert len(one.quantiles) == 65


@pytest.mark.parametrize("grid", [StepGrid(), StepGrid.from_density(np.full(7, 3.0))], ids=["default", "flat density"])
def test_without_a_density_steps_are_even_in_the_clock(grid):
    for steps in (1, 5, 64):
        np.testing.assert_allclose(grid.positions(steps), np.linspace(0, 1, steps + 1), rtol=0, atol=1e-12)
        torch.testing.assert_close(space(grid).times(steps), make_path().grid(steps), rtol=0, atol=0)


def test_positions_and_times_increase():
    grid = StepGrid.from_density(on_cells())
    for steps in (1, 3, 17, 64, 100):
        assert (np.diff(grid.positions(steps)) > 0).all()
    for steps in (1, 3, 17, 64):
        times = space(grid).times(steps)
        assert (times.diff() > 0).all()
        assert times.dtype == torch.float64
        assert (times[0].item(), times[-1].item()) == (LOW, HIGH)


def test_times_are_those_of_the_master_grid_next_to_the_quantiles():
    path, grid = make_path(), StepGrid.from_density(on_cells())
    times = space(grid).times(16)
    master = path.grid(256)
    assert all((master == time).any() for time in times)
    positions = torch.log(times / LOW) / math.log(HIGH / LOW)
    assert np.abs(positions.numpy() - grid.positions(16)).max() <= 0.5 / 256 + 1e-12
    path.check_times(times)


def test_a_doubled_density_halves_the_steps():
    """Twice the density on the right half: two thirds of the steps lie there."""
    positions = StepGrid.from_density([1.0, 2.0]).positions(6)
    np.testing.assert_allclose(positions, [0, 1 / 4, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1], atol=0.02)
    fine = StepGrid.from_density([1.0, 2.0], knots=96).positions(6)
    np.testing.assert_allclose(fine, [0, 1 / 4, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1], atol=1e-12)


EXACT = [(steps, rho, 1e-12) for steps in (1, 2, 3, 4, 5, 8, 10, 16) for rho in (1.0, 7.0)]
"""The steps divide the knots."""


@pytest.mark.parametrize("steps, rho, tolerance", [*EXACT, (7, 7.0, 1e-4), (100, 7.0, 1e-4)])
def test_karras_is_the_published_grid(steps, rho, tolerance):
    """(sigma_max^(1/rho) + k/N (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho; otherwise linear between the knots."""
    first, last = LOW**-0.5, HIGH**-0.5
    sigmas = (first ** (1 / rho) + np.arange(steps + 1) / steps * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    found = first * (last / first) ** StepGrid.karras((LOW, HIGH), rho).positions(steps)
    np.testing.assert_allclose(np.log(found), np.log(sigmas), rtol=0, atol=tolerance)


def test_karras_of_a_large_rho_is_even_and_its_times_are_those_of_a_space():
    np.testing.assert_allclose(StepGrid.karras((LOW, HIGH), 1e6).positions(8), np.linspace(0, 1, 9), atol=1e-5)
    times = space(StepGrid.karras((LOW, HIGH))).times(8)
    even = (times ** -(1 / 14)).diff()
    np.testing.assert_allclose(even, even.mean(), rtol=0.1)  # times are on the master grid
    assert (space(StepGrid()).times(8) ** -(1 / 14)).diff().std() > 5 * even.std()


def test_grids_save_and_load(tmp_path):
    for grid in (StepGrid(), StepGrid.from_density(on_cells()), StepGrid((0.0, 0.1, 0.9, 1.0))):
        grid.save(tmp_path / "folder" / "grid.json")
        assert StepGrid.load(tmp_path / "folder" / "grid.json") == grid


def load(folder, text):
    (folder / "grid.json").write_text(text)
    return StepGrid.load(folder / "grid.json")


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda _: StepGrid((0.0, 0.5, 0.5, 1.0)), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid((0.0, 0.6, 0.5, 1.0)), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid((0.1, 1.0)), ValueError, r"quantiles must increase from 0 to 1; got \(0.1, 1.0\)"),
        (lambda _: StepGrid((0.0, 0.9)), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid((0.0, math.nan, 1.0)), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid((0.0,)), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid(()), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid(((0.0, 0.5), (0.5, 1.0))), ValueError, "quantiles must increase from 0 to 1"),
        (lambda _: StepGrid(None), ValueError, "quantiles must increase from 0 to 1; got None"),
        (lambda _: StepGrid.from_density([]), ValueError, r"density must .*, of shape \(cells,\)"),
        (lambda _: StepGrid.from_density([1.0, 2.0], knots=0), ValueError, "knots must be >= 1; got 0"),
        (lambda _: StepGrid.from_density([1.0, 0.0]), ValueError, "density must be finite and > 0 everywhere"),
        (lambda _: StepGrid.from_density([1.0, -1.0]), ValueError, "density must be finite and > 0 everywhere"),
        (lambda _: StepGrid.from_density([1.0, math.inf]), ValueError, "density must be finite and > 0"),
        (lambda _: StepGrid.from_density([math.nan]), ValueError, "density must be finite and > 0 everywhere"),
        (lambda _: StepGrid.from_density(np.ones((2, 2))), ValueError, r"of shape \(cells,\)"),
        (lambda _: StepGrid.karras((1.0, 1.0)), ValueError, r"snr must be \(first, last\) with first < last"),
        (lambda _: StepGrid.karras((0.0, 1.0)), ValueError, r"snr\[0\] must be a finite number > 0"),
        (lambda _: StepGrid.karras((LOW, HIGH), 0.0), ValueError, "rho must be a finite number > 0"),
        (lambda _: StepGrid.karras((LOW, HIGH), knots=0), ValueError, "knots must be >= 1; got 0"),
        (lambda _: StepGrid().positions(0), ValueError, "steps must be >= 1; got 0"),
        (lambda _: space(StepGrid(), 8).times(9), ValueError, r"steps must be in \[1, 8\]; got 9"),
        (
            lambda _: space(StepGrid.from_density(on_cells()), 8).times(8),
            ValueError,
            "steps must be fewer for this grid on a path of 8 cells; got 8",
        ),
        (lambda folder: StepGrid.load(folder / "none.json"), FileNotFoundError, "none.json"),
        (lambda folder: load(folder, "{"), ValueError, "is not JSON"),
        (lambda folder: load(folder, "[0, 1]"), ValueError, "must hold a JSON object"),
        (lambda folder: load(folder, "{}"), ValueError, "quantiles must increase from 0 to 1"),
        (lambda folder: load(folder, json.dumps({"quantiles": [0, 2, 1]})), ValueError, "quantiles must increase"),
    ],
)
def test_refusals(call, error, match, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path)
