"""Distances of samples to data against torchmetrics, scipy, brute force and closed forms; reference statistics."""

import copy
import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from images_tiny import flip_last_bit
from scipy import linalg
from torch import nn

from sdesig.evaluation import metrics
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance, extract, reference_statistics
from sdesig.evaluation.frechet import FeatureStatistics, FeatureSums, extrapolated_distance, fewest_for_extrapolation
from sdesig.evaluation.metrics import (
    kernel_distance,
    measure_pairs,
    measure_samples,
    pair_distances,
    polynomial_mmd,
    precision_recall,
)
from sdesig.evaluation.pixels import ImageSet, pixel_digest

F64 = torch.float64


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(n, seed=0, low=0, high=256):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, 4, 4), generator=generator).to(torch.uint8)


class Blocks(nn.Module):
    """12 features: means of a quarter of each colour. In the form that torchmetrics takes."""

    num_features = 12

    def forward(self, images):
        return nn.functional.avg_pool2d(images.double() / 255, 2).flatten(1)


EXTRACTOR = FeatureExtractor("blocks", "b" * 64, Blocks())


# --- against torchmetrics and scipy ----------------------------------------------------------------------------------


def test_the_frechet_distance_of_torchmetrics():
    """Of the same extractor; and of scipy's matrix root."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    one, other = pixels(200), pixels(150, 1, 20, 200)
    theirs = fid.FrechetInceptionDistance(feature=Blocks()).set_dtype(F64)
    theirs.update(one, real=True)
    theirs.update(other, real=False)
    real, found = (FeatureStatistics.of(extract(EXTRACTOR, images, 64)) for images in (one, other))
    assert real.distance(found) == pytest.approx(theirs.compute().item(), rel=1e-8)
    a, b = real.covariance.numpy(), found.covariance.numpy()
    expected = ((real.mean - found.mean) ** 2).sum().item() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert real.distance(found) == pytest.approx(expected, rel=1e-8)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
def test_the_kernel_distance_of_torchmetrics():
    """One subset of all samples, of which the order does not matter."""
    kid = pytest.importorskip("torchmetrics.image.kid")
    one, other = pixels(80), pixels(80, 1, 20, 200)
    theirs = kid.KernelInceptionDistance(feature=Blocks(), subsets=1, subset_size=80).set_dtype(F64)
    theirs.update(one, real=True)
    theirs.update(other, real=False)
    found = polynomial_mmd(extract(EXTRACTOR, one), extract(EXTRACTOR, other))
    assert found == pytest.approx(theirs.compute()[0].item(), rel=1e-10)
    assert found > 0.001


# --- kernel distance -------------------------------------------------------------------------------------------------


def test_the_unbiased_kernel_distance_by_brute_force():
    """Sums over pairs that are not the same; other numbers of samples."""
    x, y = normal(7, 3), normal(5, 3, seed=1) + 0.5

    def mean(pairs):
        return np.mean([(float(a @ b) / 3 + 1) ** 3 for a, b in pairs])

    expected = (
        mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2)) - 2 * mean(itertools.product(x, y))
    )
    assert polynomial_mmd(x, y) == pytest.approx(expected, rel=1e-12)
    assert polynomial_mmd(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_the_kernel_distance_and_its_standard_error():
    """Of N(0, 1) and N(.5, 1): sum_j binom(3, j) (E x^j - E y^j)^2, whatever n is.

    The mean of 100 of them within 4 of its standard errors, and their own standard errors right on average; from 10
    parts these have a relative standard deviation of 1/sqrt(18), of 100 of them .024 (bound: 5).
    """
    moments = [(0.0, 0.5), (1.0, 1.25), (0.0, 0.5**3 + 3 * 0.5)]
    expected = sum(math.comb(3, j) * (a - b) ** 2 for j, (a, b) in enumerate(moments, start=1))
    found = [kernel_distance(normal(100, 1, seed=2 * k), normal(150, 1, seed=2 * k + 1) + 0.5) for k in range(100)]
    values, errors, counts = (np.array(column) for column in zip(*found, strict=True))
    assert abs(values.mean() - expected) < 4 * values.std() / 10
    assert np.sqrt((errors**2).mean()) / values.std() == pytest.approx(1, abs=0.4)  # values have heavy tails
    assert {*counts} == {100}


def test_parts_of_the_kernel_distance():
    """Their mean is that of the parts, which are random but the same for a seed; same laws are near zero."""
    one, other = normal(60, 2), normal(60, 2, seed=1)
    assert kernel_distance(one, other) == kernel_distance(one, other)
    assert kernel_distance(one, other).value != kernel_distance(one, other, seed=1).value
    estimate = kernel_distance(one, other)
    assert abs(estimate.value) < 4 * estimate.standard_error
    shifted = kernel_distance(one + 2, other)
    assert shifted.value > 4 * shifted.standard_error
    constant = kernel_distance(torch.ones(20, 2), torch.zeros(20, 2))
    assert constant == pytest.approx((7.0, 0.0, 20), abs=1e-12)  # 2^3 + 1 - 2


# --- precision and recall --------------------------------------------------------------------------------------------


def covered_by_brute_force(points, centres, neighbours):
    points, centres = points.numpy(), centres.numpy()

    def radius(c):
        return sorted(np.linalg.norm(centres[c] - centres[j]) for j in range(len(centres)) if j != c)[neighbours - 1]

    radii = [radius(c) for c in range(len(centres))]
    inside = [any(np.linalg.norm(p - centre) <= r for centre, r in zip(centres, radii, strict=True)) for p in points]
    return np.mean(inside)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("rows", [7, 1024])
def test_precision_and_recall_by_brute_force(monkeypatch, neighbours, rows):
    monkeypatch.setattr(metrics, "_ROWS", rows)
    samples, data = 0.6 * normal(60, 4), normal(60, 4, seed=1)
    found = precision_recall(samples, data, neighbours=neighbours)
    expected = [covered_by_brute_force(*pair, neighbours) for pair in ((samples, data), (data, samples))]
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.2 < found[1] < found[0]
    assert precision_recall(samples.float(), data.float(), neighbours=neighbours) == pytest.approx(expected, abs=1e-12)


def test_limits_of_precision_and_recall():
    """Samples that are the data, far away, or only of one of two modes."""
    data = normal(100, 3)
    data[50:] += 100
    assert precision_recall(data, data) == (1.0, 1.0)
    assert precision_recall(data + 1000, data) == (0.0, 0.0)
    precision, recall = precision_recall(normal(100, 3, seed=1), data)
    assert precision > 0.8
    assert 0.3 < recall <= 0.5


# --- sums ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[200], [1, 199], [50] * 4, [7] * 28 + [4]])
@pytest.mark.parametrize("processes", [1, 3])
def test_sums_of_batches_and_processes(sizes, processes):
    """The statistics of all features in one go, however they are divided; far from zero some digits are lost."""
    features = normal(200, 5) @ normal(5, 5, seed=1) + 100
    parts = [FeatureSums(5) for _ in range(processes)]
    for k, batch in enumerate(features.split(sizes)):
        parts[k % processes].update(batch)
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    found, expected = merged.statistics(), FeatureStatistics.of(features)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-9)
    assert (found.n, found.covariance.dtype) == (200, F64)
    assert found.distance(expected) < 1e-7


def test_an_average_of_covariances_is_something_else():
    """What the sums are for: it depends on how features are divided."""
    features = normal(20, 3)
    whole = FeatureStatistics.of(features).covariance
    average = torch.stack([FeatureStatistics.of(part).covariance for part in features.split(5)]).mean(0)
    assert (average - whole).abs().max() > 0.01


def test_a_copy_of_sums_is_on_its_own():
    features = [torch.arange(12, dtype=torch.float64).reshape(6, 2) ** k for k in (1, 2, 3)]
    sums = FeatureSums(2)
    sums.update(features[0])
    other = copy.copy(sums)
    sums.update(features[1])
    other.update(features[2])
    for each, parts in ((sums, features[:2]), (other, features[::2])):
        expected = FeatureStatistics.of(torch.cat(parts))
        torch.testing.assert_close(each.statistics().covariance, expected.covariance, rtol=1e-9, atol=1e-9)


def test_sums_of_float32_are_in_float64():
    features = normal(3000, 2, dtype=torch.float32) + 30
    sums = FeatureSums(2)
    sums.update(features)
    np.testing.assert_allclose(sums.statistics().covariance, np.cov(features.numpy().astype(float).T), rtol=1e-9)


def test_refusals_of_sums():
    sums = FeatureSums(2)
    with pytest.raises(ValueError, match=r"features must have shape \(n, 2\); got \(5, 3\)"):
        sums.update(normal(5, 3))
    with pytest.raises(ValueError, match="features must be finite"):
        sums.update(torch.tensor([[1.0, math.nan]]))
    sums.update(normal(1, 2))
    with pytest.raises(ValueError, match="statistics must be of n >= 2 features; got 1"):
        sums.statistics()


# --- the limit of many samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_the_extrapolated_distance_has_no_bias(shift):
    """Gaussians of a known distance, 60 sets of 300 samples: the mean is within 4 standard errors of the truth, where
    that of the plain distance is more than 6 away, unless it is drowned in the noise of a large distance.

    Errors are right on average for a large distance: those of 60 sets have a relative standard deviation of .1, the
    bound is 3. For a small one they are on the safe side, as jackknives are (Efron and Stein 1981).
    """
    stds = torch.tensor([1.1, 0.9, 1.2, 1.0, 1.0, 0.8], dtype=F64)
    real = FeatureStatistics(torch.zeros(6, dtype=F64), torch.eye(6, dtype=F64), 10**9)
    truth = 6 * shift**2 + ((stds - 1) ** 2).sum().item()
    samples = [stds * normal(300, 6, seed=k) + shift for k in range(60)]
    found = [extrapolated_distance(features, real, seed=k) for k, features in enumerate(samples)]
    values, errors, counts = (np.array(column) for column in zip(*found, strict=True))
    plain = np.array([real.distance(FeatureStatistics.of(features)) for features in samples])
    assert abs(values.mean() - truth) < 4 * values.std() / 60**0.5
    assert shift == 1 or plain.mean() - truth > 6 * plain.std() / 60**0.5
    assert 0.7 < np.sqrt((errors**2).mean()) / values.std() < (1.3 if shift == 1 else 1.6)
    assert {*counts} == {300}


def test_the_extrapolation_near_zero():
    """Samples of the law itself: the plain distance is all bias, the extrapolated one is zero within its error."""
    real = FeatureStatistics(torch.zeros(6, dtype=F64), torch.eye(6, dtype=F64), 10**9)
    found = [extrapolated_distance(normal(300, 6, seed=k), real) for k in range(40)]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean()) < 4 * values.std() / 40**0.5
    plain = np.array([real.distance(FeatureStatistics.of(normal(300, 6, seed=k))) for k in range(40)])
    assert plain.mean() > 5 * abs(values.mean())
    assert plain.mean() == pytest.approx((6 + 6 * 7 / 4) / 300, rel=0.15)  # see the tests of the distance


def test_the_extrapolation_needs_more_samples_than_features():
    real = FeatureStatistics(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64), 10**9)
    assert fewest_for_extrapolation(3) == 23
    assert math.isfinite(extrapolated_distance(normal(23, 3), real).standard_error)
    with pytest.raises(ValueError, match=r"shape \(n >= 23, 3\) to extrapolate their distance; got \(22, 3\)"):
        extrapolated_distance(normal(22, 3), real)


# --- reference statistics --------------------------------------------------------------------------------------------


def image_set(n=40, seed=0):
    values = pixels(n, seed)
    return ImageSet(values, pixel_digest(values), f"set {seed}")


class Counting:
    """How many images were looked at."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return Blocks()(images).float()


