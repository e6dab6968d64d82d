"""The verdict on a distillation: its numbers by hand, what it costs, what it says, and verdicts that were stopped."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from students_start import StudentsStart

from sdesig.evaluation import (
    VERDICT_EVALUATIONS,
    Comparison,
    FeatureStatistics,
    Sampler,
    affordable,
    generator_sampler,
    pathwise_errors,
    read_json,
    root_mean_square,
    root_mean_square_interval,
    training_free,
    verdict,
)
from sdesig.evaluation.verdict import FIRST_SEED, FULL, MARGINAL, STUDENT, UNTRAINED, _beats, _Laws, _sentence
from sdesig.sampling import (
    DPMSolver1,
    GaussianReference,
    PathAverage,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    marginal_distance,
)
from sdesig.sde import Mixture
from sdesig.sigdeg import MLP, SigDEG

LOW, HIGH = math.exp(-4), math.exp(4)
LAW = Mixture.circle(1.0, 0.3, dtype=torch.float32)
TEACHER = SNRDenoiser(LAW.denoise_y)
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
GRID = StepGrid((0.0, 0.4, 1.0))


def make(cell="solver", shaken=0.0, depth=2):
    """A generator, untrained or shaken, on a grid of its own with a reference that is turned."""
    torch.manual_seed(0)
    reference = GaussianReference(torch.tensor([0.1, -0.2]), torch.tensor([0.3, 0.9]), TURN)
    space = PathSpace((2,), (LOW, HIGH), reference, cells=2**7, grid=GRID, depth=4)
    network = MLP(2, width=16, blocks=1, conditions=2, extra=depth + (1 if cell == "plain" else 2))
    student = SigDEG.from_teacher(TEACHER, space, depth=depth, cell=cell, network=network, sigma_data=1.0)
    with torch.no_grad():
        for value in student.parameters():
            value += shaken * torch.randn(value.shape)
    return student


def judged(student=None, **options):
    options = {"seeds": range(5, 35), "progress": False} | options
    return verdict(make(shaken=0.05) if student is None else student, TEACHER, **options)


def rows_of(found):
    return {(row["key"], row["steps"]): row for row in found.rows}


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, name", [(30, FULL), (8, MARGINAL)])
def test_numbers_are_those_of_a_comparison(n, name):
    student, seeds, others = make(shaken=0.05), range(5, 5 + n), range(100, 100 + n)
    found = judged(student, seeds=seeds, others=others, steps=(4, 8), truth_steps=64)
    comparison = Comparison(TEACHER, student.space, truth_steps=64)
    samplers = [
        Sampler(UNTRAINED, "u", (4, 8), scheme=PathAverage(), referenced=True, grid=GRID),
        generator_sampler(STUDENT, student, (4, 8)),
        training_free(student.space, (4, 8))["sde-dpm++2m"],
    ]
    pairs = [(sampler, steps) for steps in (4, 8) for sampler in samplers]
    drawn = comparison.follow([(comparison.truth, 64), *pairs], seeds)
    real = comparison.follow([(comparison.truth, 64)], others)["converged-path", 64]

    def distance(samples):
        if name == FULL:
            return FeatureStatistics.of(real).distance(FeatureStatistics.of(samples))
        return marginal_distance(samples, real, student.space.reference)[0]

    rows, truth = rows_of(found), drawn["converged-path", 64]
    assert [*rows] == [("converged-path", 64), *((sampler.key, steps) for sampler, steps in pairs)]
    for pair, samples in drawn.items():
        assert rows[pair]["distance"] == pytest.approx(distance(samples), rel=1e-5)
        if pair[0] != "converged-path":
            errors = pathwise_errors(samples, truth)
            assert rows[pair]["pathwise_rmse"] == pytest.approx(root_mean_square(errors)[0], rel=1e-5)
            interval = root_mean_square_interval(errors)
            found_ends = rows[pair]["pathwise_rmse_low"], rows[pair]["pathwise_rmse_high"]
            assert found_ends == (pytest.approx(interval, rel=1e-4) if interval else (None, None))
            assert rows[pair]["excess"] == pytest.approx(distance(samples) - distance(truth), abs=1e-6)
    assert (found.n, found.seeds, found.others, found.distance) == (n, (5, 4 + n), (100, 99 + n), name)
    assert found.evaluations == n * (2 * 64 + 3 * (4 + 8))


def test_an_untrained_student_is_the_untrained_scheme(monkeypatch):
    """But for when the correction is made."""
    monkeypatch.setattr(sys.modules["sdesig.evaluation.verdict"], "PathAverage", StudentsStart)
    found = judged(make(), steps=(4,))
    rows = rows_of(found)
    assert rows[STUDENT, 4]["pathwise_rmse"] == pytest.approx(rows[UNTRAINED, 4]["pathwise_rmse"], rel=1e-3)
    assert "does not clearly beat the untrained scheme, which is the best other, in 4 steps (1.00" in found.sentence


def test_a_plain_cell_is_beside_eulers_scheme_and_path_average():
    student = make("plain")
    found = judged(student, steps=(4,))
    comparison = Comparison(TEACHER, student.space, truth_steps=128)
    euler = Sampler(UNTRAINED, "u", (4,), scheme=DPMSolver1(), referenced=True, grid=GRID)
    drawn = comparison.follow([(comparison.truth, 128), (euler, 4)], range(5, 35))
    errors = pathwise_errors(drawn[UNTRAINED, 4], drawn["converged-path", 128])
    rows = rows_of(found)
    assert rows[UNTRAINED, 4]["pathwise_rmse"] == pytest.approx(root_mean_square(errors)[0], rel=1e-5)
    assert rows["path-average-reference", 4]["pathwise_rmse"] < rows[UNTRAINED, 4]["pathwise_rmse"]
    assert "and does not clearly beat the best other in 4 steps" in found.sentence
    assert "of path-average, reference's error" in found.sentence


def test_images_have_the_distance_of_marginals():
    law = SNRDenoiser(lambda y, snr: y / (1 + snr.item()))  # N(0, 1)
    reference = GaussianReference.fit(torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), "dct")
    space = PathSpace((1, 4, 4), (LOW, HIGH), reference, cells=2**7, depth=2)
    found = verdict(SigDEG.from_teacher(law, space, depth=2), law, steps=(4,), evaluations=1, progress=False)
    assert (found.distance, found.n) == (MARGINAL, 20)
    assert "per coordinate to the converged samples" in found.text


def test_the_jackknife_has_the_noise_of_all_samples():
    """200 repeats of 100 samples: 5 standard errors of a standard deviation are 25 %, and 5 % are the jackknife's."""
    reference = GaussianReference(0.0, 0.0)
    generator = torch.Generator().manual_seed(0)

    def difference():
        one, noise, real = (torch.randn(100, 3, generator=generator, dtype=torch.float64) for _ in range(3))
        samples = {"one": 1.3 * one + 0.2, "other": one + 0.3 * noise}
        store = SimpleNamespace(
            pairs=[(SimpleNamespace(key=key), 4) for key in samples], samples=lambda key, _: samples[key]
        )
        laws = _Laws(store, real, lambda samples, converged: marginal_distance(samples, converged, reference)[0])
        return laws.apart(("one", 4), ("other", 4))

    values, errors = torch.tensor([difference() for _ in range(200)], dtype=torch.float64).T
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.3)


