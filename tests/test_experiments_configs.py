"""The configuration files of the experiments say what their runs do."""

from pathlib import Path

import pytest
import tyro

from experiments.digits import setting as digits
from experiments.image_study.study import SNR
from experiments.mnist import setting as mnist
from sdesig.commands.config_file import with_config
from sdesig.commands.distill import Distill
from sdesig.commands.images.distill import DistillImages
from sdesig.commands.images.train_teacher import TrainImageTeacher
from sdesig.commands.options import checked
from sdesig.distillation import DistillOptions, TrainingOptions


def configs(setting):
    return sorted((Path(setting.__file__).parent / "configs").glob("*.json"))


DIGITS = configs(digits)
STUDENTS = [file for file in configs(mnist) if file.stem != "teacher"]


def command_of(kind, file, *arguments):
    return tyro.cli(kind, args=with_config(kind, ["--config", str(file), *arguments]))


def distillation(command):
    paths = command.teacher_paths.cut_options(command.distillation.steps[1])
    training = checked(TrainingOptions, command.distillation.training)
    return checked(DistillOptions, command.distillation, teacher=paths, training=training)


@pytest.mark.parametrize("file", DIGITS, ids=lambda file: file.stem)
def test_a_configuration_for_digits_is_the_run_of_its_name(file):
    run, command = digits.RUNS[file.stem], command_of(Distill, file)
    assert distillation(command) == run.options
    assert (command.depth, command.cell, command.reference) == (run.depth, run.cell, run.reference)
    assert command.grid == ("even" if run.even else "chosen")


@pytest.mark.parametrize("file", STUDENTS, ids=lambda file: file.stem)
def test_a_configuration_for_mnist_is_the_run_of_its_name(file):
    run, command = mnist.MNIST.runs[file.stem], command_of(DistillImages, file, "--teacher", "x")
    assert distillation(command) == run.options
    assert (command.depth, command.cell) == (run.depth, run.cell)
    assert command.setting.snr == pytest.approx(SNR)
    expected = ("even", "none") if run.cell == "plain" else ("chosen", "dct")
    assert (command.setting.grid, command.setting.reference) == expected
    assert (command.images.channels, command.images.size) == (1, 28)


def test_the_configuration_of_the_mnist_teacher():
    command = command_of(TrainImageTeacher, Path(mnist.__file__).parent / "configs" / "teacher.json")
    network = mnist.MNIST.network()
    assert checked(TrainingOptions, command.training) == mnist.MNIST.teacher
    assert (command.network, command.widths, command.patch) == ("unet", network.widths, network.patch)
    assert (command.batch, command.log_sigma) == (mnist.MNIST.batch, mnist.MNIST.log_sigma)
    assert (command.images.channels, command.images.size, command.flip) == (1, 28, False)


def test_all_full_runs_have_a_configuration():
    assert {file.stem for file in DIGITS} == {name for name in digits.RUNS if not name.startswith("short")}
    assert {file.stem for file in STUDENTS} == {*mnist.MNIST.runs}
