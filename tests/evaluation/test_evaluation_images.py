"""`evaluate_images`: its numbers are those of the parts, and what is on disk is not drawn again."""

import json
import math
from dataclasses import replace

import pytest
import torch

from sdesig.evaluation import Comparison
from sdesig.evaluation.comparison import OtherSampler, Sampler, generator_sampler
from sdesig.evaluation.features import FeatureExtractor, PerceptualDistance, load_extractor
from sdesig.evaluation.frechet import FeatureStatistics
from sdesig.evaluation.image_report import evaluate_images
from sdesig.evaluation.pixels import ImageSet, pixel_digest, to_floats, to_uint8
from sdesig.evaluation.sample_store import Method, SampleFiles
from sdesig.sampling import DPMSolver1, GaussianReference, PathSpace, StepGrid
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet

EVENT, SNR = (1, 4, 4), (0.02, 50.0)
EULER = Sampler("euler", DPMSolver1())
DDIM = Sampler("ddim", DPMSolver1(), eta=0.0)
DISTANCE = PerceptualDistance("mean square", "d" * 64, lambda a, b: (a - b).square().flatten(1).mean(1))


def pictures(n=40, seed=0):
    pixels = torch.randint(0, 256, (n, *EVENT), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ImageSet(pixels, pixel_digest(pixels), "pictures")


class Counting(NetworkDenoiser):
    """Counts the images that it is shown."""

    shown = 0

    def forward(self, y, snr, *inputs):
        self.shown += len(y)
        return super().forward(y, snr, *inputs)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return Counting(UNet(1, 4, widths=(8,)), 0.5).eval()


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    monkeypatch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: 1.5)


def space():
    return PathSpace(EVENT, SNR, GaussianReference.fit(to_floats(pictures().pixels), "dct"), levels=5)


def comparison(teacher, **options):
    return Comparison(teacher, space(), **{"truth_steps": 16, "batch": 15} | options)


def test_numbers_are_those_of_the_parts(teacher, tmp_path):
    made, data = comparison(teacher), pictures()
    mine = generator_sampler("mine", SigDEG.from_teacher(teacher, space(), depth=2))
    methods = [Method(EULER, (2, 16)), Method(DDIM, (2,)), Method(mine, (2,), ema=True, digest="ab" * 32)]
    found = evaluate_images(
        made,
        methods,
        data,
        tmp_path,
        n=32,
        first_seed=3,
        extractors=[load_extractor("pixels")],
        perceptual=[DISTANCE],
        floor_groups=4,
        progress=False,
    )
    plan = [(EULER, (2, 16)), (DDIM, (2,)), (mine, (2,))]
    converged, outcomes = made.run(plan, range(3, 35))
    assert [(row["method"], row["steps"]) for row in found.rows] == [
        ("converged path", 16), ("euler", 2), ("euler", 16), ("ddim", 2), ("mine", 2)
    ]  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(found.rows))
    for row, outcome in zip(found.rows[1:], outcomes, strict=True):
        images = to_uint8(outcome.samples)
        numbers = {number["metric"]: number for number in row["measured"]}
        own = FeatureStatistics.of(to_floats(images).flatten(1))
        wanted = FeatureStatistics.of(to_floats(data.pixels).flatten(1)).distance(own)
        assert numbers["FD-pixels"]["value"] == pytest.approx(wanted, rel=1e-4)
        if row["method"] == "ddim":
            assert row["pathwise_rmse"] is None
            assert "mean square" not in numbers
            continue
        assert row["pathwise_rmse"] == pytest.approx(outcome.rmse[0], rel=1e-4)
        square = (to_floats(images) - to_floats(to_uint8(converged))).square().mean().item()
        assert numbers["mean square"]["value"] == pytest.approx(square, rel=1e-3)
        assert {"n": 32, "seeds": (3, 34), "quantization": "uint8"}.items() <= numbers["mean square"].items()
        assert numbers["FD-pixels"]["reference_digest"] == data.digest
        assert numbers["FD-pixels"]["ema"] is (True if row["method"] == "mine" else None)
    (floor,) = found.floors
    assert (floor.depth, floor.steps, found.rows[-1]["floor"]) == (2, 2, floor.rmse)
    assert all(row["floor"] is None for row in found.rows[:-1])


