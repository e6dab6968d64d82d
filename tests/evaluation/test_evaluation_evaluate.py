"""`evaluate`: the rows of generators and training-free samplers, against their parts."""

import json
import math

import numpy as np
import pytest
import torch

from sdesig.evaluation import (
    CONVERGED,
    Comparison,
    FeatureExtractor,
    FeatureStatistics,
    evaluate,
    generator_sampler,
    load_extractor,
    training_free,
)
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser, StepGrid
from sdesig.sampling.path_space import EVEN
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG

LAW = Mixture.circle(1.0, 0.3, dtype=torch.float32)
REFERENCE = GaussianReference(LAW.mean(), 0.5)
DATA = LAW.sample(300, torch.Generator().manual_seed(0))
RADIUS = FeatureExtractor("radius", "r", lambda x: x.norm(dim=1, keepdim=True), floats=True)


def student(depth, grid=EVEN, cells=2**6):
    torch.manual_seed(0)
    network = MLP(2, width=8, blocks=1, conditions=2, extra=depth + 2)
    space = PathSpace((2,), (math.exp(-4), math.exp(4)), REFERENCE, cells=cells, grid=grid, depth=4)
    return SigDEG.from_teacher(SNRDenoiser(LAW.denoise_y), space, depth=depth, network=network, sigma_data=0.8)


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: math.nan)


def evaluated(generators, *, data=DATA, out=None, steps=(4, 8), free=True, **options):
    space = next(iter(generators.values()), student(2)).space
    samplers = [generator_sampler(key, generator, steps) for key, generator in generators.items()]
    options = {"seeds": range(60), "progress": False} | options
    both = [*(training_free(space, steps).values() if free else ()), *samplers]
    return evaluate(Comparison(SNRDenoiser(LAW.denoise_y), space), both, data, out, **options)


def test_the_comparison_of_a_generator_is_on_its_paths():
    generator = student(2, cells=2**6)
    comparison = Comparison(SNRDenoiser(LAW.denoise_y), generator.space)
    assert (comparison.space.cells, comparison.space.depth, comparison.truth_steps) == (64, 4, 64)
    found = evaluated({"mine": generator}, free=False)
    torch.testing.assert_close(found.store.samples("mine", 4), generator.sample(60, 4).values, rtol=1e-4, atol=1e-4)


def test_rows_are_those_of_the_parts():
    generators = {"one": student(1), "two": student(2)}
    found = evaluated(generators, floor_groups=40)
    assert [(row["key"], row["steps"]) for row in found.rows] == [(s.key, n) for s, n in found.store.pairs]
    assert [row["method"] for row in found.rows][-4:] == ["one", "one", "two", "two"]
    assert len(found.rows) == 1 + 2 * (6 + 2)
    assert found.rows[0]["key"] == CONVERGED
    assert [(floor.depth, floor.steps, floor.groups) for floor in found.floors] == [
        (depth, steps, 40) for depth in (1, 2) for steps in (4, 8)
    ]
    row, samples = found.rows[-1], found.store.samples("two", 8)
    error = (samples - found.store.converged).double().square().sum(1) / 2
    assert row["pathwise_rmse"] == pytest.approx(error.mean().sqrt().item(), rel=1e-5)
    assert row["floor"] == found.floors[-1].rmse
    expected = FeatureStatistics.of(DATA).distance(FeatureStatistics.of(samples))
    assert row["frechet_distance"] == pytest.approx(expected)
    assert row["n"] == 60
    assert found.rows[1]["floor"] is None


def test_known_floors_are_not_computed_again():
    generators = {"one": student(1)}
    floors = evaluated(generators, floor_groups=4).floors
    found = evaluated(generators, floors=floors)
    assert [row["floor"] for row in found.rows[-2:]] == [floor.rmse for floor in floors]


def test_floors_that_were_kept_are_those_that_were_computed(tmp_path):
    options = {"free": False, "floor_groups": 4, "out": tmp_path, "data": None}
    one, again = (evaluated({"one": student(1, StepGrid((0.0, 0.4, 1.0)))}, **options).floors for _ in range(2))
    assert one == again
    assert len({*one, *again}) == 2


