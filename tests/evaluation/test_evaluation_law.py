"""Distances to the teacher's own law: of Gaussian data, whose laws are known at every number of steps; and the share of
seeds that changed."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdesig.evaluation import (
    CONVERGED,
    COORDINATES,
    Comparison,
    FeatureExtractor,
    FeatureStatistics,
    ImageSet,
    Sampler,
    SampleStore,
    evaluate,
    frechet_distance,
    kernel_distance,
    load_extractor,
    share_changed,
)
from sdesig.evaluation.pixels import pixel_digest
from sdesig.sampling import DPMSolver1, GaussianReference, PathSpace, SNRDenoiser

F64 = torch.float64
SNR = math.exp(-3), math.exp(3)
MEAN, VARIANCE = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.2])
EXACT = GaussianReference(MEAN, VARIANCE)
LENGTH = FeatureExtractor("length", "l", lambda x: x.norm(dim=1, keepdim=True), floats=True)
PIXELS = load_extractor("pixels")


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: 1.5)


def denoise(y, snr):
    return (MEAN + VARIANCE * y) / (1 + VARIANCE * snr)


def comparison(**options):
    """Of N(MEAN, VARIANCE), for which path-average with its reference is exact at any number of steps."""
    space = PathSpace((2,), SNR, EXACT, cells=32, slack=0.0)
    return Comparison(SNRDenoiser(denoise), space, **{"truth_steps": 4, "batch": 4000} | options)


def euler(*steps):
    return Sampler("euler", "Euler", steps, scheme=DPMSolver1())


def ddim(*steps):
    return Sampler("ddim", "DDIM", steps, scheme=DPMSolver1(), eta=0.0)


def evaluated(samplers, out=None, made=None, **options):
    options = {"data": None, "seeds": range(30), "law": range(30, 60), "progress": False} | options
    return evaluate(made or comparison(), samplers, options.pop("data"), out, **options)


def teacher():
    """Mean and standard deviations of the teacher's own law, in float64."""
    return MEAN.double(), (VARIANCE.double() + 1 / SNR[1]).sqrt()


def by_euler(steps):
    """Those of Euler's scheme, by recursion: y' = y + D(y, tau) h + N(0, h), and D is linear."""
    times = torch.logspace(-3, 3, steps + 1, base=math.e, dtype=F64)
    c, mean, variance = VARIANCE.double(), MEAN.double() * times[0], times[0] + VARIANCE.double() * times[0] ** 2
    for tau, h in zip(times, times.diff(), strict=False):
        factor = 1 + h * c / (1 + c * tau)
        mean, variance = factor * mean + h * MEAN.double() / (1 + c * tau), factor**2 * variance + h
    return mean / times[-1], variance.sqrt() / times[-1]


def frechet(one, other):
    return sum((a - b).square().sum().item() for a, b in zip(one, other, strict=True))


def mmd(one, other):
    """The squared MMD of normal laws with the kernel (x . y/2 + 1)^3, from moments of order 1 to 3."""

    def moments(mean, deviation):
        covariance = torch.diag(deviation.square())
        mixed = torch.einsum("i,jk->ijk", mean, covariance)
        third = torch.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.permute(1, 0, 2) + mixed.permute(1, 2, 0)
        return mean, torch.outer(mean, mean) + covariance, third

    def kernel(a, b):
        s, s2, s3 = ((x * y).sum().item() / 2**k for k, (x, y) in enumerate(zip(a, b, strict=True), 1))
        return 1 + 3 * s + 3 * s2 + s3

    x, y = moments(*one), moments(*other)
    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


# --- distances to the law --------------------------------------------------------------------------------------------