# --- what it costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluations, n", [(1, 20), (60_000, 176), (10**6, 1000)])
def test_the_seeds_are_as_many_as_the_evaluations_allow(evaluations, n, monkeypatch):
    """A seed takes 2 x 128 + 3 x 28 of them."""

    class Stop(Exception):
        pass

    def started(seeds, cost):
        assert (seeds, cost) == (n, 340 * n)
        raise Stop

    with pytest.raises(Stop):
        judged(seeds=None, evaluations=evaluations, started=started)


def test_no_more_than_the_evaluations_that_are_counted():
    calls = []

    def denoise(y, snr):
        calls.append(len(y))
        return LAW.denoise_y(y, snr)

    teacher = SNRDenoiser(denoise)
    student = make("plain")  # whose network asks no teacher
    found = verdict(student, teacher, steps=(4, 8), evaluations=9000, progress=False)
    assert sum(calls) + found.n * (4 + 8) == found.evaluations <= 9000
    assert found.seeds[0] == FIRST_SEED
    assert found.others == (FIRST_SEED + found.n, FIRST_SEED + 2 * found.n - 1)


@pytest.mark.parametrize("training, most", [(10, 10), (10**5, 60_000), (3 * 10**6, 60_000), (10**8, 2 * 10**6)])
def test_two_per_cent_of_a_training(training, most):
    assert affordable(training) == most
    assert VERDICT_EVALUATIONS == 60_000


# --- what it says --------------------------------------------------------------------------------------------------


def store_of(errors, distances, excess_se, known=True):
    """What `_sentence` reads: errors and distances by key, in 4 steps."""
    labels = {UNTRAINED: "untrained: path-average", STUDENT: "student", "2m": "2M", "unipc": "UniPC"}
    rows = [
        {
            "key": key,
            "method": labels[key],
            "steps": 4,
            "pathwise_rmse": None if key not in errors else errors[key].square().mean().sqrt().item(),
            "pathwise_rmse_low": 0.1 if known else None,
            "distance": distances[key],
        }
        for key in distances
    ]
    store = SimpleNamespace(errors=lambda key, _: errors.get(key))
    laws = SimpleNamespace(
        of=lambda key, _: distances[key], apart=lambda one, other: (distances[one[0]] - distances[other[0]], excess_se)
    )
    return store, rows, (4,), laws


