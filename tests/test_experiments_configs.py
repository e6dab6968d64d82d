"""The configuration files of the experiments say what their runs do."""

from pathlib import Path

import pytest

from experiments.celeba64 import setting as celeba64
from experiments.cifar10 import setting as cifar10
from experiments.digits import setting as digits
from experiments.image_study.study import SNR
from experiments.mnist import setting as mnist
from sdesig.commands.distill import Distill
from sdesig.commands.main import parse
from sdesig.commands.teacher import Teacher
from sdesig.sigdeg.networks import NETWORKS

DIGITS = sorted((Path(digits.__file__).parent / "configs").glob("*.json"))
EXPERIMENTS = Path(mnist.__file__).parents[1]
IMAGES = {"mnist": mnist.MNIST, "cifar10": cifar10.GPU, "celeba64": celeba64.GPU}


def command_of(kind, file, *arguments):
    return parse(kind, ["--config", str(file), *arguments])


def distillation(command):
    paths = command.teacher_paths.cut_options(command.distillation.steps[1])
    return command.distillation.options(paths)


@pytest.mark.parametrize("file", DIGITS, ids=lambda file: file.stem)
def test_a_configuration_for_digits_is_the_run_of_its_name(file):
    run, command = digits.RUNS[file.stem], command_of(Distill, file)
    assert distillation(command) == run.options
    assert (command.depth, command.cell, command.setting.reference) == (run.depth, run.cell, run.reference)
    assert command.setting.grid == ("even" if run.even else "chosen")


@pytest.mark.parametrize(("name", "run"), [(name, run) for name, study in IMAGES.items() for run in study.runs])
def test_a_configuration_for_images_is_the_run_of_its_name(name, run):
    study, file = IMAGES[name], EXPERIMENTS / name / "configs" / f"{run}.json"
    planned, command = study.runs[run], command_of(Distill, file, "--teacher", "x")
    assert distillation(command) == planned.options
    assert (command.depth, command.cell) == (planned.depth, planned.cell)
    assert command.setting.snr == pytest.approx(SNR)
    reference = "none" if planned.cell == "plain" else study.reference_of_students
    grid = "even" if planned.cell == "plain" else "karras" if reference == "none" else "free"
    assert (command.setting.grid, command.setting.reference) == (grid, reference)
    assert (command.setting.channels, command.setting.size) == (study.channels, study.size)


@pytest.mark.parametrize("name", IMAGES)
def test_the_configuration_of_a_teacher_of_images(name, request):
    study, command = IMAGES[name], command_of(Teacher, EXPERIMENTS / name / "configs" / "teacher.json")
    if command.network == "unet2d":
        request.getfixturevalue("diffusers")
    assert command.training == study.teacher
    made = command.make_network((study.channels, study.size, study.size))
    assert NETWORKS.config(made) == NETWORKS.config(study.network())
    assert (command.batch, command.log_sigma) == (study.batch, study.log_sigma)
    assert (command.data.channels, command.data.size, command.flip) == (study.channels, study.size, study.flip)


def test_all_full_runs_have_a_configuration():
    assert {file.stem for file in DIGITS} == {name for name in digits.RUNS if not name.startswith("short")}
    for name, study in IMAGES.items():
        assert {file.stem for file in (EXPERIMENTS / name / "configs").iterdir()} == {"teacher", *study.runs}