def test_distances_to_a_law_that_is_known(monkeypatch):
    """n = 20000. The bias of the Frechet distance is below 2 (k + k (k + 1)/4)/n times the largest variance, 1.25, for
    k = 2. At the noise floor the distance is a sum of squares of errors, which exceeds 20 times its mean with
    probability 1e-5 at most. Else |z| < 5, and < 12 for kernel distances off the floor, whose error is from ten parts
    (Student's law of 9 degrees of freedom: 8e-7). False-alarm rate in all 2e-5. The control: biased samplers fail the
    floor's bound."""
    n = 20_000
    monkeypatch.setattr(SampleStore, "seeds_changed", lambda *_: None)  # n^2 distances, another test's subject
    found = evaluated([euler(2, 4)], seeds=range(n), law=range(n, 2 * n))
    floor, *rows = found.rows
    bias = 2 * 3.5 * 1.25 / n
    assert floor["key"] == CONVERGED
    assert 0 < floor["law_frechet_distance"] < 20 * bias
    for row in rows:
        expected = frechet(by_euler(row["steps"]), teacher())
        error = row["law_frechet_distance_se"]
        assert abs(row["law_frechet_distance"] - expected) < 5 * error + 20 * bias < expected
        expected = mmd(by_euler(row["steps"]), teacher())
        assert abs(row["law_kernel_distance"] - expected) < 12 * row["law_kernel_distance_se"] < expected
    for name in ("law_frechet_distance", "law_kernel_distance"):
        assert floor[name] < rows[1][name] < rows[0][name]


@pytest.mark.parametrize(("key", "steps", "most"), [("euler", 4, 1.25), (CONVERGED, 4, 1.8)])
def test_standard_errors_against_independent_seeds(key, steps, most):
    """400 times 200 seeds against 200 others: the spread of the distances is known to 4 %, and 5 % where they are
    skewed, so that a quarter below is five standard errors: a false-alarm rate of 1e-6. At the noise floor, where the
    distance is all bias, standard errors are on the safe side. With the law as exact they would be too small.

    Means of 400 kernel distances are within 5 standard errors of their values, that at the noise floor of 0: 1e-5, with
    some room for the skewness."""
    n, repeats = 200, 400
    store = SampleStore(comparison(), [euler(4)], range(2 * n * repeats))
    store.make(progress=False)
    samples, laws = (store.samples(which, 4).reshape(2, repeats, n, 2) for which in (key, CONVERGED))
    pairs = list(zip(samples[0], laws[1], strict=True))
    estimates = [frechet_distance(one, FeatureStatistics.of(other), other) for one, other in pairs]
    spread = np.std([found.value for found in estimates])
    assert 0.75 < np.mean([found.standard_error for found in estimates]) / spread < most
    bare = [frechet_distance(one, FeatureStatistics.of(other)) for one, other in pairs]
    assert [found.value for found in bare] == [found.value for found in estimates]
    if key == "euler":
        assert np.mean([found.standard_error for found in bare]) < 0.85 * spread
    kernels = np.array([kernel_distance(one, other).value for one, other in pairs])
    expected = 0.0 if key == CONVERGED else mmd(by_euler(steps), teacher())
    assert abs(kernels.mean() - expected) < 5 * kernels.std() / math.sqrt(repeats)


def test_a_law_that_counts_as_exact_has_no_error():
    """Of two samples each counts as the one of `frechet_distance`, and the distance is symmetric."""
    one, other = (torch.randn(50, 3, generator=torch.Generator().manual_seed(k), dtype=F64) * (k + 1) for k in (0, 1))
    own, others = FeatureStatistics.of(one), FeatureStatistics.of(other)
    found = frechet_distance(one, others, other)
    parts = frechet_distance(one, others).standard_error, frechet_distance(other, own).standard_error
    assert found.standard_error == pytest.approx(math.hypot(*parts))
    assert found.standard_error == pytest.approx(frechet_distance(other, own, one).standard_error)


# --- rows ------------------------------------------------------------------------------------------------------------

COLUMNS = {
    *("seeds_changed", "seeds_changed_se", "law_seeds", "law_n", "law_digest"),
    *("law_frechet_distance", "law_frechet_distance_se", "law_kernel_distance", "law_kernel_distance_se"),
}


