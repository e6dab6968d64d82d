"""Files that version 755c985 made still load, and mean what they meant: see made_earlier/README.md."""

import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import main

from sdesig import images
from sdesig.commands.distill import Distill
from sdesig.commands.main import parse
from sdesig.commands.teacher import Teacher
from sdesig.images.teachers import load_teacher
from sdesig.sampling import (
    GaussianReference,
    PathSpace,
    SNRDenoiser,
    StepGrid,
    TeacherOptions,
    choose_grid,
)
from sdesig.sde import Mixture
from sdesig.sigdeg import NetworkDenoiser, Samples, SigDEG
from sdesig.sigdeg.network_denoiser import ModelDenoiser
from sdesig.sigdeg.networks import NETWORKS
from sdesig.sigdeg.path_cache import PathCache

FOLDER = Path(__file__).parent / "made_earlier"
CONFIGS = json.loads((FOLDER / "configs.json").read_text())
LAW = Mixture.circle(1.5, 0.1, dtype=torch.float32)
SEEDS = [0, 1, 7, 3, 2**40]
SNR = (0.01, 100.0)
GENERATORS = {"solver": None, "plain": None, "correcting": SNRDenoiser(LAW.denoise_y), "rank": None, "older": None}
"""Their names, and the denoisers that they need."""
REPLAY = "sample generators/solver --replay samples/solver.npz --steps 4 --out again.npz"
SHORT = "--iterations 6 --evaluations 64 --warmup 1 --checkpoint-every 1 --steps 2 4 --teacher-steps 8 --snr 0.01 100"
VECTORS = f"distill --teacher teacher --data data.npz --depth 2 --grid grid.json {SHORT}"
IMAGES = "--teacher score-sde-teacher --data pictures.npz --size 4"
GRID = "--grid image-cache/grid-1e45c0a5f7831c26.json"
"""Grids are chosen otherwise since: a run goes on with the file of its own."""
RUNS = {
    "local": f"{VECTORS} --out local --ema 0",
    "rollout": f"{VECTORS} --out rollout --only-coefficients --reference scalar --pairs rollout --paths 16 "
    "--teacher-cells 8",
    "image-run": f"distill {IMAGES} --depth 2 --rank 1 --pairs both --paths 4 --teacher-cache image-cache "
    f"--teacher-cells 4 --out image-run {GRID} {SHORT}",
}
DONE = {"local": 1, "rollout": 3, "image-run": 4}
"""Iterations of the runs."""
CACHE = (
    f"cache {IMAGES} {GRID} --snr 0.01 100 --paths 4 --teacher-steps 8 --teacher-cells 4 --steps 1 4 --out image-cache"
)
EVALUATION = (
    "evaluate pipeline/generator --teacher image-teacher --data pictures.npz --samplers euler "
    "path-average --teacher-steps 0 --n 20 --floor-groups 4 --batch 12 --extractor pixels --out evaluation --steps"
)
ROUNDING = {"rtol": 1e-5, "atol": 1e-4}
"""Of float32 samples of size 10, on another processor."""


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A folder with the files, which is the working directory: names in files are relative to it."""
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load_generator(name):
    return SigDEG.load(Path("generators") / name, denoiser=GENERATORS[name])


def contents(folder, pattern="*"):
    """Bytes and times of files: those that are written again have other times."""
    files = [file for file in sorted(Path(folder).rglob(pattern)) if file.is_file()]
    assert files
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def never_asked(y, snr):
    raise AssertionError("the denoiser was asked")


# --- generators and samples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_makes_the_same_samples(name, earlier):
    generator, samples = load_generator(name), Samples.load(f"samples/{name}.npz")
    assert (samples.seeds, samples.steps) == (SEEDS, 4)
    assert generator.space.paths(SEEDS).identity == samples.identity
    torch.testing.assert_close(generator.sample(SEEDS, 4).values, samples.values, **ROUNDING)


def test_samples_are_replayed(earlier):
    main(REPLAY.split())
    one, again = Samples.load("samples/solver.npz"), Samples.load("again.npz")
    assert (one.identity, one.steps) == (again.identity, again.steps)
    torch.testing.assert_close(again.values, one.values, **ROUNDING)


# --- teachers --------------------------------------------------------------------------------------------------------


def test_a_denoiser_without_a_kind_is_ours(earlier):
    y = torch.from_numpy(np.load("data.npz")["data"])
    with torch.no_grad():
        one, other = (NetworkDenoiser.load(name)(y, torch.tensor(0.5)) for name in ("teacher", "older-teacher"))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "load", "size"),
    [
        ("diffusers", lambda: load_teacher("diffusers-model"), 8),
        ("diffusers", lambda: ModelDenoiser.load("diffusers-teacher"), 8),
        ("score_sde", lambda: ModelDenoiser.load("score-sde-teacher"), 4),
    ],
)
def test_a_denoiser_of_images_says_the_same(kind, load, size, earlier, request):
    if kind == "diffusers":
        request.getfixturevalue("diffusers")
    known = np.load("denoised.npz")
    with torch.no_grad():
        found = load()(torch.from_numpy(known["y"])[..., :size, :size], torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(found, torch.from_numpy(known[kind]), rtol=1e-5, atol=1e-5)


# --- distillations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_distillation_goes_on_to_its_end(name, earlier):
    """Near to the student of a run that was never stopped; iterations and paths of before are not made again.

    Not to the same one: students start with the correction of path-average since, and local pairs have another loss.
    """
    lines = Path(name, "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, DONE[name] + 1))
    paths = {"local": [], "rollout": ["rollout/paths"], "image-run": ["image-cache"]}[name]
    before = [contents(folder) for folder in paths]
    main(RUNS[name].split())
    assert [contents(folder) for folder in paths] == before
    assert Path(name, "stats.jsonl").read_text().splitlines()[: len(lines)] == lines
    found, wanted = (SigDEG.load(folder).state_dict() for folder in (f"{name}/student", f"finished/{name}"))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() < 0.01, name


def test_teacher_paths_are_not_drawn_again(earlier):
    before, student = contents("rollout/paths"), SigDEG.load("finished/rollout")
    recorded = json.loads(Path("rollout/options.json").read_text())
    cache = PathCache(
        Path("rollout/paths"),
        SNRDenoiser(never_asked),
        student.space,
        TeacherOptions(steps=8, cells=8),
        paths=16,
        recorded={name: recorded[name] for name in ("teacher", "data", "reference", "snr", "grid")},
    )
    paths = cache.draw(16, torch.Generator().manual_seed(0))
    assert contents("rollout/paths") == before
    assert paths.states.shape == (9, 16, 2)
    assert paths.signature.depth == 4


def test_paths_reference_and_grid_of_images_are_not_made_again(earlier):
    before = contents("image-cache")
    main(CACHE.split())
    assert contents("image-cache") == before


def test_a_reference_file(earlier):
    reference = GaussianReference.load("reference.safetensors", (1, 4, 4))
    assert torch.equal(reference.variance, torch.full((1, 4, 4), 0.25))
    (file,) = Path("image-cache").glob("reference-*.safetensors")
    assert [len(matrix) for matrix in GaussianReference.load(file, (1, 4, 4)).basis] == [1, 4, 4]


# --- grids -----------------------------------------------------------------------------------------------------------


def test_a_grid(earlier):
    assert StepGrid.load("grid.json").quantiles == (0.0, 0.3, 0.7, 1.0)


def test_a_choice_of_the_grid_that_was_stopped_is_made_anew(earlier):
    """It is measured otherwise since."""
    space = PathSpace((2,), SNR, GaussianReference(0.0, 1.2), depth=4)
    options = {"cells": 4, "fine_per_cell": 4, "paths": 32, "recorded": {"teacher": "circle"}, "progress": False}
    found, anew = (
        choose_grid(SNRDenoiser(LAW.denoise_y), space, kept=file, **options)
        for file in ("grid-cells.safetensors", "new.safetensors")
    )
    assert found == anew
    assert len(StepGrid.load("chosen-grid.json").quantiles) == len(found.quantiles)


# --- evaluations -----------------------------------------------------------------------------------------------------


def rows_of(folder):
    return json.loads(Path(folder, "report.json").read_text())


def check_rows(found, wanted):
    """Rows of reports: all that rows of before say is said again, equal but for rounding."""
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            if name == "measured":
                check_rows(row[name], value)
            else:
                assert row[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


def rows_but_ours(folder):
    """Rows of samplers that are what they were: path-average has a correction since."""
    return [row for row in rows_of(folder) if row["method"] != "path-average"]


def test_an_evaluation_draws_nothing_again_but_by_path_average(earlier):
    rows, floors = rows_but_ours("evaluation"), Path("evaluation/floors.json").read_text()
    main([*EVALUATION.split(), "4"])
    before = contents("evaluation", "*.safetensors")
    assert Path("evaluation/floors.json").read_text() == floors
    check_rows(rows_but_ours("evaluation"), rows)
    main([*EVALUATION.split(), "4"])
    assert contents("evaluation", "*.safetensors") == before


def test_an_evaluation_grows(earlier):
    """By another number of steps: rows of before stay as they are."""
    rows = rows_but_ours("evaluation")
    main([*EVALUATION.split(), "4", "2"])
    found = rows_but_ours("evaluation")
    assert [row["steps"] for row in found] == [32, 4, 2, 4, 2]
    check_rows([row for row in found if row["steps"] != 2], rows)


# --- configurations --------------------------------------------------------------------------------------------------


def command_of(words, options, folder):
    """What the command line makes of a file of options."""
    kind = Teacher if "teacher" in words else Distill
    file = folder / "config.json"
    file.write_text(json.dumps(options))
    return parse(kind, ["--config", str(file), *(["--teacher", "x"] if words == "images distill" else [])])


def meaning_of(command):
    """What a command would do."""
    if isinstance(command, Teacher):
        size = command.data.size
        return {
            "training": asdict(command.training),
            "batch": command.batch,
            "log_sigma": command.log_sigma,
            "flip": command.flip,
            "network": NETWORKS.config(command.make_network((command.data.channels, size, size))),
            "out": str(command.out),
        }
    paths = command.teacher_paths.cut_options(command.distillation.steps[1])
    return {
        "distillation": command.distillation.options(paths).described(),
        "depth": command.depth,
        "cell": command.cell,
        "reference": command.setting.reference,
        "grid": command.setting.grid,
        "snr": command.setting.snr,
        "out": str(command.out),
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_means_the_same(name, tmp_path, request):
    config = CONFIGS[name]
    if config["options"].get("network") == "unet2d":
        request.getfixturevalue("diffusers")
    meaning = meaning_of(command_of(config["command"], config["options"], tmp_path))
    assert json.loads(json.dumps(meaning)) == config["means"]


# --- diffusers -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("diffusers")
def test_a_scheduler(earlier):
    scheduler, known = images.PathAverageScheduler.from_pretrained("scheduler"), np.load("scheduler.npz")
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == pytest.approx(known["timesteps"].tolist())
    x = torch.from_numpy(known["start"])
    for t in scheduler.timesteps:
        x = scheduler.step(0.5 * x, t, x, generator=torch.Generator().manual_seed(1)).prev_sample
    torch.testing.assert_close(x, torch.from_numpy(known["end"]), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("diffusers")
def test_a_pipeline(earlier):
    pipeline = images.SigDEGPipeline.from_pretrained("pipeline")
    latents = pipeline(seeds=[3, 5], num_inference_steps=4, output_type="latent").images
    torch.testing.assert_close(latents, torch.from_numpy(np.load("pipeline.npz")["images"]), **ROUNDING)
