"""The configuration files of the digits experiment say what its runs do."""

import pytest
import tyro

from experiments.digits.setting import FOLDER, RUNS
from sdesig.commands.config_file import with_config
from sdesig.commands.distill import Distill
from sdesig.commands.options import checked
from sdesig.distillation import DistillOptions, TrainingOptions

CONFIGS = sorted((FOLDER / "configs").glob("*.json"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_is_the_run_of_its_name(file):
    run = RUNS[file.stem]
    command = tyro.cli(Distill, args=with_config(Distill, ["--config", str(file)]))
    paths = command.teacher_paths.cut_options(command.distillation.steps[1])
    training = checked(TrainingOptions, command.distillation.training)
    assert checked(DistillOptions, command.distillation, teacher=paths, training=training) == run.options
    assert (command.depth, command.cell, command.reference) == (run.depth, run.cell, run.reference)
    assert command.grid == ("even" if run.even else "chosen")


def test_all_full_runs_have_a_configuration():
    assert {file.stem for file in CONFIGS} == {name for name in RUNS if not name.startswith("short")}
