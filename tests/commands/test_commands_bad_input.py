"""Bad input costs nothing: it is refused before anything is written or computed, and the corrected command works."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import main
from torch.distributed.run import get_args_parser

from sdesig.commands.main import COMMANDS, FILE_ONLY, RENAMED, options_of, parse
from sdesig.sigdeg import Samples

HUGE = str(10**30)
COMMAND_LINE = Path(__file__).parents[2] / "docs/command_line.md"


def small(command, problem, out):
    """A command that works, in a second."""
    return {
        "teacher": [
            *("teacher", "--data", problem.data, "--width", "8", "--blocks", "1", "--batch", "8"),
            *("--iterations", "2", "--out", out),
        ],
        "distill": [
            *("distill", *problem.flags, "--iterations", "2", "--evaluations", "8", "--steps", "4", "8"),
            *("--teacher-steps", "16", "--grid", "even", "--out", out),
        ],
        "evaluate": ["evaluate", *problem.flags, "--n", "2", "--steps", "2", "--snr", "0.01", "100", "--out", out],
    }[command]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize(
    "command, flags, message",
    [
        ("teacher", "--log-sigma nan 1", "log_sigma[0] must be a finite number; got nan"),
        ("teacher", "--log-sigma 0 -1", "log_sigma[1] must be a finite number >= 0; got -1.0"),
        ("teacher", "--log-sigma 1000 1", "log_sigma must be (mean, std) with |mean| + 8 std <= 40"),
        ("teacher", "--learning-rate 1e300", "learning_rate must be a finite number > 0 and <= 1000; got 1e+300"),
        ("teacher", "--weight-decay 1e300", "weight_decay must be at most 1/learning_rate; got 1e+300"),
        ("teacher", f"--parts {HUGE}", "parts must be in [1, 1073741824]"),
        ("teacher", f"--iterations {HUGE}", "iterations must be in [1, 1073741824]"),
        ("teacher", f"--batch {HUGE}", "batch must be in [1, 1073741824]"),
        ("distill", f"--evaluations {HUGE}", "evaluations must be in [8, 1073741824]"),
        ("distill", f"--paths {HUGE} --pairs rollout", "paths must be in [0, 1073741824]"),
        ("distill", f"--teacher-steps {HUGE}", "teacher_steps must be in [1, 1048576]"),
        ("distill", "--snr 1 1.0000000000000002", "(1 + 1e-06) first <= last <= 1e+15; got (1.0, 1.0000000000000002)"),
        ("distill", "--depth 0 --grid chosen", "depth must be in [1, 4096]; got 0"),
        ("distill", "--snr 1e-300 1e300", "snr must be (first, last) with 1e-15 <= first"),
        ("evaluate", "--steps 0", "steps must be >= 1; got 0"),
        ("evaluate", "--steps 4 2000", "steps must be in [1, 1280]; got 2000"),
        ("evaluate", "--steps", "steps must be one number or more; got none"),
        ("evaluate", "--snr 1 1.0000000000000002", "snr must be (first, last)"),
        ("evaluate", "--n 10000000000000", "n must be in [2, 10000000]; got 10000000000000"),
        ("evaluate", f"--first-seed {2**63 - 1}", "first_seed must be in [0, "),
        ("evaluate", "--floor-groups 1", "floor_groups must be 0 or >= 2; got 1"),
    ],
)
def test_a_refused_command_leaves_nothing(command, flags, message, tmp_path, problem, fails):
    assert message in fails(*small(command, problem, tmp_path / "run"), *flags.split())
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", ["teacher", "distill", "evaluate"])
@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_data_whose_squares_are_no_numbers_are_refused(command, scale, tmp_path, problem, fails):
    np.savez(tmp_path / "data.npz", data=scale * np.random.default_rng(0).normal(size=(20, 2)))
    message = fails(*small(command, problem, tmp_path / "run"), "--data", tmp_path / "data.npz")
    assert message.startswith(f"{tmp_path / 'data.npz'}: data must have no value beyond 1e+09 and a standard deviation")
    assert files(tmp_path) == ["data.npz"]


def test_options_of_a_run_that_failed_before_its_first_result_bind_no_other(tmp_path, problem, fails):
    """Training diverges; an evaluation, and the paths of a teacher, die of what nobody could know before."""
    command = small("teacher", problem, tmp_path / "teacher")
    assert fails(*command, "--learning-rate", "1e3", "--warmup", "0", "--iterations", "50").startswith("loss ")
    assert files(tmp_path / "teacher") == ["options.json"]
    main(list(map(str, command)))
    assert "has a run with other options" in fails(*command, "--seed", "1")


def test_a_run_of_other_options_is_found_before_paths_are_drawn(tmp_path, problem, fails):
    command = small("distill", problem, tmp_path / "run")
    main(list(map(str, command)))
    paths = ["--pairs", "rollout", "--paths", "4", "--teacher-cache", tmp_path / "paths"]
    assert "has a run with other options" in fails(*command, *paths)
    assert not list((tmp_path / "paths").glob("paths-*"))


def test_options_of_a_run_of_another_kind_stay(tmp_path, problem, fails, options):
    """An evaluation has other results than a training: that there are none of them says nothing of the training."""
    main(list(map(str, small("teacher", problem, tmp_path))))
    before = options(tmp_path)
    assert "out must not have another kind of run" in fails(*small("evaluate", problem, tmp_path))
    assert options(tmp_path) == before


@pytest.mark.parametrize(
    "command, name, call",
    [
        ("evaluate", "sdesig.commands.evaluate.evaluate", ["--n", "3"]),
        ("distill", "sdesig.sigdeg.path_cache.draw_paths", ["--teacher-steps", "32"]),
    ],
)
def test_the_corrected_command_works(command, name, call, tmp_path, problem, fails, monkeypatch):
    flags = [
        *small(command, problem, tmp_path / "run"),
        *(["--pairs", "rollout", "--paths", "8"] * (command[0] == "d")),
    ]

    def fail(*arguments, **options):
        raise FloatingPointError("the state is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(name, fail)
        assert fails(*flags, *call) == "the state is not finite"
    main(list(map(str, flags)))
    if command == "evaluate":  # which may grow
        main([*flags, *call])
    else:
        assert "has a run with other options" in fails(*flags, *call)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--n", "10000000000000"], "n must be in [1, 10000000]; got 10000000000000"),
        (["--seeds", "0:10000000000000"], "number of seeds must be in [1, 10000000]; got 10000000000000"),
        (["--seeds", f"0:{HUGE}"], f"number of seeds must be in [1, 10000000]; got {HUGE}"),
        (["--seeds", "0:9999999", "5", "7"], "number of seeds must be in [1, 10000000]; got 10000001"),
        (["--steps", "0"], "steps must be >= 1; got 0"),
        (["--steps", "65"], "steps must be in [1, 64]; got 65"),
    ],
)
def test_samples_are_refused_before_anything_is_written(flags, message, tmp_path, problem, fails):
    arguments = ["sample", problem.student("student"), "--out", tmp_path / "s.npz", *flags]
    assert fails(*arguments) == message
    assert files(tmp_path) == []


def test_count_is_n(tmp_path, problem):
    for name in ("--n", "--count"):
        main(["sample", problem.student("student"), "--out", str(tmp_path / f"{name}.npz"), name, "3"])
    one, other = (Samples.load(tmp_path / f"{name}.npz") for name in ("--n", "--count"))
    assert torch.equal(one.values, other.values)
    assert len(one.values) == 3


def test_a_folder_under_another_name_is_no_other_generator(problem, tmp_path, fails):
    folder = Path(problem.student("student"))
    flags = [*problem.flags, "--out", tmp_path, "--steps", "4"]
    assert "models must be different folders" in fails("evaluate", folder, folder / ".." / folder.name, *flags)


# --- torchrun --------------------------------------------------------------------------------------------------------


def flag_names(command):
    """Without the dashes in front."""
    named = [option for option in options_of(command) if not option.positional and option.name not in FILE_ONLY]
    return [option.name.replace("_", "-") for option in named]


def under_torchrun(*arguments):
    """What of a command line torchrun hands on."""
    return get_args_parser().parse_args(["--nproc-per-node", "2", "-m", "sdesig", *arguments]).training_script_args


def test_torchrun_claims_no_option_but_n():
    """It reads all options to abbreviations of its own, those of the module too; --n has another name."""
    claimed = set()
    for name, command in COMMANDS.items():
        for option in flag_names(command):
            for flag in (f"--{option}", f"--no-{option}", f"--{option.replace('-', '_')}"):
                try:
                    assert under_torchrun(name, flag, "1") == [name, flag, "1"]
                except SystemExit:
                    claimed.add(flag)
    assert claimed == {"--n"}
    assert under_torchrun("sample", "--count", "1") == ["sample", "--count", "1"]


def test_documented_commands_run_as_written_under_torchrun():
    """Every one of the command line's page is what torchrun and the command's own parser take."""
    lines = re.findall(r"^torchrun (--.* -m sdesig .*)$", COMMAND_LINE.read_text(), re.M)
    assert lines
    for line in lines:
        words = [word for word in shlex.split(line) if word != "..."]
        handed_on = get_args_parser().parse_args(words).training_script_args
        assert handed_on == words[words.index("sdesig") + 1 :]
        flags = {word.removeprefix("--") for word in handed_on if word.startswith("--")}
        assert flags <= {*flag_names(COMMANDS[handed_on[0]]), "count"}
        assert "n" not in flags


# --- configuration files ---------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path):
    """Writes a --config file, and parses a command with it."""

    def parsed(command, config, *arguments):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return parse(COMMANDS[command], [*arguments, "--config", str(tmp_path / "config.json")])

    return parsed


def test_values_of_a_file_are_values(given):
    command = given("evaluate", {"models": ["--out", "X", "--n=3", "-h", "--"], "teacher": "--data", "n": 7})
    assert command.models == ("--out", "X", "--n=3", "-h", "--")
    assert (command.setting.teacher, command.setting.data, command.n) == ("--data", None, 7)
    assert command.out == Path("runs/evaluate")
    command = given("evaluate", {"models": ["--out", "X"]}, "Y")
    assert command.models == ("Y",)
    command = given("distill", {"teacher": "--label", "data": "-1", "out": "--no-recompute"})
    assert (command.setting.teacher, command.setting.data, command.out) == ("--label", "-1", Path("--no-recompute"))
    command = given("sample", {"model": "-m", "force": False, "n": 2})
    assert (command.model, command.force, command.n) == ("-m", False, 2)
    command = given("evaluate", {"samplers": []})
    assert command.samplers == ()
    command = given("teacher", {"log_sigma": [-1, "-2.5"]})
    assert command.log_sigma == (-1.0, -2.5)


@pytest.mark.parametrize("flag", [True, False])
def test_switches_of_a_file(flag, given):
    given_as = {"recompute": flag, "only-coefficients": flag}
    assert given("distill", given_as).distillation.recompute is flag
    assert given("distill", given_as, "--no-recompute", "--only-coefficients").distillation.recompute is False
    assert given("sample", {"model": "m", "force": flag}).force is flag
    assert given("teacher", {"compile": flag}).compile is flag


@pytest.mark.parametrize(
    "command, name, now",
    [
        ("evaluate", "baselines", "samplers, a list of keys, empty for none"),
        ("distill", "cache", "teacher_cache, of a teacher's paths, or image_cache, of decoded images"),
        ("floor", "groups", "floor_groups"),
        ("cache", "most-steps", "steps, the fewest and the most"),
        ("distill", "reference_file", "reference, a kind or a file"),
    ],
)
def test_an_earlier_name_is_told_what_it_is_now(command, name, now, tmp_path, fails):
    (tmp_path / "config.json").write_text(json.dumps({name: 1}))
    message = fails(command, "--config", tmp_path / "config.json")
    assert message == f"{tmp_path / 'config.json'}: {name!r} is not an option; now it is {now}"


def test_all_earlier_names_have_gone():
    names = {option.name for command in COMMANDS.values() for option in options_of(command)}
    assert not RENAMED.keys() & names


@pytest.mark.parametrize(
    "command, config, message",
    [
        ("distill", {"iterations": True}, "iterations must not be true or false"),
        ("distill", {"recompute": "yes"}, "recompute must be true or false"),
    ],
)
def test_switches_are_no_values(command, config, message, tmp_path, fails):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert fails(command, "--config", tmp_path / "config.json") == f"{tmp_path / 'config.json'}: {message}"


@pytest.mark.parametrize("flags", [["--warmup", "3"], ["--warmup=3"]])
def test_an_option_that_only_files_have_says_so(flags):
    with pytest.raises(ValueError, match=r"warmup has no flag; give it in a JSON file, --config FILE"):
        parse(COMMANDS["distill"], flags)


@pytest.mark.parametrize("flags", [["--out", ""], ["--out="], ["--reference", "pca", "--out", "", "--seed", "1"]])
def test_an_empty_value_is_none(flags):
    """Such as that of a variable of the shell that is not set: an empty path is the folder that one is in."""
    with pytest.raises(ValueError, match="out must not be empty"):
        parse(COMMANDS["distill"], flags)
    with pytest.raises(ValueError, match="an argument must not be empty"):
        parse(COMMANDS["sample"], [""])


@pytest.mark.parametrize("value", ["", [""], ["a", ""]])
def test_an_empty_value_of_a_file_is_none(value, tmp_path, fails):
    (tmp_path / "config.json").write_text(json.dumps({"models": value}))
    assert fails("evaluate", "--config", tmp_path / "config.json").endswith("config.json: models must not be empty")


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [{"a": 1}], [["--out"]]])
def test_values_that_no_option_has_are_refused(value, tmp_path, fails):
    (tmp_path / "config.json").write_text(json.dumps({"models": value}))
    message = fails("evaluate", "--config", tmp_path / "config.json")
    assert message.startswith(f"{tmp_path / 'config.json'}: models must be a string, a number, true, false, null or ")
