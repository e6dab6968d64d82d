"""The experiments on images in small: the files that they write, what is in them, and that they go on."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from experiments.celeba64 import setting as celeba64
from experiments.cifar10 import setting as cifar10
from experiments.image_study import table
from experiments.image_study.program import main
from experiments.mnist.setting import MNIST
from sdesig.evaluation import verdict
from sdesig.sampling import StepGrid, TeacherOptions
from sdesig.sigdeg import SigDEG, UNet


def tiny(study, size):
    """Two iterations of everything, with few fine steps."""

    def shorter(run):
        of_run = run.options.teacher_options
        teacher = TeacherOptions(of_run.scheme, of_run.cells, of_run.cells)
        training = replace(run.options.training, iterations=2)
        return replace(run, options=replace(run.options, evaluations=100, teacher_options=teacher, training=training))

    return replace(
        study,
        size=size,
        network=lambda: UNet(study.channels, size, widths=(8, 8), patch=2),
        teacher=replace(study.teacher, iterations=2),
        batch=4,
        committed=None,
        grid_paths=2,
        verdict=0,
        runs={name: shorter(run) for name, run in study.runs.items()},
        steps=(10, 100),
        teacher_steps=128,
    )


STUDY = tiny(MNIST, 8)
METHODS = 12
FEW = 3
"""Of them, that are not asked for 100 steps."""


class Features(torch.nn.Module):
    """Eight means of pixels."""

    def forward(self, images):
        return images.float().flatten(1).unflatten(1, (8, -1)).mean(2) / 255


class Distance(torch.nn.Module):
    """Mean square."""

    def forward(self, images, others):
        return (images - others).square().flatten(1).mean(1)


def script(module, file):
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        torch.jit.script(module).save(str(file))
    return str(file)


def shorten(patch):
    patch.setattr("experiments.image_study.study.CELLS", 2**8)
    patch.setattr("experiments.image_study.study.verdict", partial(verdict, truth_steps=32))
    patch.setattr("sdesig.evaluation.comparison.Comparison.seconds_per_1000", lambda *_: 1.0)
    patch.setattr("sdesig._intervals.RESAMPLES", 20)


@pytest.fixture(scope="module")
def run(diffusers, tmp_path_factory):
    """Folder of a whole run, and its arguments."""
    folder = tmp_path_factory.mktemp("mnist")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "mnist.npz", x_train=pixels, y_train=np.zeros(40))
    arguments = ["--data", f"{folder / 'mnist.npz'}:x_train", "--runs", str(folder / "runs")]
    arguments += ["--out", str(folder / "results"), "--seeds", "24"]
    arguments += ["--extractor", script(Features(), folder / "means.pt")]
    arguments += ["--perceptual", script(Distance(), folder / "square.pt")]
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        main("mnist", {"cpu": STUDY}, [*arguments, "--part", "teacher"])
        main("mnist", {"cpu": replace(STUDY, verdict=20 * 400)}, [*arguments, "--part", "depth-1"])
        assert (folder / "runs" / "depth-1" / "verdict.json").exists()
        made = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("student/*")}
        main("mnist", {"cpu": STUDY}, arguments)
        assert all(path.stat().st_mtime_ns == time for path, time in made.items())
        yield folder, arguments


def test_all_files_are_there(run):
    results = run[0] / "results"
    names = {file.name for file in results.iterdir()}
    assert names == {
        *("report.md", "report.json", "targets.json"),
        *("errors.png", "images-10.png", "images-100.png", "images-128.png"),
    }
    for name in names:
        if name.endswith(".png"):
            assert min(imread(results / name).shape[:2]) > 80


def test_what_was_measured_for_the_grid_is_kept(run):
    """So that a study that is killed meanwhile goes on from there."""
    kept = sorted(file.relative_to(run[0] / "runs") for file in (run[0] / "runs").rglob("*grid-cells.safetensors"))
    assert [str(file) for file in kept] == ["grid-cells.safetensors", "student-grid-cells.safetensors"]


def test_the_rows(run):
    rows = json.loads((run[0] / "results" / "report.json").read_text())
    assert len(rows) == 1 + 2 * METHODS - FEW + 1
    found = {(row["key"], row["steps"]): row for row in rows}
    assert (table.ANCESTRAL, 128) in found
    for name in ("unipc", "ddim"):
        assert found[name, 10]["pathwise_rmse"] is None
    for name in (table.TWO, *table.STUDENTS):
        assert found[name, 10]["pathwise_rmse"] > 0
        metrics = {number["metric"]: number for number in found[name, 10]["measured"]}
        assert metrics["FD-means"]["n"] == 24
        assert metrics["perceptual (square)"]["value"] > 0
    average = "path-average-grid"
    assert found[average, 100]["pathwise_rmse"] < found[average, 10]["pathwise_rmse"]
    square = {n["metric"]: n["value"] for n in found[average, 10]["measured"]}["perceptual (square)"]
    assert square == pytest.approx(found[average, 10]["pathwise_rmse"] ** 2, rel=0.2)  # images have 256 levels


def test_the_targets(run):
    targets = json.loads((run[0] / "results" / "targets.json").read_text())
    assert [line["passed"] for line in targets[:2]] == ["too few seeds"] * 2  # for Frechet distances
    assert [line["passed"] in ("yes", "no") for line in targets[2:]] == [True] * 2
    assert "nan" not in json.dumps(targets)
    assert "## Targets" in (run[0] / "results" / "report.md").read_text()


def test_the_text_is_that_of_the_numbers(run):
    """It is written anew from report.json and targets.json alone."""
    folder, arguments = run
    text = (folder / "results" / "report.md").read_text()
    assert "seeds apart" in text
    (folder / "results" / "report.md").unlink()
    main("mnist", {"cpu": STUDY}, [*arguments, "--part", "text", "--runs", str(folder / "none")])
    assert (folder / "results" / "report.md").read_text() == text
    assert not (folder / "none" / "teacher").exists()


def test_the_students_are_what_the_runs_say(run):
    for name, one in STUDY.runs.items():
        student = SigDEG.load(run[0] / "runs" / name / "student")
        assert (student.depth, student.kind) == (one.depth, one.cell)
        assert student.space.event == (1, 8, 8)
        referenced = one.cell != "plain" and STUDY.reference_of_students != "none"
        assert bool((student.space.reference.variance > 0).all()) == referenced
        assert (student.space.grid == StepGrid()) == (one.cell == "plain")


def test_data_are_required():
    with pytest.raises(SystemExit):
        main("mnist", {"cpu": STUDY}, [])


# --- CIFAR-10 and CelebA ---------------------------------------------------------------------------------------------


OTHERS = {
    f"{name}-{scale}": (name, scale, study)
    for name, setting in (("cifar10", cifar10), ("celeba64", celeba64))
    for scale, study in setting.STUDIES.items()
}


@pytest.mark.parametrize("name, scale, study", OTHERS.values(), ids=OTHERS)
def test_networks_fit_the_images(name, scale, study, request):
    """And their resumable state, four times the weights, is what was planned."""
    if scale == "gpu":
        request.getfixturevalue("diffusers")
    network = study.network()
    assert network.event == (study.channels, study.size, study.size)
    assert sum(p.numel() for p in network.parameters()) < (6e6 if scale == "gpu" else 2e6)


@pytest.mark.usefixtures("diffusers")
def test_a_study_at_another_scale(tmp_path, monkeypatch):
    """Its runs and results have folders of their own."""
    shorten(monkeypatch)
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", images=np.random.default_rng(0).integers(0, 256, (30, 10, 10, 3), dtype=np.uint8))
    arguments = ["--data", "images.npz", "--extractor", "pixels", "--seeds", "20", "--scale", "cpu", "--device", "cpu"]
    monkeypatch.setattr(table, "AIMED", (("depth-4", 10),))
    small = replace(tiny(celeba64.CPU, 8), steps=(10,), teacher_steps=32)
    main("experiments/celeba64", {"gpu": small, "cpu": small}, arguments)
    report = (tmp_path / "experiments" / "celeba64" / "results-cpu" / "report.md").read_text()
    assert report.startswith(f"# {small.title}\n\nWritten by `python -m experiments.celeba64 --scale cpu")
    assert (tmp_path / "runs" / "celeba64-cpu" / "depth-4" / "student").is_dir()


@pytest.mark.parametrize("study", [MNIST, cifar10.CPU, celeba64.CPU], ids=["mnist", "cifar10", "celeba64"])
def test_the_committed_teacher_is_taken_where_no_training_has_begun(study, tmp_path):
    images = None
    teacher = study.trained_teacher(images, tmp_path, torch.device("cpu"))
    assert teacher.event == (study.channels, study.size, study.size)
    assert teacher.network.config == study.network().config
    (tmp_path / "teacher").mkdir()
    with pytest.raises(AttributeError):  # it would be trained
        study.trained_teacher(images, tmp_path, torch.device("cpu"))


def test_a_committed_student_is_taken_where_no_training_has_begun(run, tmp_path):
    committed = tmp_path / "committed"
    shutil.copytree(run[0] / "runs" / "depth-2" / "student", committed / "students" / "depth-2")
    study = replace(STUDY, committed=committed)
    assert study.student_folder("depth-2", tmp_path) == committed / "students" / "depth-2"
    assert study.student_folder("depth-1", tmp_path) is None
    (tmp_path / "depth-2").mkdir()
    assert study.student_folder("depth-2", tmp_path) is None
