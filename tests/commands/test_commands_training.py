"""`sdesig teacher` and `sdesig distill`: what they train, what they record, --config, and what they refuse."""

import hashlib
import importlib
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import main

from sdesig._random import seeded
from sdesig.commands.distill import Distill
from sdesig.commands.inputs import Source, load_data, load_teacher
from sdesig.commands.main import options_of
from sdesig.commands.options import SNR, CutPathFlags, SettingFlags
from sdesig.digits import SNR as DIGITS_SNR
from sdesig.digits import load_digits
from sdesig.sampling import choose_grid
from sdesig.sigdeg import MLP, DistillOptions, NetworkDenoiser, SigDEG, TrainingOptions, UNet, train_teacher

TEACHER = ["--width", "16", "--blocks", "1", "--batch", "32", "--iterations", "6"]
STUDENT = ["--depth", "2", "--iterations", "4", "--evaluations", "64", "--teacher-steps", "64"]
STUDENT += ["--pairs", "rollout", "--paths", "32"]


def sha(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_train_teacher_is_the_library_call_and_leaves_global_state(tmp_path, problem, capsys, options):
    state = torch.get_rng_state()
    main(["teacher", "--data", str(problem.data), "--out", str(tmp_path / "a"), *TEACHER, "--seed", "3"])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    values = torch.from_numpy(np.load(problem.data)["data"].astype(np.float32))
    training = TrainingOptions(iterations=6, seed=3)
    network = MLP(2, width=16, blocks=1)
    made = train_teacher(network, values, tmp_path / "b", training, batch=32, log_sigma=(-0.5, 1.5), progress=False)
    assert same(NetworkDenoiser.load(tmp_path / "a" / "teacher"), made)
    found = options(tmp_path / "a")
    assert found["data"] == {"name": str(problem.data), "sha256": sha(problem.data)}
    assert found["network"]["width"] == 16
    assert found["log_sigma"] == [-0.5, 1.5]
    assert found["training"]["iterations"] == 6
    shown = capsys.readouterr().out
    assert '"width": 16' in shown
    assert sha(problem.data) in shown
    assert shown.endswith(f"-> {tmp_path / 'a' / 'teacher'}\n")


def test_train_teacher_starts_like_the_shipped_one(tmp_path):
    main(["teacher", "--out", str(tmp_path / "a"), "--iterations", "2", "--threads", "1"])
    torch.manual_seed(0)
    network, options = MLP(64, width=224, blocks=3), TrainingOptions(iterations=2)
    made = train_teacher(
        network, load_digits()[0], tmp_path / "b", options, batch=256, log_sigma=(-0.5, 1.5), progress=False
    )
    assert same(NetworkDenoiser.load(tmp_path / "a" / "teacher"), made)


def test_train_teacher_on_images(tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (6, 3, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images)
    out, data = str(tmp_path / "run"), str(tmp_path / "images.npz")
    main(["teacher", "--data", data, "--out", out, "--widths", "8", "16", "--batch", "2", "--iterations", "1"])
    network = NetworkDenoiser.load(tmp_path / "run" / "teacher").network
    assert isinstance(network, UNet)
    assert network.event == (3, 4, 4)
    assert network.widths == (8, 16)


def test_distill_end_to_end(tmp_path, problem, capsys, options):
    out = tmp_path / "run"
    main(["distill", *problem.flags, *STUDENT, "--out", str(out), "--grid", str(problem.folder / "grid.json")])
    student = SigDEG.load(out / "student")
    assert (student.depth, student.space.snr, student.space.grid.quantiles) == (2, SNR, (0.0, 0.7, 1.0))
    found = options(out)
    weights = problem.teacher / "weights.safetensors"
    assert found["teacher"] == {"name": str(problem.teacher), "sha256": sha(weights)}
    assert found["data"] == {"name": str(problem.data), "sha256": sha(problem.data)}
    assert (found["reference"], found["cell"], found["depth"]) == ("pca", "solver", 2)
    assert (found["snr"], found["grid"]) == (list(SNR), [0.0, 0.7, 1.0])
    assert found["distillation"]["teacher"] == {"scheme": "path_average", "steps": 64, "cells": 64}
    assert found["training"]["iterations"] == 4
    shown = capsys.readouterr().out
    assert "cell: solver" in shown
    assert '"evaluations": 64' in shown


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, problem, monkeypatch, fails):
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return clip(*arguments)

    command = ["distill", *problem.flags, *STUDENT, "--checkpoint-every", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
        message = fails(*command, "--out", tmp_path / "a", status=130)
        assert message == (
            f"interrupted; all iterations that were completed are kept in {tmp_path / 'a'}: the same command goes on "
            "from there"
        )
    assert not (tmp_path / "a" / "student").exists()
    main([*command, "--out", str(tmp_path / "a")])
    main([*command, "--out", str(tmp_path / "b")])
    assert same(SigDEG.load(tmp_path / "a" / "student"), SigDEG.load(tmp_path / "b" / "student"))


def test_a_run_goes_on_with_more_iterations_and_another_spelling_of_its_data(tmp_path, problem, monkeypatch, options):
    """Neither data nor teacher are others, and the grid that was chosen is not measured again."""
    out = tmp_path / "run"
    flags = [*STUDENT[:2], *STUDENT[4:], "--grid", "chosen", "--out", str(out)]
    monkeypatch.chdir(tmp_path)
    other = [os.path.relpath(value) if Path(value).exists() else value for value in problem.flags]
    assert other != [*problem.flags]
    small = partial(choose_grid, paths=8, cells=3, fine_per_cell=2)
    monkeypatch.setattr("sdesig.commands.options.choose_grid", small)
    main(["distill", *problem.flags, *flags, "--iterations", "2"])
    monkeypatch.setattr(importlib.import_module("sdesig.sampling.choose_grid"), "_measure", None)
    main(["distill", *other, *flags, "--iterations", "4"])
    assert options(out)["training"]["iterations"] == 4
    lines = (out / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [2, 4]


def test_flags_of_the_papers_teacher(tmp_path, problem, options):
    command = ["distill", *problem.flags, *STUDENT, "--out", str(tmp_path), "--snr", "0.01", "100", "--paths", "0"]
    main([*command, "--only-coefficients", "--teacher-scheme", "euler", "--teacher-steps", "1000", "--steps", "4", "8"])
    found = options(tmp_path)["distillation"]
    assert found["teacher"] == {"scheme": "euler", "steps": 1000, "cells": 50}
    assert (found["only_coefficients"], found["steps"]) == (True, [4, 8])
    change = SigDEG.load(tmp_path / "student").get_parameter("cell.denoiser.change.0")
    assert not change.any()


def test_local_pairs_of_a_plain_cell(tmp_path, problem, options):
    command = ["distill", *problem.flags, *STUDENT, "--out", str(tmp_path), "--cell", "plain", "--pairs", "local"]
    main([*command, "--reference", "none", "--teacher-cells", "32"])
    assert options(tmp_path)["cell"] == "plain"
    assert options(tmp_path)["distillation"]["teacher"]["cells"] == 32
    assert not (tmp_path / "paths").exists()


@pytest.mark.parametrize(
    "steps, most, cells", [(256, 32, 64), (1000, 32, 50), (100, 32, 50), (64, 64, 64), (256, 128, 128), (257, 8, 257)]
)
def test_default_cells_divide_the_steps(steps, most, cells):
    assert CutPathFlags(teacher_steps=steps).cut_options(most).cells == cells


def test_default_range_is_the_teachers():
    teacher, source = load_teacher("digits").denoiser, Source(*load_data("digits"))
    assert SettingFlags().range(teacher, source) == DIGITS_SNR
    assert SettingFlags(teacher="folder").range(teacher, source) == SNR == (1 / 6400, 1 / 0.05**2)
    assert SettingFlags(teacher="folder").range(teacher, None) == (1 / 6400, 1 / 0.01**2)  # of images
    assert SettingFlags(snr=(1.0, 2.0)).range(teacher, source) == (1.0, 2.0)


def test_seeded_is_torchs_seed():
    with seeded(5):
        one = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(one, torch.rand(3))


def test_config_gives_defaults_that_flags_override(tmp_path, problem, options):
    file = tmp_path / "config.json"
    given = {
        "iterations": 2,
        "learning-rate": 0.01,
        "only_coefficients": True,
        "steps": [4, 8],
        "paths": 0,
        "depth": 1,
        "evaluations": 16,
        "snr": [0.01, 100],
        "teacher": str(problem.teacher),
        "data": str(problem.data),
        "teacher-cache": None,
        "teacher-steps": 16,
    }
    file.write_text(json.dumps(given))
    main(["distill", "--config", str(file), "--out", str(tmp_path / "a")])
    found = options(tmp_path / "a")
    assert (found["training"]["iterations"], found["training"]["learning_rate"]) == (2, 0.01)
    assert (found["depth"], found["snr"], found["distillation"]["steps"]) == (1, [0.01, 100], [4, 8])
    assert found["distillation"]["only_coefficients"] is True
    flags = ["--out", str(tmp_path / "b"), "--iterations", "1", "--no-only-coefficients", "--snr", "0.1", "10"]
    main(["distill", *flags, f"--config={file}"])
    found = options(tmp_path / "b")
    assert (found["training"]["iterations"], found["training"]["learning_rate"]) == (1, 0.01)
    assert (found["depth"], found["snr"]) == (1, [0.1, 10])
    assert found["distillation"]["only_coefficients"] is False


def test_config_of_other_commands(tmp_path, problem, options):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"width": 8, "blocks": 1, "batch": 4, "iterations": 1, "data": str(problem.data)}))
    main(["teacher", "--config", str(file), "--out", str(tmp_path / "a"), "--batch", "5"])
    assert (options(tmp_path / "a")["network"]["width"], options(tmp_path / "a")["batch"]) == (8, 5)


