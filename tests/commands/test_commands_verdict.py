"""What a person sees of `sdesig distill`: the verdict at its end, and the presets with their estimate."""

import json
import re
from importlib import util
from pathlib import Path

import pytest
import torch
from command_lines import main

from sdesig.commands.inputs import load_teacher
from sdesig.commands.options import CutPathFlags, DistillFlags
from sdesig.commands.presets import PRESETS, SIZES, Preset, size_of, with_preset
from sdesig.evaluation import Comparison, read_json, verdict
from sdesig.images.peers import peers
from sdesig.sigdeg import SigDEG, TrainingOptions

ROOT = Path(__file__).parents[2]
STUDENT = ["--depth", "2", "--iterations", "4", "--evaluations", "64", "--teacher-steps", "64", "--grid", "even"]
STUDENT += ["--steps", "4", "8"]


@pytest.fixture
def no_diffusers(monkeypatch):
    """As where the extra `images` is not installed."""
    find = util.find_spec
    monkeypatch.setattr("sdesig.commands.distill.find_spec", lambda name: None if name == "diffusers" else find(name))


@pytest.fixture
def command(problem, tmp_path):
    return ["distill", *problem.flags, *STUDENT, "--out", str(tmp_path / "run")]


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_it_is_that_of_the_library(command, problem, tmp_path, capsys, diffusers):
    """At those of 4, 8 and 16 steps that were trained; written and printed."""
    main([*command, "--verdict-seeds", "25"])
    teacher, student = load_teacher(str(problem.teacher)).denoiser, SigDEG.load(tmp_path / "run" / "student")
    unipc = peers(teacher, student.space, (4, 8))["unipc"]
    wanted = verdict(student, teacher, steps=(4, 8), seeds=range(10**6, 10**6 + 25), samplers=[unipc], progress=False)
    assert read_json(tmp_path / "run" / "verdict.json") == json.loads(json.dumps(vars(wanted)))
    assert {row["key"] for row in wanted.rows} >= {"untrained", "student", "sde-dpm++2m", "unipc"}
    shown = capsys.readouterr().out
    assert f"verdict: 25 seeds, {wanted.evaluations} evaluations of the network" in shown
    assert shown.endswith(f"{wanted.text}\n-> {tmp_path / 'run' / 'verdict.json'}\n")


def test_its_cost_is_bounded_by_the_trainings(command, tmp_path, no_diffusers):
    """4 iterations take about 4 * 64 * 13 evaluations, which are 10 seeds; there are 20 at least."""
    main(command)
    found = read_json(tmp_path / "run" / "verdict.json")
    assert (found["n"], found["evaluations"]) == (20, 20 * (2 * 128 + 3 * (4 + 8)))
    assert found["left_out"] == ["UniPC, as diffusers is not installed"]


def test_a_run_that_is_killed_in_its_verdict_loses_nothing(command, tmp_path, monkeypatch, fails, no_diffusers):
    """The next call trains no more, draws what is missing, and makes it."""
    kept, calls = Comparison.follow, []

    def follow(self, pairs, seeds):
        calls.append([sampler.key for sampler, _ in pairs])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return kept(self, pairs, seeds)

    monkeypatch.setattr(Comparison, "follow", follow)
    message = fails(*command, status=130)
    folder = tmp_path / "run"
    assert (
        message
        == f"interrupted; the student is kept in {folder / 'student'}: the same command goes on with its verdict"
    )
    assert not (folder / "verdict.json").exists()
    weights = (folder / "student" / "weights.safetensors").read_bytes()
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    main(command)
    assert (folder / "student" / "weights.safetensors").read_bytes() == weights
    assert len(calls) == 3  # not those of the other seeds
    first = (folder / "verdict.json").read_bytes()
    main(command)
    assert len(calls) == 3
    assert (folder / "verdict.json").read_bytes() == first


def test_a_longer_run_has_another_verdict(command, tmp_path, no_diffusers):
    command += ["--verdict-seeds", "21"]
    main(command)
    first = read_json(tmp_path / "run" / "verdict.json")
    main([*command, "--iterations", "8"])
    second = read_json(tmp_path / "run" / "verdict.json")
    assert first["student"] != second["student"]
    one, two = ([row for row in found["rows"] if row["key"] == "untrained"] for found in (first, second))
    assert one == two


