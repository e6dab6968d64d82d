"""What data and teacher decide, what has names, and what is kept in the folder of a run."""

import importlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import main
from images_problem import SHORT, make_pictures

from sdesig import digits
from sdesig.commands import options as shared
from sdesig.commands.distill import Distill
from sdesig.commands.evaluate import Evaluate
from sdesig.commands.inputs import shows_images
from sdesig.commands.main import parse
from sdesig.commands.options import SettingFlags
from sdesig.commands.teacher import Teacher
from sdesig.sampling import GaussianReference, StepGrid, choose_grid
from sdesig.sigdeg import MLP, SigDEG

CPU = torch.device("cpu")
TINY = ["--depth", "2", "--iterations", "2", "--evaluations", "16", "--pairs", "rollout", "--paths", "8", *SHORT]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def few_paths(monkeypatch):
    monkeypatch.setattr(shared, "choose_grid", partial(choose_grid, paths=8, cells=3, fine_per_cell=2))


# --- vectors or images -----------------------------------------------------------------------------------------------


def save(folder, **arrays):
    np.savez(folder / "file.npz", **arrays)
    return str(folder / "file.npz")


@pytest.mark.parametrize(
    "arrays, images",
    [
        ({"data": np.zeros((4, 2))}, False),
        ({"images": np.zeros((4, 1, 2, 2), np.float32), "other": np.zeros((4, 2, 2), np.uint8)}, False),
        ({"images": np.zeros((4, 2, 2), np.uint8)}, True),
        ({"x_train": np.zeros((4, 2, 2, 3), np.uint8), "labels": np.zeros(4, np.int64)}, True),
        ({"data": np.zeros((4, 2), np.uint8)}, False),
        ({"pixels": np.zeros((4, 2, 2))}, False),
    ],
)
def test_what_a_file_shows(arrays, images, tmp_path):
    assert shows_images("digits", save(tmp_path, **arrays)) is images


@pytest.mark.parametrize(
    "data, images",
    [("digits", False), ("hf:mnist:test", True), ("file.npz:x_train", True), ("nowhere", False), (".", True)],
)
def test_what_a_name_shows(data, images):
    assert shows_images("digits", data) is images


def test_what_a_teacher_shows(pictures, problem):
    """Without data, those of vectors have the digits."""
    for teacher, images in (("digits", False), (problem.teacher, False), (pictures.teacher, True), ("a/hub-id", True)):
        assert shows_images(str(teacher), None) is images
        assert SettingFlags(teacher=str(teacher)).has_data() is not images


@pytest.mark.parametrize("name", ["vectors", "images", "no data"])
def test_defaults_of_vectors_and_of_images(name, problem, pictures):
    flags = {"vectors": problem.flags, "images": pictures.flags, "no data": pictures.flags[:2]}[name]
    found = parse(Distill, flags)
    assert (
        found.distillation.evaluations,
        found.distillation.training.learning_rate,
        found.teacher_paths.teacher_steps,
    ) == ((2048, 1e-3, 512) if name == "vectors" else (256, 2e-4, 128))
    found = parse(Evaluate, flags)
    assert (found.steps, found.teacher_steps, found.extractor, found.setting.grid) == (
        ((4, 8, 16, 32), 0, (), "even") if name == "vectors" else ((5, 10, 20), 1000, ("pixels",), "chosen")
    )
    assert "path-average" in found.samplers if name == "vectors" else "unipc" in found.samplers
    if name != "no data":
        found = parse(Teacher, flags[2:])
        assert (found.training.iterations, found.batch, found.log_sigma) == (
            (5000, 256, (-0.5, 1.5)) if name == "vectors" else (20_000, 128, (-1.2, 1.2))
        )


def test_what_is_given_is_no_default(pictures, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"evaluations": 2048, "learning_rate": 0.1, "data": str(pictures.data)}))
    found = parse(Distill, ["--config", str(file), "--learning-rate", "0.5"])
    assert (found.distillation.evaluations, found.distillation.training.learning_rate) == (2048, 0.5)
    assert found.teacher_paths.teacher_steps == 128