def test_rows_are_those_of_the_parts():
    """By the given extractors, and by the coordinates too."""
    data = torch.randn(50, 2)
    options = {"data": data, "extractors": [LENGTH]}
    found, bare = (evaluated([euler(4), ddim(4)], **options, **law) for law in ({}, {"law": None}))
    assert (bare.law, list(found.law.seeds)) == (None, [*range(30, 60)])
    law = found.law.converged
    for row, without in zip(found.rows, bare.rows, strict=True):
        own = {name for name in row.keys() - without.keys() if "coordinates" not in name}
        assert own == COLUMNS
        assert all(row[name] == without[name] for name in without if name != "measured")
        assert row["measured"][: len(without["measured"])] == without["measured"]
        samples = found.store.samples(row["key"], row["steps"])
        numbers = row["measured"][len(without["measured"]) :]
        expected = {}
        for extractor, end in ((LENGTH, ""), (COORDINATES, "_coordinates")):
            one, other = extractor(samples), extractor(law)
            expected[f"law_frechet_distance{end}"] = frechet_distance(one, FeatureStatistics.of(other), other)
            expected[f"law_kernel_distance{end}"] = kernel_distance(one, other)
        for number, (name, estimate) in zip(numbers, expected.items(), strict=True):
            assert (row[name], row[f"{name}_se"]) == (estimate.value, estimate.standard_error)
            assert (number["value"], number["standard_error"], number["n"]) == tuple(estimate)
            assert number["reference_digest"] == row["law_digest"] == pixel_digest(law)
            assert (number["seeds"], row["law_seeds"], row["law_n"]) == ((0, 29), (30, 59), 30)
        assert [number["metric"] for number in numbers] == [
            *("FD-length to the law", "KD-length to the law"),
            *("FD-coordinates to the law", "KD-coordinates to the law"),
        ]
        follows = row["key"] == "euler"
        changed = share_changed(samples, found.store.converged) if follows else (None, None)
        assert (row["seeds_changed"], row["seeds_changed_se"]) == changed
    json.dumps(found.rows, allow_nan=False)


def test_what_is_not_measured():
    """Kernel distances of few seeds or by an extractor for Frechet distances alone; coordinates likewise, or twice."""
    quick = replace(LENGTH, frechet_only=True)
    (row, *_) = evaluated([], extractors=[quick], seeds=range(2)).rows
    assert {name for name in row if name.startswith("law_")} == {
        *("law_frechet_distance", "law_frechet_distance_se", "law_digest", "law_seeds", "law_n"),
    }
    (row, *_) = evaluated([], extractors=[replace(COORDINATES, name="pixels")], law=range(30, 49)).rows
    assert [number["metric"] for number in row["measured"]] == ["FD-pixels to the law"]


def test_the_report_explains_its_columns(tmp_path):
    evaluated([euler(4)], tmp_path, data=torch.randn(50, 2))
    first, law, *_ = (
        part for part in (tmp_path / "report.md").read_text().split("\n\n") if part.startswith("| method")
    )
    assert "| seeds changed |" in first.splitlines()[0]
    assert "law" not in first
    assert law.splitlines()[0].split("|")[1:-1] == [
        *(" method         ", " steps "),
        *(f" {name} ".ljust(len(name) + 2) for name in ("FD-coordinates to the law", "KD-coordinates to the law")),
    ]
    assert law.splitlines()[2].startswith("| converged path | 4     |")
    text = (tmp_path / "report.md").read_text()
    assert "The teacher's own law: 30 converged paths of other seeds, 30 to 59, sha256 " in text
    assert "Seeds changed: the share whose sample is nearer" in text
    evaluated([euler(4)], tmp_path, law=None)
    text = (tmp_path / "report.md").read_text()
    assert "law" not in text
    assert "changed" not in text


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """Blocks of 15 seeds; it stops in the last one of the law. Rows are those of a run in memory, and a law that is
    added later draws nothing else."""
    made, samplers = comparison(batch=15), [euler(2)]
    whole = evaluated(samplers, made=made)
    drawn, follow = [], Comparison.follow

    def counting(self, pairs, seeds):
        drawn.append([*seeds])
        if seeds[0] == stop:
            raise KeyboardInterrupt
        return follow(self, pairs, seeds)

    monkeypatch.setattr(Comparison, "follow", counting)
    stop = None
    evaluated(samplers, tmp_path, made=made, law=None)
    drawn.clear()
    stop = 45
    with pytest.raises(KeyboardInterrupt, match="all blocks of 15 seeds that were drawn are kept in "):
        evaluated(samplers, tmp_path, made=made)
    stop = None
    found = evaluated(samplers, tmp_path, made=made)
    assert [seeds[0] for seeds in drawn] == [30, 45, 45]
    assert found.rows == whole.rows
    assert evaluated(samplers, tmp_path, made=made).rows == whole.rows
    assert len(drawn) == 3
    more = {"seeds": range(60), "law": range(60, 90)}
    assert evaluated(samplers, tmp_path, made=made, **more).rows == evaluated(samplers, made=made, **more).rows