def test_options_of_the_library_are_all_options():
    named = {option.name for option in options_of(Distill)}
    wanted = {*DistillOptions.__dataclass_fields__, *TrainingOptions.__dataclass_fields__}
    assert wanted - {"teacher", "teacher_options", "training"} < named
    assert {"teacher_scheme", "teacher_steps", "teacher_cells"} < named
    assert "scheme" not in named


@pytest.mark.parametrize("command", ["teacher", "distill", "evaluate"])
def test_config_refuses_unknown_names(command, tmp_path, fails):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"iteratoins": 2}))
    message = fails(command, "--config", file)
    assert message.startswith(f"{file}: 'iteratoins' is not an option; the options are ")
    assert "data" in message
    assert "config," not in message


@pytest.mark.parametrize(
    "content, message", [("[1]", "must hold a JSON object"), ("{", "is not JSON"), (None, "No such file")]
)
def test_config_refuses_files(content, message, tmp_path, fails):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    found = fails("distill", "--config", file)
    assert message in found
    assert str(file) in found


def test_config_values_are_checked_by_the_parser(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"iterations": "many"}))
    with pytest.raises(SystemExit) as stop:
        main(["distill", "--config", str(file)])
    assert stop.value.code == 2
    assert "many" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--teacher-scheme", "runge"], "scheme must be one of 'path_average', 'euler', 'dpm_solver_2m'; got 'runge'"),
        (["--teacher-steps", "10"], "teacher_steps must be at least 32, the most coarse steps; got 10"),
        (["--teacher-steps", "100", "--teacher-cells", "64"], "steps must be a multiple of cells, 64; got 100"),
        (["--steps", "8", "4"], "steps[1] must be in [8, 64]; got 4"),
        (["--iterations", "0"], "iterations must be in [1, 1073741824]; got 0"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number > 0 and <= 1000; got nan"),
        (["--depth", "0"], "depth must be in [1, 4096]; got 0"),
        (["--snr", "2", "1"], "snr must be (first, last) with 0 < first < last; got (2.0, 1.0)"),
        (["--threads", "0"], "threads must be >= 1; got 0"),
        (["--cell", "plain", "--only-coefficients"], "only_coefficients must be False with a plain cell"),
        (["--pairs", "rollout", "--paths", "1000"], "paths must be a multiple of 512; got 1000"),
        (["--device", "nowhere"], "device must be one that torch can use here; got 'nowhere'"),
        (
            ["--grid", "nothing.json"],
            "grid must be 'chosen', 'karras', 'free', 'even' or a JSON file; nothing.json does not exist",
        ),
        (["--teacher", "nowhere"], "teacher must be 'digits' or a folder with a denoiser; nowhere is not a folder"),
        (["--teacher", "digits"], "data must have the shape of the teacher's, (64,);"),
    ],
)
def test_distill_refuses(flags, message, tmp_path, problem, fails):
    assert message in fails("distill", *problem.flags, "--out", tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "student").exists()