def test_floats_may_have_the_shape_of_images(tmp_path, options):
    """They are used as they are, but for the kind of their reference and network."""
    values = np.random.default_rng(0).normal(size=(12, 1, 8, 8)).astype(np.float32)
    data = ["--data", save(tmp_path, images=values)]
    main(["teacher", *data, "--widths", "8", "--batch", "4", "--iterations", "1", "--out", str(tmp_path / "t")])
    teacher = ["--teacher", str(tmp_path / "t" / "teacher")]
    main(["distill", *data, *teacher, *TINY, "--out", str(tmp_path / "run")])
    assert options(tmp_path / "run")["reference"] == "dct"
    reference = SigDEG.load(tmp_path / "run" / "student").space.reference
    torch.testing.assert_close(reference.variance, GaussianReference.fit(torch.from_numpy(values), "dct").variance)


# --- names of what is shipped ----------------------------------------------------------------------------------------


def test_the_shipped_reference_and_grid_have_names():
    usual, named = SettingFlags().load(CPU), SettingFlags(reference="digits", grid="digits").load(CPU)
    assert usual.space == named.space == digits.path_space()
    assert usual.recorded["reference"] == "pca"
    assert named.recorded["reference"]["file"] == "digits"
    assert SettingFlags(reference="digits").load(CPU).space == usual.space


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_vectors_keep_reference_and_grid(problem, few_paths, tmp_path, monkeypatch):
    flags = SettingFlags(str(problem.data), teacher=str(problem.teacher))
    first = flags.load(CPU, tmp_path)
    assert {file.name.partition("-")[0] for file in tmp_path.iterdir()} == {"reference", "grid"}
    monkeypatch.setattr(shared, "choose_grid", None)
    monkeypatch.setattr(GaussianReference, "fit", None)
    assert flags.load(CPU, tmp_path).space == first.space
    assert first.space.grid != StepGrid()


def test_without_a_folder_nothing_is_kept(problem, few_paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = SettingFlags(str(problem.data), teacher=str(problem.teacher))
    assert flags.load(CPU).space == flags.load(CPU).space
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_cached_paths_serve_distillations(kind, problem, pictures, tmp_path, monkeypatch):
    flags, cache = {"vectors": problem, "images": pictures}[kind].flags, ["--teacher-cache", str(tmp_path / "paths")]
    main(["cache", *flags, "--paths", "8", *SHORT, "--out", str(tmp_path / "paths")])
    monkeypatch.setattr("sdesig.sigdeg.path_cache.draw_paths", None)
    main(["distill", *flags, *TINY, *cache, "--out", str(tmp_path / "run")])
    assert SigDEG.load(tmp_path / "run" / "student").depth == 2


def test_an_earlier_run_with_shared_paths_finds_the_cells_of_its_grid(problem, few_paths, tmp_path, monkeypatch):
    """They were in the folder of the run, not in that of the paths."""
    out, cache = tmp_path / "run", tmp_path / "paths"
    command = ["distill", *problem.flags, *TINY, "--grid", "chosen", "--out", str(out), "--teacher-cache", str(cache)]
    main(command)
    (cache / shared.GRID_CELLS).rename(out / shared.GRID_CELLS)
    for file in cache.glob("grid-*.json"):
        file.unlink()
    monkeypatch.setattr(importlib.import_module("sdesig.sampling.choose_grid"), "_measure", None)
    grid = SigDEG.load(out / "student").space.grid
    (out / "student" / "weights.safetensors").unlink()
    main(command)
    assert SigDEG.load(out / "student").space.grid == grid


def test_an_evaluation_of_vectors_draws_nothing_again(problem, tmp_path, monkeypatch):
    command = [
        "evaluate",
        problem.student("student"),
        *problem.flags,
        "--n",
        "4",
        "--steps",
        "2",
        "--out",
        str(tmp_path),
    ]
    main(command)
    report = (tmp_path / "report.json").read_text()
    monkeypatch.setattr(MLP, "compute", None)
    main(command)
    assert (tmp_path / "report.json").read_text() == report


# --- floors of images ------------------------------------------------------------------------------------------------


def test_the_floor_of_images(pictures, tmp_path, capsys):
    command = [
        "floor",
        *pictures.flags,
        "--steps",
        "2",
        "--depth",
        "1",
        "2",
        "--floor-groups",
        "8",
        "--snr",
        "0.01",
        "100",
    ]
    main([*command, "--teacher-steps", "16", "--out", str(tmp_path / "floor.json")])
    found = json.loads((tmp_path / "floor.json").read_text())
    one, two = (floor["rmse"] for floor in found["floors"])
    assert one > two > 0
    assert found["options"]["reference"] == {"kind": "dct", "n": 24, "of": "data"}
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["floor.json"]
