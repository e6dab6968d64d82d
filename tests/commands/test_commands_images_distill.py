"""`sdesig cache`, `distill` and `sample`: end to end, what they share, and what they refuse."""

import errno
import json
from functools import partial
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from command_lines import main
from images_problem import SHORT, make_diffusers_model, make_latent_model, make_pictures

from sdesig._random import generator_for
from sdesig.commands import options as shared
from sdesig.commands.inputs import load_teacher
from sdesig.images.diffusers_unet import DiffusersUNet
from sdesig.images.image_data import load_images
from sdesig.images.latent import load_autoencoder
from sdesig.sampling import GaussianReference, PathSpace, SNRDenoiser, StepGrid, TeacherOptions, choose_grid
from sdesig.sampling.teacher_paths import teacher_samples
from sdesig.sigdeg import DistillOptions, NetworkDenoiser, Samples, SigDEG, TrainingOptions, UNet, distill

STUDENT = ["--depth", "2", "--iterations", "2", "--evaluations", "8", *SHORT]
ROLLOUT = ["--pairs", "rollout", "--paths", "8"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Of the teacher's own samples."""
    monkeypatch.setattr("sdesig.sampling.teacher_paths.SAMPLE_STEPS", 8)


@pytest.fixture(scope="module")
def model(pictures):
    """Folder of a distilled generator."""
    out = pictures.data.parent / "run"
    main(["distill", *pictures.flags, *STUDENT, "--out", str(out)])
    return out / "student"


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- distill ---------------------------------------------------------------------------------------------------------


def test_distill_is_the_library_call(model, pictures, tmp_path, options):
    images = load_images(pictures.data)
    teacher = NetworkDenoiser.load(pictures.teacher)
    torch.manual_seed(0)
    reference = GaussianReference.fit(images.floats(), "dct")
    student = SigDEG.from_teacher(teacher, PathSpace((1, 8, 8), (0.01, 100.0), reference, depth=4), depth=2)
    training = TrainingOptions(iterations=2, learning_rate=2e-4)
    made = DistillOptions((2, 4), 8, teacher_options=TeacherOptions(steps=16, cells=8), training=training)
    wanted = distill(student, teacher, tmp_path, made, data=images, progress=False)
    assert same(SigDEG.load(model), wanted)
    found = options(model.parent)
    assert found["teacher"]["name"] == str(pictures.teacher)
    assert found["data"]["sha256"] == images.digest
    assert found["reference"] == {"kind": "dct", "n": 24, "of": "data"}
    assert (found["snr"], found["depth"], found["cell"]) == ([0.01, 100.0], 2, "solver")
    assert found["distillation"]["pairs"] == "local"


def test_rank_window_recompute_and_the_plain_cell(pictures, tmp_path, options):
    command = ["distill", *pictures.flags, *STUDENT, *ROLLOUT]
    main([*command, "--rank", "1", "--window", "1", "--recompute", "--out", str(tmp_path / "a")])
    found = options(tmp_path / "a")
    assert (found["rank"], found["distillation"]["window"], found["distillation"]["recompute"]) == (1, 1, True)
    assert SigDEG.load(tmp_path / "a" / "student").cell.denoiser.rank == 1
    main([*command, "--cell", "plain", "--reference", "none", "--out", str(tmp_path / "b")])
    assert SigDEG.load(tmp_path / "b" / "student").kind == "plain"


def test_without_data_it_is_rollouts_and_samples_of_the_teacher(pictures, tmp_path, options):
    command = ["distill", "--teacher", str(pictures.teacher), *STUDENT, "--paths", "8"]
    main([*command, "--reference-samples", "20", "--out", str(tmp_path / "run")])
    found = options(tmp_path / "run")
    assert found["distillation"]["pairs"] == "rollout"
    assert found["data"] is None
    assert found["reference"] == {"kind": "dct", "n": 20, "of": "the teacher"}
    teacher = NetworkDenoiser.load(pictures.teacher)
    samples = teacher_samples(teacher, PathSpace((1, 8, 8), (0.01, 100.0), GaussianReference(0.0, 0.0)), 20)
    wanted = GaussianReference.fit(samples, "dct")
    torch.testing.assert_close(SigDEG.load(tmp_path / "run" / "student").space.reference.variance, wanted.variance)


def test_samples_of_a_teacher_have_its_law(monkeypatch):
    """A denoiser of N(mu, c): 6 standard errors of 3000 samples, drawn 1000 at a time; 64 steps are exact to 1 %."""
    mu, c = 0.3, 0.5
    monkeypatch.setattr("sdesig.sampling.teacher_paths.SAMPLE_STEPS", 64)
    monkeypatch.setattr("sdesig.sampling.teacher_paths._NUMBERS", 2 * 64 * 2 * 1000)
    teacher = SNRDenoiser(lambda y, snr: (mu + c * y) / (1 + c * snr.item()))
    found = teacher_samples(teacher, PathSpace((2,), (0.01, 1e3), GaussianReference(0.0, 0.0)), 3000)
    assert found.shape == (3000, 2)
    assert (found.mean(0) - mu).abs().max() < 6 * (c / 3000) ** 0.5
    assert (found.var(0) / (c + 1e-3) - 1).abs().max() < 6 * (2 / 3000) ** 0.5 + 0.01
    assert (found[:1000] - found[1000:2000]).abs().min(0).values.max() > 0  # no batch twice


def test_a_reference_in_a_file(pictures, tmp_path, options, fails):
    reference = GaussianReference.fit(load_images(pictures.data).floats() * 0.5, "dct")
    reference.save(tmp_path / "r.safetensors")
    again = GaussianReference.load(tmp_path / "r.safetensors", (1, 8, 8))
    assert torch.equal(again.variance, reference.variance)
    assert all(map(torch.equal, again.basis, reference.basis))
    command = ["distill", *pictures.flags, *STUDENT, "--reference", str(tmp_path / "r.safetensors")]
    main([*command, "--out", str(tmp_path / "run")])
    found = SigDEG.load(tmp_path / "run" / "student").space.reference
    torch.testing.assert_close(found.variance, reference.variance)
    assert options(tmp_path / "run")["reference"]["file"] == str(tmp_path / "r.safetensors")
    GaussianReference(torch.zeros(3, 8, 8), 1.0).save(tmp_path / "r.safetensors")
    assert "mean must broadcast against an event of shape (1, 8, 8)" in fails(*command, "--out", tmp_path / "b")
    (tmp_path / "r.safetensors").write_text("no")
    assert "is not a complete safetensors file" in fails(*command, "--out", tmp_path / "b")


def test_a_model_of_diffusers(pictures, tmp_path, options, monkeypatch):
    """With its own range of SNR, which the default is cut to, and a grid that is chosen and kept."""
    monkeypatch.setattr(shared, "choose_grid", partial(choose_grid, cells=3, fine_per_cell=2))
    folder = make_diffusers_model(tmp_path / "model")
    command = ["distill", "--teacher", str(folder), "--data", str(pictures.data), "--depth", "1"]
    command += ["--iterations", "1", "--evaluations", "4", "--teacher-steps", "8", "--steps", "2", "4"]
    main([*command, "--out", str(tmp_path / "run")])
    teacher = load_teacher(str(folder)).denoiser
    low, high = options(tmp_path / "run")["snr"]
    assert low == pytest.approx(1 / 6400)
    assert high == pytest.approx(teacher.snr[1])
    assert high < 10_000
    made = SigDEG.load(tmp_path / "run" / "student")
    assert isinstance(made.cell.denoiser.network, DiffusersUNet)
    (file,) = (tmp_path / "run").glob("grid-*.json")
    assert StepGrid.load(file) == made.space.grid != StepGrid()


def test_what_was_chosen_is_kept(pictures, tmp_path, monkeypatch):
    """Grid and reference of a run that goes on are those that it began with, and not measured again."""
    monkeypatch.setattr(shared, "choose_grid", partial(choose_grid, cells=3, fine_per_cell=2))
    command = ["distill", "--teacher", str(pictures.teacher), *STUDENT, "--paths", "4", "--grid", "chosen"]
    command += ["--reference-samples", "4", "--out", str(tmp_path)]
    main(command)
    (tmp_path / "student" / "weights.safetensors").unlink()
    for name in ("choose_grid", "teacher_samples"):
        monkeypatch.setattr(shared, name, None)
    main(command)
    assert SigDEG.load(tmp_path / "student").space.grid != StepGrid()


def test_a_latent_model(tmp_path, options):
    """Latents of the images are what the student learns from, and what it draws; the picture shows images."""
    folder, data = make_latent_model(tmp_path / "model"), make_pictures(tmp_path / "p", channels=3, size=16).data
    teacher = ["--teacher", str(folder), "--decoder", str(folder), "--data", str(data)]
    main(["distill", *teacher, *STUDENT, "--out", str(tmp_path / "run")])
    made = SigDEG.load(tmp_path / "run" / "student")
    assert made.space.event == (4, 8, 8)
    decoder = options(tmp_path / "run")["decoder"]
    assert (decoder["name"], len(decoder["sha256"])) == (str(folder), 64)
    latents = load_autoencoder(folder).encode(load_images(data).floats(), generator_for("latents"))
    torch.testing.assert_close(made.space.reference.mean, latents.mean(0))
    out = ["--n", "1", "--steps", "2", "--out"]
    command = ["sample", str(tmp_path / "run" / "student"), *out]
    main([*command, str(tmp_path / "a.npz"), "--decoder", str(folder)])
    values = Samples.load(tmp_path / "a.npz").values
    assert values.shape == (1, 4, 8, 8)
    shown = matplotlib.image.imread(tmp_path / "a.png")[1:-1, 1:-1, :3].transpose(2, 0, 1)
    decoded = load_autoencoder(folder).decode(values)[0].clamp(-1, 1)
    magnified = decoded.repeat_interleave(2, 1).repeat_interleave(2, 2)  # 16 x 16 to 32 x 32
    assert np.abs(shown - (magnified.numpy() + 1) / 2).max() < 1 / 255
    main([*command, str(tmp_path / "b.npz")])
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    "given, message",
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--channels", "3"], "images must have shape (1, 8, 8), as the teacher"),
        (["--size", "4"], "images must have shape (1, 8, 8), as the teacher"),
        (["--teacher", "nowhere"], "teacher must be 'digits' or a folder with a denoiser; nowhere is not a folder"),
        (["--teacher", "digits"], "images must have shape (64,), as the teacher digits has"),
        (["--label", "1"], "label must be None for a denoiser without classes; got 1"),
        (["--decoder", "nowhere"], "nowhere is not a folder"),
        (["--snr", "2", "1"], "snr must be (first, last) with 0 < first < last; got (2.0, 1.0)"),
        (["--depth", "0"], "depth must be in [1, 4096]; got 0"),
        (["--rank", "0"], "rank must be >= 1; got 0"),
        (["--cell", "plain", "--rank", "2"], "rank must be None unless a solver cell"),
        (
            ["--grid", "nothing.json"],
            "grid must be 'chosen', 'karras', 'free', 'even' or a JSON file; nothing.json does not exist",
        ),
        (
            ["--reference", "nothing"],
            "reference must be one of none, scalar, coordinates, pca, dct, or a file; got 'nothing'",
        ),
        (["--iterations", "0"], "iterations must be in [1, 1073741824]; got 0"),
        (["--teacher-steps", "3"], "teacher_steps must be at least"),
        (["--pairs", "rollout", "--paths", "1000"], "paths must be a multiple of 512; got 1000"),
    ],
)
def test_distill_refuses(given, message, pictures, tmp_path, fails):
    command = ["distill", *pictures.flags, *STUDENT, "--out", tmp_path / "run"]
    if "--teacher-steps" in given:
        command = ["distill", *pictures.flags, "--out", tmp_path / "run"]
    assert message in fails(*command, *given)
    assert not (tmp_path / "run" / "student").exists()


