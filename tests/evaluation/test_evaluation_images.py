"""`evaluate` of images: its numbers are those of the parts, and what is on disk is not drawn again."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sdesig.evaluation import (
    COORDINATES,
    Comparison,
    FeatureExtractor,
    FeatureStatistics,
    ImageSet,
    PerceptualDistance,
    Sampler,
    SampleStore,
    evaluate,
    generator_sampler,
    load_extractor,
    root_mean_square,
    to_floats,
    to_uint8,
)
from sdesig.evaluation.pixels import pixel_digest
from sdesig.sampling import DPMSolver1, GaussianReference, PathSpace, StepGrid
from sdesig.sigdeg import NetworkDenoiser, SigDEG, UNet

EVENT, SNR = (1, 4, 4), (0.02, 50.0)
DISTANCE = PerceptualDistance("mean square", "d" * 64, lambda a, b: (a - b).square().flatten(1).mean(1))


def euler(*steps, **options):
    return Sampler("euler", "Euler", steps, scheme=DPMSolver1(), **options)


def ddim(*steps):
    return Sampler("ddim", "DDIM", steps, scheme=DPMSolver1(), eta=0.0)


def other(draw, steps=(2,)):
    return Sampler("other", "other", steps, draw=draw or max)


def store_of(folder, made, samplers, n):
    """Images of the seeds 0, ..., n - 1, drawn as far as they are not in the folder."""
    store = SampleStore(made, samplers, range(n), folder, images=True)
    store.make(progress=False)
    return store


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
    return PathSpace(EVENT, SNR, GaussianReference.fit(to_floats(pictures().pixels), "dct"), cells=2**5, depth=4)


def comparison(teacher, **options):
    return Comparison(teacher, space(), **{"truth_steps": 16, "batch": 15} | options)


def test_numbers_are_those_of_the_parts(teacher, tmp_path):
    made, data = comparison(teacher), pictures()
    student = SigDEG.from_teacher(teacher, space(), depth=2)
    mine = generator_sampler("mine", student, (2,), "Mine", "ab" * 32, ema=True)
    samplers = [euler(2, 16), ddim(2), mine]
    found = evaluate(
        made,
        samplers,
        data,
        tmp_path,
        seeds=range(3, 35),
        extractors=[load_extractor("pixels")],
        perceptual=[DISTANCE],
        floor_groups=4,
        progress=False,
    )
    parts = SampleStore(made, samplers, range(3, 35))
    parts.make(progress=False)
    assert [(row["key"], row["method"], row["steps"]) for row in found.rows] == [
        ("converged-path", "converged path", 16),
        ("euler", "Euler", 2),
        ("euler", "Euler", 16),
        ("ddim", "DDIM", 2),
        ("mine", "Mine", 2),
    ]
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(found.rows))
    for row in found.rows[1:]:
        images = to_uint8(parts.samples(row["key"], row["steps"]))
        numbers = {number["metric"]: number for number in row["measured"]}
        own = FeatureStatistics.of(to_floats(images).flatten(1))
        wanted = FeatureStatistics.of(to_floats(data.pixels).flatten(1)).distance(own)
        assert numbers["FD-pixels"]["value"] == row["frechet_distance"] == pytest.approx(wanted, rel=1e-4)
        if row["key"] == "ddim":
            assert row["pathwise_rmse"] is None
            assert "mean square" not in numbers
            continue
        rmse, _ = root_mean_square(parts.errors(row["key"], row["steps"]))
        assert row["pathwise_rmse"] == pytest.approx(rmse, rel=1e-4)
        square = (to_floats(images) - to_floats(to_uint8(parts.converged))).square().mean().item()
        assert numbers["mean square"]["value"] == pytest.approx(square, rel=1e-3)
        assert {"n": 32, "seeds": (3, 34), "quantization": "uint8"}.items() <= numbers["mean square"].items()
        assert numbers["FD-pixels"]["reference_digest"] == data.digest
        assert numbers["FD-pixels"]["ema"] is (True if row["key"] == "mine" else None)
    (floor,) = found.floors
    assert (floor.depth, floor.steps, found.rows[-1]["floor"]) == (2, 2, floor.rmse)
    assert all(row["floor"] is None for row in found.rows[:-1])


def test_report_and_pictures(teacher, tmp_path):
    evaluate(comparison(teacher), [euler(2, 3)], pictures(), tmp_path, seeds=range(4), progress=False)
    text = (tmp_path / "report.md").read_text()
    assert "| Euler          | 2     | 2           |" in text
    assert pictures().digest[:12] in text
    for name in ("errors.png", "images-2.png", "images-3.png"):
        assert (tmp_path / name).stat().st_size > 0
        assert f"({name})" in text


def test_what_is_on_disk_is_not_drawn_again(teacher, tmp_path):
    """Blocks of 15, 15 and 2 seeds; the second run needs the network for one method alone, the third not at all."""
    made = comparison(teacher)
    options = {"seeds": range(32), "progress": False, "recorded": {"teacher": "t"}}
    first = evaluate(made, [euler(2)], pictures(), tmp_path, **options)
    before, teacher.shown = first.store.samples("euler", 2), 0
    second = evaluate(made, [euler(2), ddim(3)], pictures(), tmp_path, **options)
    assert teacher.shown == 32 * 3
    assert torch.equal(second.store.samples("euler", 2), before)
    teacher.shown = 0
    evaluate(made, [ddim(3)], pictures(), tmp_path, **options)
    third = evaluate(made, [euler(2), ddim(3)], pictures(), tmp_path, **options)
    assert teacher.shown == 0
    assert third.rows == second.rows
    with pytest.raises(ValueError, match="has a run with other options"):
        evaluate(made, [euler(2)], pictures(), tmp_path, **{**options, "recorded": {"teacher": "u"}})
    with pytest.raises(ValueError, match="has a run with other options"):
        evaluate(replace(made, truth_steps=8), [euler(2)], pictures(), tmp_path, **options)


def test_files_made_earlier_have_labels(teacher, tmp_path, monkeypatch):
    """Instead of keys: they are taken over, and so are features and seconds; samples that are added have labels too."""
    made, extractors = comparison(teacher), [load_extractor("pixels")]
    options = {"seeds": range(20), "extractors": extractors, "progress": False}
    wanted = evaluate(made, [euler(2)], pictures(), tmp_path / "new", **options).rows
    with monkeypatch.context() as patch:
        patch.setattr(SampleStore, "_name", lambda self, key, steps: f"{self.samplers[key].label}/{steps}/")
        evaluate(made, [euler(2)], pictures(), tmp_path / "old", **options)
    file = tmp_path / "old/samples/options.json"
    recorded = json.loads(file.read_text())
    assert recorded.pop("names") == "keys"
    file.write_text(json.dumps(recorded))

    def files():
        return {file: file.read_bytes() for file in (tmp_path / "old").rglob("*.safetensors")}

    before, teacher.shown = files(), 0
    monkeypatch.setattr(Comparison, "seconds_per_1000", None)
    assert evaluate(made, [euler(2)], pictures(), tmp_path / "old", **options).rows == wanted
    assert (files(), teacher.shown) == (before, 0)
    monkeypatch.setattr(Comparison, "seconds_per_1000", lambda *_: 1.5)
    evaluate(made, [euler(2), ddim(2)], pictures(), tmp_path / "old", **options)
    assert teacher.shown == 20 * 2
    found = load_file(tmp_path / "old/samples/seeds-00000000.safetensors")
    assert {name.partition("/")[0] for name in found} == {"converged", "converged path", "Euler", "DDIM"}
    assert "names" not in json.loads(file.read_text())


def test_a_stopped_run_keeps_its_blocks(teacher, tmp_path):
    made, blocks = comparison(teacher), []

    def broken(y, steps):
        blocks.append(len(y))
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return y / SNR[0]

    other = Sampler("other", "other", (2,), draw=broken)
    with pytest.raises(KeyboardInterrupt, match="all blocks of 15 seeds that were drawn are kept in "):
        store_of(tmp_path, made, [other], 32)
    teacher.shown = 0
    store_of(tmp_path, made, [other], 32)
    assert blocks == [15, 15, 15, 2]
    assert teacher.shown == 17 * 16  # the converged paths of two blocks


def test_more_seeds_and_other_weights(teacher, tmp_path):
    """A block that was not full is drawn anew, and so are samples of other weights; those of the old ones go."""
    made = comparison(teacher)
    one, other = (euler(2, digest=letter * 64) for letter in "ab")
    for n, wanted in ((20, 20), (32, 17)):
        teacher.shown = 0
        store = store_of(tmp_path, made, [one], n)
        assert teacher.shown == wanted * 18
    teacher.shown = 0
    store_of(tmp_path, made, [other], 32)
    assert teacher.shown == 32 * 2
    with pytest.raises(ValueError, match="does not have euler/2/aaaaaaaaaaaaaaaa/images"):
        store.samples("euler", 2)


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
    one, other = (euler(2, digest=letter * 64) for letter in "ab")
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        store_of(tmp_path, made, [one], 20).features(extractor, "euler", 2)
    stop = 0
    for n, sampler, wanted in ((20, one, [5]), (32, one, [15, 2]), (32, other, [15, 15, 2])):
        shown.clear()
        store = store_of(tmp_path, made, [sampler], n)
        values = store.features(extractor, "euler", 2)
        assert shown == wanted
        assert torch.equal(values, store.samples("euler", 2).double().flatten(1)[:, :3])
    shown.clear()
    for _ in range(2):
        values = store.distances(distance, "euler", 2)
        assert torch.equal(values, to_floats(store.samples("euler", 2)).double().flatten(1)[:, 0])
    assert shown == [15, 15, 2]


def test_images_in_memory_are_those_on_disk(teacher, tmp_path):
    made, options = comparison(teacher), {"seeds": range(20), "perceptual": [DISTANCE], "progress": False}
    options["extractors"] = [load_extractor("pixels")]
    one, other = (evaluate(made, [euler(2)], pictures(), out, **options) for out in (None, tmp_path))
    assert one.rows == other.rows
    assert torch.equal(one.store.samples("euler", 2), other.store.samples("euler", 2))


def test_samples_on_another_grid_are_others(teacher, tmp_path):
    made = comparison(teacher)
    for grid in (StepGrid(), StepGrid((0.0, 0.3, 1.0))):
        teacher.shown = 0
        store_of(tmp_path, made, [euler(2, grid=grid)], 15)
        assert teacher.shown == 15 * (18 if grid == StepGrid() else 2)


def test_samplers_that_follow_no_path(teacher, tmp_path):
    made, seen = comparison(teacher), []

    def draw(y, steps):
        seen.append(y)
        return y / y.abs().max() / steps

    other = Sampler("peer", "peer", (3,), draw=draw, evaluations=2)
    found = evaluate(made, [other], pictures(), tmp_path, seeds=range(8), perceptual=[DISTANCE], progress=False)
    row = found.rows[1]
    assert (row["method"], row["nfe"], row["pathwise_rmse"], row["depth"]) == ("peer", 6, None, None)
    assert row["measured"] == []
    assert row["seconds_per_1000"] > 0
    assert torch.equal(found.store.samples("peer", 3), to_uint8(draw(seen[0], 3)))
    reference = made.space.reference
    u = made.space.paths(8).initial_noise() * reference.clock(SNR[0]).sqrt()
    torch.testing.assert_close(seen[0], reference.from_reference(u.float(), SNR[0]))


def test_latents_are_decoded(teacher, tmp_path):
    def decode(latents):
        return latents.repeat(1, 3, 2, 2)

    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(pixels, pixel_digest(pixels), "decoded")
    made = comparison(teacher)
    found = evaluate(made, [euler(2)], data, tmp_path, seeds=range(4), decode=decode, progress=False)
    raw = SampleStore(made, [euler(2)], range(4))
    raw.make(progress=False)
    assert torch.equal(found.store.samples("euler", 2), to_uint8(decode(raw.samples("euler", 2))))
    assert found.rows[1]["pathwise_rmse"] == pytest.approx(root_mean_square(raw.errors("euler", 2))[0], rel=1e-5)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"seeds": range(1)}, "number of seeds must be >= 2; got 1"),
        ({"seeds": range(19), "extractors": [load_extractor("pixels")]}, "number of seeds must be >= 20; got 19"),
        ({"seeds": range(-1, 19)}, r"seeds must lie in \[0, 2\^63\); got -1"),
        ({"extractors": [COORDINATES]}, "extractors must take images, as the data are; coordinates does not"),
        ({"floor_groups": -1}, "floor_groups must be >= 0; got -1"),
        ({"samplers": [euler(33)]}, r"steps must be in \[1, 32\]; got 33"),
        ({"samplers": [other(None, steps=(0,))]}, "steps must be >= 1; got 0"),
        ({"samplers": [euler(2), euler(3)]}, "samplers must have different keys"),
        ({"samplers": [replace(other(None), key="converged-path")]}, "samplers must have different keys"),
        (
            {"samplers": [other(lambda y, steps: y[1:])]},
            r"other must draw samples of shape \(20, 1, 4, 4\); it drew \(19, 1, 4, 4\)",
        ),
        ({"samplers": [other(lambda y, steps: y * math.nan)]}, "samples must be finite"),
        ({"data": pictures(19), "extractors": [load_extractor("pixels")]}, "images in data must be >= 20; got 19"),
        ({"data": replace(pictures(), pixels=torch.zeros(5, 3, 4, 4))}, r"images must have shape \(1, 4, 4\), as the"),
    ],
)
def test_refusals(options, match, teacher, tmp_path):
    options = {"samplers": [euler(2)], "data": pictures(), "seeds": range(20), "progress": False} | options
    with pytest.raises(ValueError, match=match):
        evaluate(comparison(teacher, batch=20), out=tmp_path, **options)
    assert not (tmp_path / "report.json").exists()
