"""`evaluate`: the rows of generators and training-free samplers, against their parts."""

import math

import pytest
import torch

from sdesig.evaluation import Comparison, evaluate
from sdesig.evaluation.frechet import FeatureStatistics
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser, StepGrid
from sdesig.sampling.step_grid import EVEN
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG

LAW = Mixture.circle(1.0, 0.3, dtype=torch.float32)
REFERENCE = GaussianReference(LAW.mean(), 0.5)
DATA = LAW.sample(300, torch.Generator().manual_seed(0))


def student(depth, grid=EVEN, levels=6):
    torch.manual_seed(0)
    network = MLP(2, width=8, blocks=1, conditions=2, extra=depth + 2)
    space = PathSpace((2,), (math.exp(-4), math.exp(4)), REFERENCE, levels=levels, grid=grid)
    return SigDEG.from_teacher(SNRDenoiser(LAW.denoise_y), space, depth=depth, network=network, sigma_data=0.8)


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: math.nan)


def evaluated(generators, **options):
    first = next(iter(generators.values()), student(2))
    options = {"steps": (4, 8), "seeds": range(60), "real": DATA} | options
    return evaluate(Comparison(SNRDenoiser(LAW.denoise_y), first.space), generators, **options)


def test_the_comparison_of_a_generator_is_on_its_paths():
    generator = student(2, levels=6)
    comparison = Comparison(SNRDenoiser(LAW.denoise_y), generator.space)
    assert (comparison.space.levels, comparison.space.depth, comparison.truth_steps) == (6, 4, 64)
    found = evaluated({"mine": generator}, training_free=False)
    torch.testing.assert_close(found.outcomes[0].samples, generator.sample(60, 4).values, rtol=1e-4, atol=1e-4)


def test_rows_are_those_of_the_parts():
    generators = {"one": student(1), "two": student(2)}
    found = evaluated(generators, floor_groups=40)
    methods = [row["method"] for row in found.rows]
    assert methods[-4:] == ["one", "one", "two", "two"]
    assert len(found.rows) == len(found.outcomes) == 2 * (5 + 2)
    assert [(floor.depth, floor.steps, floor.groups) for floor in found.floors] == [
        (depth, steps, 40) for depth in (1, 2) for steps in (4, 8)
    ]
    row, outcome = found.rows[-1], found.outcomes[-1]
    error = (outcome.samples - found.converged).double().square().sum(1) / 2
    assert row["pathwise_rmse"] == pytest.approx(error.mean().sqrt().item(), rel=1e-5)
    assert row["floor"] == found.floors[-1].rmse
    expected = FeatureStatistics.of(DATA).distance(FeatureStatistics.of(outcome.samples))
    assert row["frechet_distance"] == pytest.approx(expected)
    assert row["n"] == 60
    assert found.rows[0]["floor"] is None


def test_a_chosen_grid_also_serves_the_best_solver():
    grid = StepGrid((0.0, 0.4, 0.7, 1.0))
    names = {row["method"] for row in evaluated({"mine": student(2, grid)}).rows}
    assert "path-average, reference, chosen grid" in names
    assert "path-average, reference, chosen grid" not in {row["method"] for row in evaluated({"mine": student(2)}).rows}


def test_no_distance_without_data_or_with_too_few_samples():
    assert "frechet_distance" not in evaluated({}, real=None).rows[0]
    assert "frechet_distance" not in evaluated({}, seeds=range(2)).rows[0]


@pytest.mark.parametrize(
    "options, match",
    [
        ({"training_free": False}, "generators must not be empty with training_free=False"),
        ({"floor_groups": -1}, "floor_groups must be >= 0; got -1"),
        ({"seeds": []}, "seeds must not be empty"),
        ({"steps": (0,)}, "steps must be"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        evaluated({}, **options)