def test_images_are_compared_as_such(tmp_path):
    """Laws in memory and on disk are the same, of 256 levels."""
    pixels = torch.randint(0, 256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    space = PathSpace((1, 4, 4), SNR, GaussianReference(0.0, 0.25), cells=32)
    made = Comparison(SNRDenoiser(lambda y, snr: 0.25 * y / (1 + 0.25 * snr)), space, truth_steps=8, batch=15)
    options = {"data": ImageSet(pixels, pixel_digest(pixels), "pictures"), "extractors": [PIXELS], "made": made}
    one, other = (evaluated([euler(2)], out, **options) for out in (None, tmp_path))
    assert one.rows == other.rows
    law = one.law.samples(CONVERGED, 8)
    assert law.dtype == torch.uint8
    features = PIXELS(law)
    row = one.rows[1]
    expected = frechet_distance(PIXELS(one.store.samples("euler", 2)), FeatureStatistics.of(features), features)
    assert (row["law_frechet_distance"], row["law_frechet_distance_se"]) == expected[:2]
    assert {"FD-pixels to the law", "KD-pixels to the law"} < {number["metric"] for number in row["measured"]}
    with pytest.raises(ValueError, match="law must be None without extractors of images; got 30 seeds"):
        evaluated([], **options | {"extractors": []})
    with pytest.raises(ValueError, match="number of seeds in law must be >= 20; got 19"):
        evaluated([], **options, law=range(30, 49))


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"law": 0}, TypeError, "law must be a sequence of integers, one per batch row; got 0"),
        ({"law": range(0)}, ValueError, "law must not be empty"),
        ({"law": [-1, 40]}, ValueError, r"law must lie in \[0, 2\^63\); got -1"),
        ({"law": range(40, 41)}, ValueError, "number of seeds in law must be >= 2; got 1"),
        ({"law": range(29, 40)}, ValueError, "law must have other seeds than seeds; both have 29"),
        ({"law": [40, 41, 42, 40]}, ValueError, "law must have different seeds; some are there twice"),
        ({"law": range(30, 60, 2), "out": "x"}, ValueError, "law must be a range with step 1 to be kept in a folder"),
        ({"law": range(30, 32)}, ValueError, "law must be None or have, as seeds, more than 2 seeds; got 2"),
        ({"law": None, "extractors": [LENGTH]}, ValueError, "extractors must not be given without data or law"),
        ({"extractors": [PIXELS]}, ValueError, "extractors must take vectors"),
    ],
)
def test_refusals(options, error, match):
    with pytest.raises(error, match=match):
        evaluated([], **options)


# --- seeds that changed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [7, 1024])
@pytest.mark.parametrize("kind", ["floats", "pixels"])
def test_seeds_changed_by_brute_force(rows, kind, monkeypatch):
    monkeypatch.setattr("sdesig.evaluation.metrics._ROWS", rows)
    generator = torch.Generator().manual_seed(1)
    converged = torch.randn(40, 1, 2, 2, generator=generator)
    samples = converged + 0.8 * torch.randn(40, 1, 2, 2, generator=generator)
    if kind == "pixels":
        converged, samples = ((64 * values + 128).clamp(0, 255).to(torch.uint8) for values in (converged, samples))
    one, other = (values.double().flatten(1).tolist() for values in (samples, converged))
    nearest = [min(range(40), key=lambda j: sum((a - b) ** 2 for a, b in zip(x, other[j], strict=True))) for x in one]
    changed = sum(j != k for k, j in enumerate(nearest))
    assert 4 < changed < 36
    share, error = share_changed(samples, converged)
    assert (share, error) == (changed / 40, pytest.approx(math.sqrt(changed * (40 - changed) / 40**3)))


def test_seeds_that_keep_their_image_and_seeds_that_swap_it():
    """Seeds of equal images have not changed, nor have those that are off by less than half of all distances."""
    converged = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    converged[10:] = converged[:10]
    assert share_changed(converged, converged) == (0.0, 0.0)
    converged = converged[:10]
    assert share_changed(converged // 2 + 64, converged) == (0.0, 0.0)
    swapped = converged[torch.tensor([1, 0, *range(2, 10)])]
    assert share_changed(swapped, converged)[0] == 0.2
    with pytest.raises(ValueError, match=r"samples must have the shape \(10, 3, 8, 8\); got \(9, 3, 8, 8\)"):
        share_changed(converged[:9], converged)