def test_without_one(command, tmp_path, capsys):
    main([*command, "--verdict-seeds", "0"])
    assert not (tmp_path / "run" / "verdict.json").exists()
    assert capsys.readouterr().out.endswith(f"-> {tmp_path / 'run' / 'student'}\n")


def test_seeds_that_are_none(command, fails):
    assert fails(*command, "--verdict-seeds", "1") == "verdict_seeds must be in [2, 10000000]; got 1"


def test_steps_beside_4_8_and_16(command, tmp_path, no_diffusers):
    """Of a run for other numbers, the fewest and the most."""
    main([*command, "--steps", "20", "30"])
    assert {row["steps"] for row in read_json(tmp_path / "run" / "verdict.json")["rows"][1:]} == {20, 30}


# --- presets ---------------------------------------------------------------------------------------------------------


def test_a_preset_sets_what_is_not_given(problem, tmp_path, options, capsys):
    out = tmp_path / "run"
    command = ["distill", *problem.flags, "--preset", "quick", "--grid", "even", "--out", str(out)]
    command += ["--iterations", "3", "--evaluations", "64", "--verdict-seeds", "0"]
    main(command)
    found, wanted = options(out), PRESETS["quick"]["small"]
    assert found["distillation"]["steps"] == list(wanted.steps)
    assert found["distillation"]["teacher"]["steps"] == wanted.teacher_steps
    assert found["distillation"]["evaluations"] == 64
    assert found["training"]["iterations"] == 3
    shown = capsys.readouterr().out
    (said,) = re.findall(r"^here that takes .*$", shown, re.M)
    assert re.fullmatch(
        r"here that takes about \d+ seconds of training \([\d.e-]+ s an iteration\), about \d+ seconds of the "
        r"network's after it for the verdict; finding this out took [\d.]+ s",
        said,
    )
    main(command)
    assert "here that takes" not in capsys.readouterr().out  # there is a checkpoint


def test_what_is_given_like_the_default_is_given(problem, tmp_path, options):
    """By a flag and in a file."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"preset": "quick", "teacher-steps": 512, "evaluations": 64, "iterations": 1}))
    command = ["distill", *problem.flags, "--config", str(file), "--steps", "4", "32", "--grid", "even"]
    main([*command, "--verdict-seeds", "0", "--out", str(tmp_path / "run")])
    found = options(tmp_path / "run")["distillation"]
    assert (found["teacher"]["steps"], found["steps"]) == (512, [4, 32])


def test_paths_on_disk_are_in_the_estimate(problem, tmp_path, capsys):
    command = ["distill", *problem.flags, "--preset", "quick", "--grid", "even", "--out", str(tmp_path / "run")]
    command += ["--pairs", "rollout", "--paths", "32", "--iterations", "2", "--evaluations", "64"]
    main([*command, "--verdict-seeds", "0"])
    assert re.search(r"an iteration\), \d+ seconds before it for the teacher's paths, about", capsys.readouterr().out)


@pytest.mark.parametrize("parameters, size", [(1, "small"), (10**6, "small"), (10**6 + 1, "medium"), (10**8, "large")])
def test_sizes(parameters, size):
    assert size_of(parameters) == size
    flags, paths = with_preset("full", parameters, (), DistillFlags(), CutPathFlags())
    wanted = PRESETS["full"][size]
    assert Preset(flags.training.iterations, flags.evaluations, flags.steps, paths.teacher_steps) == wanted
    flags.options(paths.cut_options(flags.steps[1]))


def test_the_full_preset_of_small_networks_is_the_default():
    flags, paths = DistillFlags(), CutPathFlags()
    values = Preset(flags.training.iterations, flags.evaluations, flags.steps, paths.teacher_steps)
    assert PRESETS["full"]["small"] == values


def test_warm_ups_scale_with_presets():
    found = {TrainingOptions(iterations=preset.iterations).warmup_iterations for preset in PRESETS["quick"].values()}
    assert found == {40, 20, 10}


def test_the_page_has_the_presets():
    text = (ROOT / "docs" / "command_line.md").read_text()
    for name, sizes in PRESETS.items():
        cells = [
            f"{p.iterations} x {p.evaluations}, {p.steps[0]} to {p.steps[1]}, {p.teacher_steps}" for p in sizes.values()
        ]
        assert f"| `{name}` | {' | '.join(cells)} |" in text
    assert [f"{most / 1e6:g} million" in text for most in SIZES.values()] == [True, True]