def test_report_and_pictures(teacher, tmp_path):
    evaluate_images(comparison(teacher), [Method(EULER, (2, 3))], pictures(), tmp_path, n=4, progress=False)
    text = (tmp_path / "report.md").read_text()
    assert "| euler          | 2     | 2           |" in text
    assert pictures().digest[:12] in text
    for name in ("errors.png", "images-2.png", "images-3.png"):
        assert (tmp_path / name).stat().st_size > 0
        assert f"({name})" in text


def test_what_is_on_disk_is_not_drawn_again(teacher, tmp_path):
    """Blocks of 15, 15 and 2 seeds; the second run needs the network for one method alone, the third not at all."""
    made = comparison(teacher)
    arguments = {"n": 32, "progress": False, "recorded": {"teacher": "t"}}

    def images(found, method, steps):
        return found.samples.images(method, steps)

    euler, ddim = Method(EULER, (2,)), Method(DDIM, (3,))
    first = evaluate_images(made, [euler], pictures(), tmp_path, **arguments)
    before, teacher.shown = images(first, euler, 2), 0
    second = evaluate_images(made, [euler, ddim], pictures(), tmp_path, **arguments)
    assert teacher.shown == 32 * 3
    assert torch.equal(images(second, euler, 2), before)
    teacher.shown = 0
    evaluate_images(made, [ddim], pictures(), tmp_path, **arguments)
    third = evaluate_images(made, [euler, ddim], pictures(), tmp_path, **arguments)
    assert teacher.shown == 0
    assert third.rows == second.rows
    with pytest.raises(ValueError, match="has a run with other options"):
        evaluate_images(made, [euler], pictures(), tmp_path, **{**arguments, "recorded": {"teacher": "u"}})
    with pytest.raises(ValueError, match="has a run with other options"):
        evaluate_images(replace(made, truth_steps=8), [euler], pictures(), tmp_path, **arguments)


def test_a_stopped_run_keeps_its_blocks(teacher, tmp_path):
    made, blocks = comparison(teacher), []

    def broken(y, steps):
        blocks.append(len(y))
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return y / SNR[0]

    other = Method(OtherSampler("other", broken), (2,))
    with pytest.raises(KeyboardInterrupt, match="all blocks of 15 seeds that were drawn are kept in "):
        SampleFiles(tmp_path, made, [other], seeds=range(32)).make(progress=False)
    teacher.shown = 0
    SampleFiles(tmp_path, made, [other], seeds=range(32)).make(progress=False)
    assert blocks == [15, 15, 15, 2]
    assert teacher.shown == 17 * 16  # the converged paths of two blocks


def test_more_seeds_and_other_weights(teacher, tmp_path):
    """A block that was not full is drawn anew, and so are samples of other weights; those of the old ones go."""
    made = comparison(teacher)
    euler = Method(EULER, (2,), digest="a" * 64)
    for n, wanted in ((20, 20), (32, 17)):
        teacher.shown = 0
        files = SampleFiles(tmp_path, made, [euler], seeds=range(n))
        files.make(progress=False)
        assert teacher.shown == wanted * 18
    teacher.shown = 0
    again = SampleFiles(tmp_path, made, [replace(euler, digest="b" * 64)], seeds=range(32))
    again.make(progress=False)
    assert teacher.shown == 32 * 2
    with pytest.raises(ValueError, match="does not have euler/2/aaaaaaaaaaaaaaaa/images"):
        files.images(euler, 2)


def test_features_and_distances_are_kept(teacher, tmp_path):
    """Of whole blocks: what was computed before a stop is not computed again, nor with more seeds or methods."""
    made, shown = comparison(teacher), []

    def network(images, *others):
        shown.append(len(images))
        if len(shown) == stop:
            raise KeyboardInterrupt
        return torch.cat([images.double().flatten(1)[:, :3], *(other.flatten(1)[:, :3] for other in others)], 1)

    extractor = FeatureExtractor("three", "3" * 64, network)
    distance = PerceptualDistance("first", "1" * 64, lambda a, b: network(a, b)[:, 0])
    euler, stop = Method(EULER, (2,), digest="a" * 64), 2

    def files(n, method=euler):
        found = SampleFiles(tmp_path, made, [method], seeds=range(n))
        found.make(progress=False)
        return found

    with pytest.raises(KeyboardInterrupt):
        files(20).features(extractor, euler, 2)
    stop = 0
    for n, method, wanted in (
        (20, euler, [5]),
        (32, euler, [15, 2]),
        (32, replace(euler, digest="b" * 64), [15, 15, 2]),
    ):
        shown.clear()
        found = files(n, method)
        values = found.features(extractor, method, 2)
        assert shown == wanted
        assert torch.equal(values, found.images(method, 2).double().flatten(1)[:, :3])
    shown.clear()
    for _ in range(2):
        values = found.distances(distance, method, 2)
        assert torch.equal(values, to_floats(found.images(method, 2)).double().flatten(1)[:, 0])
    assert shown == [15, 15, 2]