def test_a_student_that_beats_all():
    errors = torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.5
    given = {UNTRAINED: errors, STUDENT: errors / 2, "2m": 3 * errors}
    said = _sentence(*store_of(given, {UNTRAINED: 0.3, STUDENT: 0.1, "2m": 0.4, "unipc": 0.2}, 0.01))
    assert said == (
        "On the path the student beats the untrained scheme, which is the best other, in 4 steps "
        "(0.50 of its error, 0.50 - 0.50); in distribution it beats the best other in 4 steps (0.1; UniPC 0.2)."
    )


def test_a_student_that_beats_none():
    errors = torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.5
    given = {UNTRAINED: errors, STUDENT: 2 * errors, "2m": errors / 2}
    said = _sentence(*store_of(given, {UNTRAINED: 0.19, STUDENT: 0.18, "2m": 0.4}, 0.01))
    assert said == (
        "On the path the student is behind the untrained scheme in 4 steps (2.00 of its error, 2.00 - 2.00), and is "
        "behind the best other in 4 steps (4.00 of 2M's error, 4.00 - 4.00); in distribution it does not clearly beat "
        "the best other in 4 steps (0.18; the untrained scheme 0.19)."
    )


def test_a_student_of_whom_too_few_seeds_tell():
    errors = torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.5
    given = {UNTRAINED: errors, STUDENT: errors / 2}
    said = _sentence(*store_of(given, {UNTRAINED: 0.1, STUDENT: 0.2}, 0.01, known=False))
    assert said == (
        "On the path the student does not clearly beat the untrained scheme, which is the best other, in 4 steps (0.50 "
        "of its error, too few seeds to tell); in distribution it is behind the best other in 4 steps (0.2; the "
        "untrained scheme 0.1)."
    )


def test_numbers_of_steps_with_different_outcomes():
    found = {"beats": ["4 steps (a)", "8 steps (b)"], "open": ["16 steps (c)"], "worse": ["20 steps (d)"]}
    assert (
        _beats(found, "it")
        == "beats it in 4 steps (a) and 8 steps (b), but not clearly in 16 steps (c), and is behind in 20 steps (d)"
    )


def test_it_says_what_is_left_out_and_is_saved(tmp_path):
    found = judged(steps=(4,), left_out=["UniPC, as diffusers is not installed"])
    assert "Left out: UniPC, as diffusers is not installed." in found.text
    assert found.text.endswith(found.sentence)
    found.save(tmp_path / "verdict.json")
    assert read_json(tmp_path / "verdict.json") == json.loads(json.dumps(vars(found)))


def test_other_samplers_are_compared():
    still = Sampler("still", "still", (4,), draw=lambda y, steps: torch.zeros_like(y))
    found = judged(steps=(4,), samplers=[still])
    row = rows_of(found)["still", 4]
    assert row["pathwise_rmse"] is None
    assert row["excess"] > 5 * row["excess_se"] > 0


# --- a folder --------------------------------------------------------------------------------------------------------


def test_a_stopped_verdict_goes_on(tmp_path, monkeypatch):
    """In blocks of ten seeds it is stopped in the second block of the seeds, and then draws what is missing alone."""
    monkeypatch.setattr(sys.modules["sdesig.evaluation.verdict"], "_NUMBERS", 20)
    kept, drawn = Comparison.follow, []

    def follow(self, pairs, seeds):
        drawn.append(seeds)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return kept(self, pairs, seeds)

    monkeypatch.setattr(Comparison, "follow", follow)
    with pytest.raises(KeyboardInterrupt, match="blocks of 10 seeds that were drawn are kept"):
        judged(folder=tmp_path, steps=(4,))
    found = judged(folder=tmp_path, steps=(4,))
    others, seeds = ([range(k, k + 10) for k in range(first, first + 30, 10)] for first in (35, 5))
    assert drawn == [*others, seeds[0], seeds[1], seeds[1], seeds[2]]
    assert found == judged(steps=(4,))


def test_other_weights_are_drawn_anew_and_nothing_else(tmp_path, monkeypatch):
    judged(folder=tmp_path, steps=(4,))
    kept, drawn = Comparison.follow, []

    def follow(self, pairs, seeds):
        drawn.extend(sampler.key for sampler, _ in pairs)
        return kept(self, pairs, seeds)

    monkeypatch.setattr(Comparison, "follow", follow)
    other = judged(make(shaken=0.1), folder=tmp_path, steps=(4,))
    assert drawn == [STUDENT]
    monkeypatch.undo()
    assert other == judged(make(shaken=0.1), steps=(4,))


@pytest.mark.parametrize(
    "options, match",
    [
        ({"steps": ()}, "steps must be one number or more"),
        ({"steps": (0,)}, "steps must be >= 1"),
        ({"steps": (200,)}, "steps must be"),
        ({"seeds": [1]}, "number of seeds must be >= 2"),
        ({"seeds": [1, 2], "others": [3]}, "others must be as many as the seeds, 2; got 1"),
        ({"seeds": [1, 2], "others": [2, 3]}, "seeds and others must be different"),
        ({"evaluations": 0}, "evaluations must be >= 1"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        judged(**options)