def test_vectors_on_disk_are_those_in_memory(tmp_path, monkeypatch):
    """And are not drawn again; the report has the table."""
    generators, options = {"mine": student(2)}, {"extractors": [RADIUS], "free": False}
    one, other = (evaluated(generators, out=out, **options) for out in (None, tmp_path))
    for row, kept in zip(one.rows, other.rows, strict=True):
        different = {name for name in row if row[name] != kept[name]} - {"seconds_per_1000"}
        assert not different
        assert {number["quantization"] for number in row["measured"]} == {"float32"}
    assert torch.equal(one.store.samples("mine", 4), other.store.samples("mine", 4))
    monkeypatch.setattr(Comparison, "follow", None)
    again = evaluated(generators, out=tmp_path, **options)
    assert torch.equal(again.store.converged, one.store.converged)
    text = (tmp_path / "report.md").read_text()
    assert "| mine           | 4     | 4           |" in text
    assert "images" not in text
    assert {file.name for file in tmp_path.iterdir()} == {"samples", "report.json", "report.md", "errors.png"}


def test_a_chosen_grid_also_serves_the_best_solver():
    grid = StepGrid((0.0, 0.4, 0.7, 1.0))
    keys = {row["key"] for row in evaluated({"mine": student(2, grid)}).rows}
    assert "path-average-grid" in keys
    assert "path-average-grid" not in {row["key"] for row in evaluated({"mine": student(2)}).rows}


def test_no_distance_without_data_or_with_too_few_samples():
    assert "frechet_distance" not in evaluated({}, data=None).rows[0]
    assert "frechet_distance" not in evaluated({}, seeds=range(2)).rows[0]


@pytest.mark.parametrize(
    "options, match",
    [
        ({"floor_groups": -1}, "floor_groups must be >= 0; got -1"),
        ({"seeds": []}, "seeds must not be empty"),
        ({"seeds": range(0)}, "seeds must not be empty"),
        ({"data": DATA[:0]}, r"data must not be empty; got shape \(0, 2\)"),
        ({"data": DATA[0, 0]}, r"data must not be empty; got shape \(\)"),
        ({"steps": (0,)}, "steps must be"),
        ({"steps": ()}, "steps must not be empty"),
        ({"seeds": range(1)}, "number of seeds must be >= 2; got 1"),
        ({"data": DATA[:, :1]}, r"data must have shape \(n, \*\(2,\)\); got \(300, 1\)"),
        ({"data": None, "extractors": [RADIUS]}, "extractors must not be given without data"),
        (
            {"extractors": [load_extractor("pixels")]},
            r"extractors must take vectors .*; pixels does not",
        ),
        ({"decode": lambda x: x}, "perceptual and decode must not be given without images"),
        ({"seeds": [3, 5], "out": "x"}, r"seeds must be a range with step 1 to be kept in a folder; got \[3, 5\]"),
        ({"seeds": range(0, 6, 2), "out": "x"}, "seeds must be a range with step 1 to be kept in a folder"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        evaluated({}, **options)


@pytest.mark.parametrize("seeds", [np.arange(3, 11, 2), torch.arange(3, 11, 2), [np.int64(3), 5, 7, 9]])
def test_rows_of_any_seeds_can_be_written(seeds):
    assert json.dumps(evaluated({}, seeds=seeds).rows) == json.dumps(evaluated({}, seeds=[3, 5, 7, 9]).rows)


@pytest.mark.parametrize("seeds", [8, None, np.int64(8)])
def test_seeds_that_are_no_sequence(seeds):
    with pytest.raises(TypeError, match="seeds must be a sequence of integers"):
        evaluated({}, seeds=seeds)


def test_a_comparison_that_is_none():
    with pytest.raises(TypeError, match="comparison must be a Comparison; got NoneType"):
        evaluate(None, [], seeds=range(3))


def test_data_that_are_neither_floats_nor_images():
    with pytest.raises(TypeError, match=r"data must be a torch\.Tensor; got ndarray"):
        evaluated({}, data=DATA.numpy())