def test_a_folder_with_another_run_is_refused(tmp_path, problem, fails):
    command = ["distill", *problem.flags, *STUDENT, "--grid", "even", "--paths", "0", "--out", str(tmp_path)]
    main(command)
    assert "(depth: 2, now 3)" in fails(*command, "--depth", "3")
    assert "(cell: 'solver', now 'plain')" in fails(*command, "--cell", "plain")
    assert "(reference: 'pca', now 'scalar')" in fails(*command, "--reference", "scalar")


def test_divergence_is_one_line(tmp_path, problem, fails):
    command = ["teacher", "--data", problem.data, "--out", tmp_path, *TEACHER]
    message = fails(*command, "--learning-rate", "1e3", "--warmup", "0", "--iterations", "50")
    assert message.startswith("loss ")
    assert "lower the learning rate" in message


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--log-sigma", "0", "1", "--batch", "0"], "batch must be in [1, 1073741824]; got 0"),
        (["--width", "0"], "width must be >= 1; got 0"),
        (["--ema", "1"], "ema must be in [0, 1); got 1.0"),
        (["--flip"], "flip must be False for vectors"),
        (["--network", "unet2d"], "network must be left out for vectors, which have an MLP; got unet2d"),
    ],
)
def test_train_teacher_refuses(flags, message, tmp_path, problem, fails):
    assert message in fails("teacher", "--data", problem.data, "--out", tmp_path, *flags)