def test_samples_on_another_grid_are_others(teacher, tmp_path):
    made = comparison(teacher)
    for grid in (StepGrid(), StepGrid((0.0, 0.3, 1.0))):
        teacher.shown = 0
        files = SampleFiles(tmp_path, made, [Method(EULER._replace(grid=grid), (2,))], seeds=range(15))
        files.make(progress=False)
        assert teacher.shown == 15 * (18 if grid == StepGrid() else 2)


def test_samplers_that_follow_no_path(teacher, tmp_path):
    made, seen = comparison(teacher), []

    def draw(y, steps):
        seen.append(y)
        return y / y.abs().max() / steps

    other = Method(OtherSampler("peer", draw, evaluations=2), (3,))
    found = evaluate_images(made, [other], pictures(), tmp_path, n=8, perceptual=[DISTANCE], progress=False)
    row = found.rows[1]
    assert (row["method"], row["nfe"], row["pathwise_rmse"], row["depth"]) == ("peer", 6, None, None)
    assert row["measured"] == []
    assert row["seconds_per_1000"] > 0
    assert torch.equal(found.samples.images(other, 3), to_uint8(draw(seen[0], 3)))
    reference = made.space.reference
    u = made.space.paths(8).initial_noise() * reference.clock(SNR[0]).sqrt()
    torch.testing.assert_close(seen[0], reference.from_reference(u.float(), SNR[0]))


def test_latents_are_decoded(teacher, tmp_path):
    def decode(latents):
        return latents.repeat(1, 3, 2, 2)

    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(pixels, pixel_digest(pixels), "decoded")
    made, euler = comparison(teacher), Method(EULER, (2,))
    found = evaluate_images(made, [euler], data, tmp_path, n=4, decode=decode, progress=False)
    _, (outcome,) = made.run([(EULER, (2,))], range(4))
    assert torch.equal(found.samples.images(euler, 2), to_uint8(decode(outcome.samples)))
    assert found.rows[1]["pathwise_rmse"] == pytest.approx(outcome.rmse[0], rel=1e-5)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"n": 1}, "n must be >= 2; got 1"),
        ({"n": 19, "extractors": [load_extractor("pixels")]}, "n must be >= 20; got 19"),
        ({"first_seed": -1}, "first_seed must be >= 0; got -1"),
        ({"floor_groups": -1}, "floor_groups must be >= 0; got -1"),
        ({"methods": [Method(EULER, (33,))]}, r"steps must be in \[1, 32\]; got 33"),
        ({"methods": [Method(OtherSampler("a", None), (0,))]}, "steps must be >= 1; got 0"),
        ({"methods": [Method(EULER, (2,)), Method(EULER, (3,))]}, "samplers must have different names"),
        ({"methods": [Method(OtherSampler("converged path", None), (2,))]}, "methods must have different names"),
        (
            {"methods": [Method(OtherSampler("a", lambda y, steps: y[1:]), (2,))]},
            r"a must draw samples of shape \(20, 1, 4, 4\); it drew \(19, 1, 4, 4\)",
        ),
        ({"methods": [Method(OtherSampler("a", lambda y, steps: y * math.nan), (2,))]}, "samples must be finite"),
        ({"data": pictures(19), "extractors": [load_extractor("pixels")]}, "images in data must be >= 20; got 19"),
        ({"data": replace(pictures(), pixels=torch.zeros(5, 3, 4, 4))}, r"images must have shape \(1, 4, 4\), as the"),
    ],
)
def test_refusals(options, match, teacher, tmp_path):
    options = {"methods": [Method(EULER, (2,))], "data": pictures(), "n": 20, "progress": False} | options
    with pytest.raises(ValueError, match=match):
        evaluate_images(comparison(teacher, batch=20), options.pop("methods"), options.pop("data"), tmp_path, **options)
    assert not (tmp_path / "report.json").exists()