@pytest.mark.parametrize("batch", [7, 40, 256])
@pytest.mark.parametrize("kept", [2, 15, 40, 1000])
def test_reference_statistics(batch, kept):
    """Those of all features, and some of these, in random order."""
    images = image_set()
    reference = reference_statistics(images, EXTRACTOR, kept=kept, batch=batch)
    features = extract(EXTRACTOR, images.pixels)
    expected = FeatureStatistics.of(features)
    np.testing.assert_allclose(reference.statistics.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(reference.statistics.covariance, expected.covariance, rtol=1e-9, atol=1e-14)
    assert reference.statistics.n == 40
    rows = [next(k for k in range(40) if torch.allclose(row, features[k])) for row in reference.features]
    assert len(rows) == len({*rows}) == min(kept, 40)
    assert kept == 2 or rows != sorted(rows)
    assert (reference.data_digest, reference.extractor_digest) == (images.digest, EXTRACTOR.digest)


def test_the_cache_of_reference_statistics(tmp_path):
    """Found by what images and extractor are, and how many features are kept; where they are from does not matter."""
    network = Counting()
    extractor = FeatureExtractor("blocks", "1", network)
    one = reference_statistics(image_set(), extractor, cache=tmp_path)
    again = reference_statistics(ImageSet(pixels(40), image_set().digest, "moved"), extractor, cache=tmp_path)
    assert network.seen == 40
    direct = reference_statistics(image_set(), FeatureExtractor("blocks", "1", Counting()))
    for found in (one, again):
        assert torch.equal(found.statistics.mean, direct.statistics.mean)
        assert torch.equal(found.statistics.covariance, direct.statistics.covariance)
        assert torch.equal(found.features, direct.features)
        assert found.statistics.n == 40
    for k, (images, digest, kept) in enumerate(
        [(image_set(seed=1), "1", 99), (image_set(), "2", 99), (image_set(), "1", 5)]
    ):
        reference_statistics(images, FeatureExtractor("blocks", digest, network), kept=kept, cache=tmp_path)
        assert network.seen == 80 + 40 * k


@pytest.mark.parametrize(
    "pattern, damage",
    [
        ("*.safetensors", flip_last_bit),
        ("*.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-5])),
        ("*.safetensors", Path.unlink),
        ("*.json", lambda file: file.write_text("{")),
        ("*.json", lambda file: file.write_text(file.read_text().replace('"n"', '"m"'))),
    ],
)
def test_damaged_reference_statistics_are_made_again(tmp_path, pattern, damage):
    network = Counting()
    extractor = FeatureExtractor("blocks", "1", network)
    one = reference_statistics(image_set(), extractor, cache=tmp_path)
    damage(next(tmp_path.glob(pattern)))
    with pytest.warns(UserWarning, match=r"reference-[0-9a-f]{16}\.json is damaged and made again: "):
        again = reference_statistics(image_set(), extractor, cache=tmp_path)
    assert torch.equal(again.statistics.covariance, one.statistics.covariance)
    reference_statistics(image_set(), extractor, cache=tmp_path)
    assert network.seen == 80


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path, monkeypatch):
    def temporary(path):
        name = path.with_name(f".temporary-{path.name}")
        name.symlink_to("/dev/full")
        return name

    monkeypatch.setattr("sdesig._files._temporary", temporary)
    with pytest.raises(OSError, match="disk full; complete files stay valid"):
        reference_statistics(image_set(), EXTRACTOR, cache=tmp_path)
    assert not [*tmp_path.iterdir()]


# --- reports ---------------------------------------------------------------------------------------------------------


def test_what_is_measured_of_samples():
    """All numbers, each with all that it depends on."""
    reference = reference_statistics(image_set(100), EXTRACTOR)
    features = extract(EXTRACTOR, pixels(80, 1, 20, 200))
    found = measure_samples(features, EXTRACTOR, reference, seeds=(0, 79), ema=True)
    assert [(m.metric, m.n) for m in found] == [
        ("FD-blocks", 80),
        ("FD-blocks, n to infinity", 80),
        ("KD-blocks", 80),
        ("precision (blocks)", 80),
        ("recall (blocks)", 80),
    ]
    frechet, limit, kernel, precision, recall = found
    assert frechet.value == reference.statistics.distance(FeatureStatistics.of(features))
    estimate = extrapolated_distance(features, reference.statistics)
    assert (limit.value, limit.standard_error) == (estimate.value, estimate.standard_error)
    assert limit.value < frechet.value
    kernel_estimate = kernel_distance(features, reference.features)
    assert (kernel.value, kernel.standard_error) == (kernel_estimate.value, kernel_estimate.standard_error)
    assert (precision.value, recall.value) == precision_recall(features, reference.features[:80])
    for measured in found:
        row = json.loads(json.dumps(asdict(measured)))
        assert row["seeds"] == [0, 79]
        assert row["ema"] is True
        assert row["quantization"] == "uint8"
        assert (row["extractor"], row["extractor_digest"]) == ("blocks", EXTRACTOR.digest)
        assert row["reference_digest"] == pixel_digest(pixels(100))


def test_too_few_samples_are_not_extrapolated():
    reference = reference_statistics(image_set(100), EXTRACTOR)
    features = extract(EXTRACTOR, pixels(fewest_for_extrapolation(12) - 1, 1))
    found = measure_samples(features, EXTRACTOR, reference, seeds=(0, 60), ema=None)
    assert [m.metric for m in found] == ["FD-blocks", "KD-blocks", "precision (blocks)", "recall (blocks)"]


def test_frechet_distances_alone():
    extractor = replace(EXTRACTOR, frechet_only=True)
    features = extract(extractor, pixels(80, 1))
    found = measure_samples(features, extractor, reference_statistics(image_set(), extractor), seeds=(0, 79), ema=None)
    assert [m.metric for m in found] == ["FD-blocks"]


def test_a_reference_by_another_extractor():
    reference = reference_statistics(image_set(), EXTRACTOR)
    other = FeatureExtractor("others", "c" * 64, Blocks())
    with pytest.raises(ValueError, match="reference must be by the extractor others of the features"):
        measure_samples(extract(other, pixels(40)), other, reference, seeds=(0, 39), ema=None)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_paired_distances(batch):
    """Mean and standard error by numpy."""
    distance = PerceptualDistance("perceptual (x)", "d" * 64, lambda a, b: (a - b).abs().double().mean((1, 2, 3)))
    one, other = pixels(20, 1), pixels(20, 2)
    values = pair_distances(distance, one, other, batch=batch)
    found = measure_pairs(values, distance, reference_digest=pixel_digest(other), seeds=(5, 24), ema=False)
    expected = np.abs(one.numpy().astype(float) - other.numpy()).mean((1, 2, 3)) / 127.5
    assert found.value == pytest.approx(expected.mean(), rel=1e-6)
    assert found.standard_error == pytest.approx(expected.std(ddof=1) / 20**0.5, rel=1e-5)
    assert (found.metric, found.n, found.seeds, found.ema) == ("perceptual (x)", 20, (5, 24), False)
    assert (found.extractor_digest, found.reference_digest) == ("d" * 64, pixel_digest(other))
    with pytest.raises(ValueError, match="images and others must be of the same seeds; got 20 and 19"):
        pair_distances(distance, one, other[:19])
    with pytest.raises(ValueError, match=r"values must have shape \(n >= 2,\); got \(1,\)"):
        measure_pairs(values[:1], distance, reference_digest="", seeds=(0, 0), ema=False)


@pytest.mark.parametrize(
    "call, match",
    [
        (
            lambda: kernel_distance(normal(19, 2), normal(30, 2)),
            r"features must have shape \(n >= 20, 2\) for 10 parts",
        ),
        (
            lambda: kernel_distance(normal(20, 2), normal(30, 3)),
            r"others must have shape \(n >= 20, 2\) .* got \(30, 3\)",
        ),
        (lambda: kernel_distance(normal(20, 2), normal(20, 2), parts=1), "parts must be >= 2; got 1"),
        (
            lambda: precision_recall(normal(5, 2), normal(6, 2)),
            r"both have shape \(n > 3, k\); got \(5, 2\) and \(6, 2\)",
        ),
        (
            lambda: precision_recall(normal(3, 2), normal(3, 2)),
            r"both have shape \(n > 3, k\); got \(3, 2\) and \(3, 2\)",
        ),
        (lambda: reference_statistics(image_set(), EXTRACTOR, kept=1), "kept must be >= 2; got 1"),
        (lambda: reference_statistics(image_set(1), EXTRACTOR), "statistics must be of n >= 2 features; got 1"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