def test_what_needs_data(pictures, tmp_path, fails):
    command = ["distill", "--teacher", pictures.teacher, *STUDENT, "--out", tmp_path / "run"]
    assert "data must be given for pairs 'both'" in fails(*command, "--pairs", "both")
    assert "reference_samples must be >= 2; got 1" in fails(*command, "--reference-samples", "1")


def test_what_needs_the_teachers_range_and_files(tmp_path, fails):
    folder = make_diffusers_model(tmp_path / "model")
    command = ["distill", "--teacher", folder, *STUDENT, "--out", tmp_path / "run"]
    own = "{:g} to {:g}".format(*load_teacher(str(folder)).denoiser.snr)
    assert f"snr must lie in the teacher's range, {own}; got (1e-06, 100.0)" in fails(*command, "--snr", "1e-6", "100")
    assert "got (0.01, 20000.0)" in fails(*command, "--snr", "0.01", "20000")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "is not a complete safetensors file" in fails(*command)


def test_out_of_memory_names_evaluations_and_depth(pictures, tmp_path, fails, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    command = ["distill", *pictures.flags, *STUDENT, "--out", tmp_path]
    monkeypatch.setattr(UNet, "compute", full)
    message = fails(*command)
    assert message == "out of memory with evaluations 8, depth 2, recompute False: choose less (CUDA out of memory.)"


# --- cache -----------------------------------------------------------------------------------------------------------


def test_cached_paths_serve_distillations(pictures, tmp_path, options, monkeypatch, fails):
    """Of several generators; none draws paths again."""
    paths = ["--paths", "8", *SHORT[: SHORT.index("--steps")], "--grid", "even", "--snr", "0.01", "100"]
    main(["cache", *pictures.flags, *paths, "--steps", "2", "4", "--out", str(tmp_path / "paths")])
    assert [file.name for file in (tmp_path / "paths").glob("paths-*")] == ["paths-00000.safetensors"]
    found = options(tmp_path / "paths")
    assert (found["depth"], found["steps"], found["cells"]) == (4, 16, 8)
    assert found["teacher"]["name"] == str(pictures.teacher)
    monkeypatch.setattr("sdesig.sigdeg.path_cache.draw_paths", None)
    command = ["distill", *pictures.flags, *STUDENT, *ROLLOUT, "--teacher-cache", str(tmp_path / "paths")]
    for depth in ("1", "2"):
        main([*command, "--depth", depth, "--out", str(tmp_path / depth)])
        assert SigDEG.load(tmp_path / depth / "student").depth == int(depth)
    message = fails(*command, "--reference", "scalar", "--out", tmp_path / "other")
    assert "has a run with other options (clock" in message
    assert "(seed: 0, now 1)" in fails(*command, "--seed", "1", "--out", tmp_path / "other")


def test_a_stopped_cache_goes_on(pictures, tmp_path, monkeypatch, fails):
    """By shards of two paths, of which the first is there."""
    monkeypatch.setattr("sdesig.sigdeg.path_cache.NUMBERS", 2 * 16 * 4 * 64)
    from sdesig.sigdeg import path_cache as cache

    draw, calls = cache.draw_paths, []

    def interrupted(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(cache, "draw_paths", interrupted)
    command = ["cache", *pictures.flags, *SHORT[:4], *SHORT[-5:], "--steps", "2", "4", "--paths", "4"]
    fails(*command, "--out", tmp_path, status=130)
    first = (tmp_path / "paths-00000.safetensors").read_bytes()
    main([*command, "--out", str(tmp_path)])
    assert len(calls) == 3
    assert (tmp_path / "paths-00000.safetensors").read_bytes() == first
    assert (tmp_path / "paths-00001.safetensors").exists()


def test_a_full_disk_while_caching(pictures, tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    command = ["cache", *pictures.flags, *SHORT[:4], *SHORT[-5:], "--steps", "2", "4", "--paths", "8"]
    with monkeypatch.context() as patch:
        patch.setattr("sdesig.sigdeg.path_cache.write_tensors", full)
        message = fails(*command, "--out", tmp_path)
    assert "disk full; complete files stay valid" in message
    assert str(tmp_path) in message
    main([*command, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "given, message",
    [
        (["--paths", "0"], "paths must be >= 1; got 0"),
        (["--seed", "-1"], "seed must be >= 0; got -1"),
        (["--steps", "2", "0"], "steps[1] must be >= 2; got 0"),
        (["--depth", "0"], "depth must be in [1, 4096]; got 0"),
        (["--teacher-scheme", "runge"], "scheme must be one of"),
        (["--channels", "3"], "images must have shape (1, 8, 8), as the teacher"),
    ],
)
def test_cache_refuses(given, message, pictures, tmp_path, fails):
    command = ["cache", *pictures.flags, *SHORT[:4], *SHORT[-5:], "--steps", "2", "4", "--paths", "8"]
    assert message in fails(*command, "--out", tmp_path, *given)
    assert not list(tmp_path.glob("paths-*"))


# --- sample ----------------------------------------------------------------------------------------------------------


def test_samples_are_the_librarys(model, tmp_path, capsys):
    out = tmp_path / "a.npz"
    command = ["sample", str(model), "--seeds", "7", "0:2", "--steps", "3", "--batch", "2"]
    main([*command, "--out", str(out)])
    found, wanted = Samples.load(out), SigDEG.load(model).sample([7, 0, 1], 3)
    torch.testing.assert_close(found.values, wanted.values)
    assert found.identity == wanted.identity
    assert matplotlib.image.imread(out.with_suffix(".png")).shape[:2] == (2 * 34, 2 * 34)
    options = json.loads(out.with_suffix(".json").read_text())
    assert (options["seeds"], options["steps"], options["model"]) == ([7, 0, 1], 3, str(model))
    assert "sdesig sample\n" in capsys.readouterr().out
    main(["sample", str(model), "--replay", str(out), "--out", str(tmp_path / "b.npz")])
    assert Samples.load(tmp_path / "b.npz").seeds == [7, 0, 1]


def test_sample_reads_a_config(model, tmp_path):
    (tmp_path / "c.json").write_text(
        json.dumps({"model": str(model), "steps": 2, "n": 3, "out": str(tmp_path / "a.npz")})
    )
    main(["sample", "--config", str(tmp_path / "c.json"), "--n", "2"])
    found = Samples.load(tmp_path / "a.npz")
    assert (found.seeds, found.steps) == ([0, 1], 2)


@pytest.mark.parametrize("suffix", [".npz", ".png", ".json"])
def test_files_are_not_overwritten(suffix, model, tmp_path, fails):
    """The options neither: their name may be that of the configuration."""
    file = (tmp_path / "a.npz").with_suffix(suffix)
    file.write_text("mine")
    command = ["sample", model, "--n", "1", "--out", tmp_path / "a.npz"]
    assert f"{file} exists already" in fails(*command)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "given, message",
    [
        (["--steps", "0"], "steps must be >= 1; got 0"),
        (["--seeds", "a"], "seeds must be numbers"),
        (["--batch", "0"], "batch must be >= 1; got 0"),
        (["--device", "nowhere"], "device must be one that torch can use here; got 'nowhere'"),
        (["--n", "1", "--decoder", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_sample_refuses(given, message, model, tmp_path, fails):
    assert message in fails("sample", model, "--out", tmp_path / "a.npz", *given)
    assert not list(Path(tmp_path).glob("*.png"))


def test_out_of_memory_names_the_batch(model, tmp_path, fails, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(UNet, "compute", full)
    assert "out of memory with batch 64: choose less" in fails("sample", model, "--out", tmp_path / "a.npz")


@pytest.mark.parametrize("grid, steps", [("karras", StepGrid.karras((0.01, 100.0))), ("free", StepGrid())])
def test_steps_behind_a_free_one(grid, steps, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "choose_grid", partial(choose_grid, cells=3, fine_per_cell=2))
    command = ["distill", *pictures.flags, *STUDENT, "--grid", grid, "--reference", "none"]
    main([*command, "--out", str(tmp_path)])
    space = SigDEG.load(tmp_path / "student").space
    assert space.grid.quantiles == steps.quantiles
    (file,) = tmp_path.glob("grid-*.json")
    assert StepGrid.load(file) == space.grid
